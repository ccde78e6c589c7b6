"""Text to token ids and back: characters, or byte-level BPE (Radford et al. 2019).

>>> tokenizer = CharacterTokenizer.train("to be or not to be")
>>> tokenizer.decode(tokenizer.encode("not to be"))
'not to be'
"""

import codecs
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxmodels.shared.text.byte_pairs import byte_level, import_tokenizers, train_byte_level

CHARACTERS_FILE = "characters.json"
BPE_FILE = "tokenizer.json"  # also what transformers reads
GPT2_FILES = ("vocab.json", "merges.txt")  # of a byte-level BPE, as GPT-2 was published
_NUM_BYTES = 256


class Tokenizer(Protocol):
    """What both tokenizers do. The ids are 0 .. vocabulary_size - 1."""

    @property
    def vocabulary_size(self) -> int: ...

    def encode(self, text: str) -> np.ndarray:
        """-> (N,) int32. Raises a ValueError where a character is unknown."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes of one token; a token of BPE may end within a character."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of any ids; bytes that make no character become U+FFFD."""
        ...

    def file(self) -> tuple[str, str]:
        """The name and the content of the file that `load_tokenizer` reads."""
        ...


class CharacterTokenizer:
    """One token a character (a Unicode code point), in the order of their code points."""

    def __init__(self, characters: str) -> None:
        _check_unicode(characters)
        if not characters or list(characters) != sorted(set(characters)):
            raise ValueError(
                f"characters {characters[:20]!r} must be sorted, distinct and at least one; "
                f"make them with CharacterTokenizer.train"
            )
        self._characters = characters
        self._code_points = _code_points(characters)  # (V,)

    @classmethod
    def train(cls, text: str) -> "CharacterTokenizer":
        """The characters of `text`."""
        return cls("".join(sorted(set(text))))

    @property
    def vocabulary_size(self) -> int:
        return len(self._characters)

    def encode(self, text: str) -> np.ndarray:
        """-> (N,) int32, N the number of characters.

        Raises:
            ValueError: a character is unknown; it, its position and the known ones are named.
        """
        wanted = _code_points(text)  # (N,)
        ids = np.searchsorted(self._code_points, wanted).astype(np.int32)
        known = self._code_points[np.minimum(ids, self.vocabulary_size - 1)] == wanted
        if not known.all():
            position = int(np.argmin(known))
            character = text[position]
            raise ValueError(
                f"character {character!r} (U+{ord(character):04X}) at position {position} is "
                f"unknown; the {self.vocabulary_size} known are {self._characters!r:.200}; leave "
                f"it out, or train with --data.tokenizer bpe, which knows every character"
            )
        return ids

    def token_bytes(self, token: int) -> bytes:
        _check_ids([token], self.vocabulary_size)
        return self._characters[token].encode()

    def decode(self, ids: Iterable[int]) -> str:
        ids = list(ids)
        _check_ids(ids, self.vocabulary_size)
        return "".join(self._characters[index] for index in ids)

    def file(self) -> tuple[str, str]:
        return CHARACTERS_FILE, json.dumps({"characters": self._characters}) + "\n"


class ByteBPETokenizer:
    """Byte-pair encoding of UTF-8 bytes, by the `tokenizers` library; no character is unknown.

    Words are split as in GPT-2, and no space is put in front of the text. There are no special
    tokens in one that is trained here: ids 0 to 255 are the bytes (in the library's order), the
    others are merges. Of another's, special tokens are written out as their names.
    """

    def __init__(self, library_tokenizer: Any) -> None:
        library_tokenizer.no_truncation()
        library_tokenizer.no_padding()
        self._library = library_tokenizer
        byte_of = _byte_alphabet()
        size = library_tokenizer.get_vocab_size()
        symbols = [library_tokenizer.id_to_token(token) for token in range(size)]
        try:
            self._bytes = [bytes(byte_of[symbol] for symbol in token) for token in symbols]
        except (KeyError, TypeError):
            raise ValueError(
                "the tokenizer is not a byte-level BPE with ids from 0 without gaps; expected one "
                "of ByteBPETokenizer.file"
            ) from None

    @classmethod
    def train(cls, text: str, vocabulary_size: int) -> "ByteBPETokenizer":
        """Merges the most frequent pairs of `text`; the same text gives the same tokenizer.

        Raises:
            ValueError: `vocabulary_size` is below the 256 bytes, or above what the text yields.
        """
        if vocabulary_size < _NUM_BYTES:
            raise ValueError(
                f"data.vocabulary_size {vocabulary_size} must be at least {_NUM_BYTES}, one a byte"
            )
        _check_unicode(text)
        library = train_byte_level([text], vocabulary_size)
        if library.get_vocab_size() < vocabulary_size:
            raise ValueError(
                f"data.vocabulary_size {vocabulary_size}: the {len(text)} characters of training "
                f"text have pairs for {library.get_vocab_size()} only; try that, or more text"
            )
        return cls(library)

    @property
    def vocabulary_size(self) -> int:
        return len(self._bytes)

    def encode(self, text: str) -> np.ndarray:
        """-> (N,) int32.

        Raises:
            ValueError: half a surrogate pair, which is no character and has no UTF-8 bytes.
        """
        _check_unicode(text)
        return np.array(self._library.encode(text, add_special_tokens=False).ids, np.int32)

    def token_bytes(self, token: int) -> bytes:
        _check_ids([token], self.vocabulary_size)
        return self._bytes[token]

    def decode(self, ids: Iterable[int]) -> str:
        ids = list(ids)
        _check_ids(ids, self.vocabulary_size)
        return b"".join(self._bytes[token] for token in ids).decode("utf-8", "replace")

    def file(self) -> tuple[str, str]:
        return BPE_FILE, self._library.to_str(pretty=True) + "\n"


