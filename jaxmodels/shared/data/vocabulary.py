"""From a review as it was written to words, and from words to ids.

>>> split = word_splitter(lowercase=True, remove_stop_words=False, stem="none")
>>> split("An <i>A-list</i> cast;<br />it&#39;s not bad 👍")
['an', 'a', 'list', 'cast', "it's", 'not', 'bad', '👍']
"""

import functools
import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

PADDING_ID = 0
UNKNOWN_ID = 1
NUM_SPECIAL_IDS = 2

Stem = Literal["none", "snowball"]

# A tag starts with a letter, so that "<3" and "a < b" stay text.
_TAG = re.compile(r"<(?:/?[a-zA-Z]|!--)[^<>]*>")
# Letters and digits with apostrophes inside, or one pictograph: an emoji is an opinion too.
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*|[\u2600-\u27BF\U0001F300-\U0001FAFF]")
# Stop-word lists hold these, but "not good" must not become "good".
_NEGATIONS = {
    *("cannot", "cant", "couldnt", "hasnt", "neither", "never", "no", "nobody", "none", "noone"),
    *("nor", "not", "nothing", "nowhere", "without"),
}


def word_splitter(
    *, lowercase: bool, remove_stop_words: bool, stem: Stem
) -> Callable[[str], list[str]]:
    """-> a function from a text to its cleaned words; HTML tags and entities are gone.

    Stop words are scikit-learn's English ones, but for the negations. Stems are Snowball's English
    ones (Porter 2001). What becomes of a word is worked out once and remembered.

    Raises:
        ValueError: the library for stop words or stems is not installed.
    """
    stop_words = _english_stop_words() if remove_stop_words else frozenset()
    stem_word = _snowball_stemmer() if stem == "snowball" else None

    @functools.cache
    def clean(word: str) -> str | None:
        if word.lower() in stop_words:
            return None
        if lowercase:
            word = word.lower()
        return stem_word(word) if stem_word else word

    def split(text: str) -> list[str]:
        text = without_markup(text)
        if not text.isascii():
            # One code point for an accented letter, and one apostrophe.
            text = unicodedata.normalize("NFC", text).replace(
                "\N{RIGHT SINGLE QUOTATION MARK}", "'"
            )
        return [cleaned for word in _WORD.findall(text) if (cleaned := clean(word)) is not None]

    return split


def without_markup(text: str) -> str:
    """The text with a space for each HTML tag, and characters for entities."""
    if "&" in text:
        text = html.unescape(text)  # before the tags: some copies have &lt;br /&gt;
    return _TAG.sub(" ", text)


@dataclass(frozen=True)
class Vocabulary:
    """The known words. Id 0 is padding, 1 an unknown word, and `words[i]` has the id i + 2."""

    words: tuple[str, ...]

    def __len__(self) -> int:
        """The number of ids: the rows of an embedding table."""
        return len(self.words) + NUM_SPECIAL_IDS

    def encode(self, words: Sequence[str]) -> np.ndarray:
        """T words -> (T,) int32 ids."""
        ids = self._ids
        return np.fromiter((ids.get(word, UNKNOWN_ID) for word in words), np.int32, len(words))

    def to_json(self) -> list[str]:
        """The words in the order of their ids, for `json.dump`."""
        return list(self.words)

    @classmethod
    def from_json(cls, content: Any, *, where: str = "vocabulary") -> "Vocabulary":
        """What `to_json` gave, perhaps by way of a file, which `where` names.

        Raises:
            ValueError: it is no list of distinct words.
        """
        if not isinstance(content, list):
            raise ValueError(f"{where} is {type(content).__name__}; expected a list of words")
        seen: set[str] = set()
        for row, word in enumerate(content):
            if not isinstance(word, str) or not word:
                raise ValueError(f"{where} row {row}: {word!r} is no word; expected a string")
            if word in seen:
                raise ValueError(f"{where} row {row}: {word!r} stands there twice; expected once")
            seen.add(word)
        return cls(tuple(content))

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {word: id for id, word in enumerate(self.words, start=NUM_SPECIAL_IDS)}


def build_vocabulary(
    token_lists: Iterable[Sequence[str]], *, min_frequency: int, max_size: int
) -> Vocabulary:
    """The words that occur at least `min_frequency` times: the frequent first, ties by alphabet.

    `max_size` bounds the number of ids, so it counts padding and unknown. Nothing may be left.
    """
    counts: Counter[str] = Counter()
    for tokens in token_lists:
        counts.update(tokens)
    frequent = [word for word, count in counts.items() if count >= min_frequency]
    frequent.sort(key=lambda word: (-counts[word], word))
    return Vocabulary(tuple(frequent[: max_size - NUM_SPECIAL_IDS]))


def _english_stop_words() -> frozenset[str]:
    try:
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
    except ImportError as error:
        raise ValueError(
            "data.remove_stop_words needs scikit-learn; pip install 'jaxmodels[text]' installs it"
        ) from error
    return frozenset(ENGLISH_STOP_WORDS) - _NEGATIONS


def _snowball_stemmer() -> Callable[[str], str]:
    try:
        import snowballstemmer
    except ImportError as error:
        raise ValueError(
            "data.stem snowball needs snowballstemmer; pip install 'jaxmodels[text]' installs it"
        ) from error
    return snowballstemmer.stemmer("english").stemWord
