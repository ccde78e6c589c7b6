"""Byte-level BPE of the `tokenizers` library (Radford et al. 2019), as all tokenizers here need it.

>>> library = train_byte_level(["to be or not to be"], 258)
>>> library.get_vocab_size()
258
"""

from collections.abc import Iterable
from typing import Any

_MIN_PAIR_COUNT = 2  # a pair that occurs once would make a token of one place in the text


def train_byte_level(
    texts: Iterable[str],
    vocabulary_size: int,
    *,
    special_tokens: Iterable[str] = (),
    add_prefix_space: bool = False,
    normalizer: Any = None,
) -> Any:
    """The library's tokenizer of the most frequent pairs; the same texts give the same one.

    The special tokens have the first ids, then come the 256 bytes, then the merges: at most
    `vocabulary_size` in all, fewer where the texts have no more pairs.
    """
    tokenizers = import_tokenizers()
    library = byte_level(tokenizers.models.BPE(), add_prefix_space=add_prefix_space)
    if normalizer is not None:
        library.normalizer = normalizer
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=_MIN_PAIR_COUNT,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(special_tokens),
        show_progress=False,
    )
    library.train_from_iterator(texts, trainer)
    return library


def byte_level(model: Any, *, add_prefix_space: bool = False) -> Any:
    """The library's tokenizer of a BPE model that splits words as GPT-2 does."""
    tokenizers = import_tokenizers()
    library = tokenizers.Tokenizer(model)
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    library.decoder = tokenizers.decoders.ByteLevel()
    return library


def import_tokenizers() -> Any:
    """The library; a ValueError names the extra that installs it."""
    try:
        import tokenizers
    except ImportError as error:
        raise ValueError(
            "sub-word tokens need the tokenizers library; pip install 'jaxmodels[text]' installs it"
        ) from error
    return tokenizers