def train_tokenizer(kind: str, text: str, vocabulary_size: int) -> Tokenizer:
    """kind: "character" or "bpe"; only "bpe" heeds the size."""
    if kind == "character":
        return CharacterTokenizer.train(text)
    if kind == "bpe":
        return ByteBPETokenizer.train(text, vocabulary_size)
    raise ValueError(f"data.tokenizer {kind!r} must be character or bpe")


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer whose `file` is in the folder, or that of a GPT-2 as the Hub has it.

    Raises:
        ValueError: there is none, there are two, or its file is damaged; the file is named.
    """
    found = [name for name in (CHARACTERS_FILE, BPE_FILE) if (folder / name).is_file()]
    if not found and all((folder / name).is_file() for name in GPT2_FILES):
        found = [GPT2_FILES[0]]
    if len(found) != 1:
        raise ValueError(
            f"{folder} has {' and '.join(found) or 'no tokenizer'}; expected {CHARACTERS_FILE} or "
            f"{BPE_FILE}, or {' and '.join(GPT2_FILES)}; copy the one that belongs to the weights"
        )
    file = folder / found[0]
    tokenizers = None if found[0] == CHARACTERS_FILE else import_tokenizers()
    try:
        if tokenizers is None:
            return CharacterTokenizer(json.loads(file.read_text(encoding="utf-8"))["characters"])
        if found[0] == BPE_FILE:
            library = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
        else:
            merges = tokenizers.models.BPE.from_file(*(str(folder / name) for name in GPT2_FILES))
            library = byte_level(merges)
        return ByteBPETokenizer(library)
    except Exception as error:  # the library's own error is a bare Exception
        raise ValueError(
            f"{file} is not a tokenizer that this library wrote, nor a byte-level BPE "
            f"({type(error).__name__}: {error}); restore it from a copy"
        ) from error


def decode_stream(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """The text as it grows: joined, the pieces are `tokenizer.decode(ids)`.

    A piece is held back while it ends within a character.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in ids:
        if piece := decoder.decode(tokenizer.token_bytes(int(token))):
            yield piece
    if piece := decoder.decode(b"", final=True):
        yield piece


def until_stop(tokenizer: Tokenizer, ids: Iterable[int], stop: str | None) -> Iterator[str]:
    """The pieces of `decode_stream` up to and with the first `stop` in them; no id is taken after.

    A stop may be a part of a token, or span several.
    """
    text = ""
    for piece in decode_stream(tokenizer, ids):
        before, text = len(text), text + piece
        place = -1 if stop is None else text.find(stop)
        if stop is not None and place >= 0:
            yield text[before : place + len(stop)]
            return
        yield piece


def _code_points(text: str) -> np.ndarray:
    """-> (N,) uint32"""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character for each byte -> the byte.

    A printable byte is its own character; the others take the characters from U+0100, in order.
    """
    alphabet = import_tokenizers().pre_tokenizers.ByteLevel.alphabet()
    own = [ord(symbol) for symbol in alphabet if ord(symbol) < _NUM_BYTES]
    others = sorted(symbol for symbol in alphabet if ord(symbol) >= _NUM_BYTES)
    without = [byte for byte in range(_NUM_BYTES) if byte not in own]
    return {chr(byte): byte for byte in own} | dict(zip(others, without, strict=True))


def _check_ids(ids: list[int], vocabulary_size: int) -> None:
    for position, token in enumerate(ids):
        if not 0 <= token < vocabulary_size:
            raise ValueError(
                f"token {token} at position {position} is out of range; expected 0 to "
                f"{vocabulary_size - 1}; was the text encoded by another tokenizer?"
            )


def _check_unicode(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {text[error.start]!r} at position {error.start} is half a surrogate pair, "
            f"not a character; leave it out"
        ) from error
