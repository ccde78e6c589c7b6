"""Texts to token ids as an encoder wants them, by the tokenizer that lies beside its weights.

>>> tokenizer = open_tokenizer(Path("all-MiniLM-L6-v2"))
>>> tokenizer.encode(["Not bad."], max_length=192, truncate="head-tail")
[array([ 101, 2025, 2919, 1012,  102], dtype=int32)]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxmodels.shared.files import read_json
from jaxmodels.shared.text.byte_pairs import import_tokenizers, train_byte_level

Truncate = Literal["head", "tail", "head-tail"]

TOKENIZER_FILE = "tokenizer.json"  # of the tokenizers library; transformers reads it too
VOCABULARY_FILE = "vocab.txt"  # of WordPiece: a token a line
_SETTINGS_FILE = "tokenizer_config.json"
_PADDING, _UNKNOWN, _FIRST, _LAST = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
_OWN_TOKENS = (_PADDING, _UNKNOWN, _FIRST, _LAST, "[MASK]")  # ids 0 to 4 of one trained here
_ENDS = ((_FIRST, _LAST), ("<s>", "</s>"))  # what goes around a text: BERT's and RoBERTa's
MIN_LENGTH = len(_ENDS[0]) + 2  # room for a token of either end of a review


@dataclass(frozen=True)
class SubwordTokenizer:
    """A tokenizer of the `tokenizers` library, and the ids that go around a text.

    `file` is where it was read, for messages.
    """

    backend: Any
    first: int
    last: int
    file: str

    @property
    def vocabulary_size(self) -> int:
        """One more than the highest id."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    def encode(
        self, texts: Sequence[str], *, max_length: int, truncate: Truncate
    ) -> list[np.ndarray]:
        """N texts -> N arrays (T,) int32 of 2 to `max_length` ids, the first and last token's too.

        Of a text that is too long, "head" keeps the first ids, "tail" the last, and "head-tail" the
        first half and the last half of what fits (Sun et al. 2019).
        """
        room = max_length - 2
        head = {"head": room, "tail": 0, "head-tail": (room + 1) // 2}[truncate]
        encoded = []
        for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False):
            ids = encoding.ids
            if len(ids) > room:
                ids = ids[:head] + ids[len(ids) - (room - head) :]
            encoded.append(np.array([self.first, *ids, self.last], np.int32))
        return encoded

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Each id as people read it, special ones too."""
        whole = [self.backend.decode([int(token)], skip_special_tokens=False) for token in ids]
        return [text.strip() or "\N{OPEN BOX}" for text in whole]

    def content(self) -> str:
        """What `open_tokenizer` reads as tokenizer.json."""
        return self.backend.to_str(pretty=True) + "\n"


def open_tokenizer(folder: Path) -> SubwordTokenizer:
    """The tokenizer of a checkpoint or a run: tokenizer.json, or else WordPiece's vocab.txt.

    Raises:
        ValueError: there is neither, it is malformed, or it knows no tokens for the ends of a text;
            the file is named.
    """
    tokenizers = import_tokenizers()
    path = folder / TOKENIZER_FILE
    if not path.exists():
        path = folder / VOCABULARY_FILE
    if not path.exists():
        raise ValueError(
            f"{folder} has no tokenizer; expected {TOKENIZER_FILE}, or WordPiece's "
            f"{VOCABULARY_FILE}; copy there the one that belongs to the weights"
        )
    try:
        if path.name == TOKENIZER_FILE:
            library = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        else:
            library = _word_piece(tokenizers, path)
    except Exception as error:  # the library's own error is a bare Exception
        raise ValueError(
            f"{path} is no tokenizer that the tokenizers library reads "
            f"({str(error).partition(chr(10))[0]}); fetch it again"
        ) from None
    return _with_ends(library, str(path))


def train_subwords(texts: Sequence[str], vocabulary_size: int) -> SubwordTokenizer:
    """Byte-level BPE of lower-cased texts with BERT's special tokens, of which padding is 0.

    At most `vocabulary_size` tokens: the most frequent pairs are merged. The same texts give the
    same tokenizer.
    """
    tokenizers = import_tokenizers()
    normalizers = tokenizers.normalizers
    library = train_byte_level(
        texts,
        vocabulary_size,
        special_tokens=_OWN_TOKENS,
        add_prefix_space=True,
        normalizer=normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()]),
    )
    ends = [(token, library.token_to_id(token)) for token in (_FIRST, _LAST)]
    library.post_processor = tokenizers.processors.BertProcessing(ends[1], ends[0])
    return _with_ends(library, "the tokenizer of the training split")


def _with_ends(library: Any, file: str) -> SubwordTokenizer:
    """The tokenizer without limits of its own, and the ids that it puts around a text."""
    library.no_truncation()
    library.no_padding()
    ends = library.encode("").ids
    if len(ends) != 2:  # no post-processor, as in some old files: the names tell
        named = [tuple(map(library.token_to_id, pair)) for pair in _ENDS]
        ends = next((pair for pair in named if None not in pair), None)
    if ends is None:
        raise ValueError(
            f"{file} has no tokens for the ends of a text; expected "
            f"{' or '.join(' and '.join(pair) for pair in _ENDS)}, as BERT, RoBERTa and "
            "DistilBERT have; give a checkpoint of one of these"
        )
    return SubwordTokenizer(library, int(ends[0]), int(ends[1]), file)


def _word_piece(tokenizers: Any, path: Path) -> Any:
    """BERT's own tokenizer, with the settings that lie beside its vocabulary."""
    lines = path.read_text(encoding="utf-8").splitlines()
    vocabulary = {token: row for row, token in enumerate(lines)}
    missing = [name for name in (_UNKNOWN, _FIRST, _LAST) if name not in vocabulary]
    if missing:
        raise ValueError(f"it has no {' and no '.join(missing)}")
    beside = path.with_name(_SETTINGS_FILE)
    settings = read_json(beside) if beside.exists() else {}
    settings = settings if isinstance(settings, dict) else {}
    library = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token=_UNKNOWN))
    library.normalizer = tokenizers.normalizers.BertNormalizer(
        lowercase=settings.get("do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
    )
    library.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    library.decoder = tokenizers.decoders.WordPiece()
    first, last = ((name, vocabulary[name]) for name in (_FIRST, _LAST))
    library.post_processor = tokenizers.processors.BertProcessing(last, first)
    return library
