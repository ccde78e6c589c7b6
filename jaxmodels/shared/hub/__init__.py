"""Folders of models as the Hugging Face Hub has them: `config.json` and weights, both ways."""
