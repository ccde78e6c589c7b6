"""Tokenizers, decoding, and what is written and measured with them."""
