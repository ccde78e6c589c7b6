"""Where reviews come from: a synthetic sample, the Hub, tensorflow-datasets, a folder or a CSV.

`read_reviews` turns any of them into texts and labels in memory. A source that cannot be had
raises; nothing else is read in its place.

>>> raw = read_reviews("aclImdb")
>>> len(raw.train), len(raw.test), raw.class_names
(25000, 25000, ('negative', 'positive'))
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxmodels.shared.data.labels import check_labels
from jaxmodels.shared.data.review_sample import sample_reviews
from jaxmodels.shared.data.splits import stratified_split
from jaxmodels.shared.data.tables import (
    PARQUET_LAYOUT,
    Rows,
    Tables,
    listed,
    one_line,
    read_hub,
    read_parquet_folder,
    read_tfds,
)
from jaxmodels.shared.data.utf8 import decode_utf8

CLASS_NAMES = ("negative", "positive")
HUB_NAMES = {"imdb": "stanfordnlp/imdb"}
TFDS_NAMES = {"imdb": "imdb_reviews"}
SOURCES = "sample, hub, hub:OWNER/NAME, tfds, tfds:NAME or the path of a folder or a CSV file"
_LAYOUTS = (
    f"{PARQUET_LAYOUT}, the original aclImdb (train and test, each with neg and pos) or, named "
    f"itself, Kaggle's CSV file (columns review and sentiment)"
)
_TEXT_COLUMNS = ("text", "review")
_CSV_TEXT, _CSV_LABEL = "review", "sentiment"
_RAW_FOLDERS = {split: (f"{split}/neg", f"{split}/pos") for split in ("train", "test")}  # by label
_NO_ROWS = "no rows; expected at least one review; fetch the data again"
_SAMPLE_TEST_FRACTION = 0.2


@dataclass(frozen=True)
class Reviews:
    """Reviews as they were written. labels: (N,) int32, 0 negative and 1 positive."""

    texts: tuple[str, ...]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: np.ndarray) -> "Reviews":
        """rows: (M,) int64 -> the M reviews in these rows."""
        return Reviews(tuple(self.texts[row] for row in rows), self.labels[rows])


@dataclass(frozen=True)
class RawReviews:
    """What a source holds; `source` says for people what was read. test: None if it has none."""

    source: str
    class_names: tuple[str, ...]
    train: Reviews
    test: Reviews | None


def read_reviews(source: str, *, dataset: str = "imdb", split_seed: int = 0) -> RawReviews:
    """Reads `source`; `dataset` is what plain "hub" and "tfds" mean.

    `split_seed` draws the sample's test split. Rows keep the source's order, the raw folder's that
    of the labels and file names. A review may be empty.

    Raises:
        ValueError: the source is unknown, unreachable or malformed; one line, with the mend.
    """
    kind, _, name = source.partition(":")
    if source == "sample":
        return _read_sample(split_seed)
    if kind == "hub":
        return _from_tables(read_hub(name or HUB_NAMES[dataset], columns=_TEXT_COLUMNS))
    if kind == "tfds":
        return _from_tables(read_tfds(name or TFDS_NAMES[dataset], columns=_TEXT_COLUMNS))
    return _read_path(source)


def _read_sample(split_seed: int) -> RawReviews:
    texts, labels = zip(*sample_reviews(), strict=True)
    reviews = Reviews(texts, np.array(labels, np.int32))
    fractions = (1 - _SAMPLE_TEST_FRACTION, _SAMPLE_TEST_FRACTION)
    train, test = stratified_split(reviews.labels, fractions, seed=split_seed)
    name = "sample: synthetic reviews"
    return RawReviews(name, CLASS_NAMES, reviews.take(train), reviews.take(test))


def _read_path(source: str) -> RawReviews:
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix.lower() != ".csv":
            raise ValueError(
                f"source {source} is a file, but no .csv; expected {_LAYOUTS}; unpack an archive "
                f"first"
            )
        return _read_csv(path)
    if not path.is_dir():
        raise ValueError(f"source {source} does not exist; expected {SOURCES}")
    if not any(path.iterdir()):
        raise ValueError(f"source {source} is an empty folder; expected {_LAYOUTS}")
    for candidate in (path, path / "aclImdb"):
        if any((candidate / folder).is_dir() for pair in _RAW_FOLDERS.values() for folder in pair):
            return _read_raw_folder(candidate)
    return _from_tables(read_parquet_folder(path, columns=_TEXT_COLUMNS, layouts=_LAYOUTS))


def _read_csv(file: Path) -> RawReviews:
    reader = csv.reader(io.StringIO(_read_text(file), newline=""), strict=True)
    texts: list[str] = []
    labels: list[int] = []
    try:
        header = next(reader, [])
        if header.count(_CSV_TEXT) != 1 or header.count(_CSV_LABEL) != 1:
            raise ValueError(
                f"{file}: expected one column {_CSV_TEXT} and one column {_CSV_LABEL}, found "
                f"{listed(header)}; rename the columns"
            )
        for cells in reader:
            if not cells:  # a blank line, such as the last
                continue
            where = f"{file} row {len(texts)} (line {reader.line_num})"
            if len(cells) != len(header):
                raise ValueError(
                    f"{where}: {len(cells)} cells; expected {len(header)} like the header; put a "
                    f"review with commas or line breaks in double quotes"
                )
            row = dict(zip(header, cells, strict=True))
            if row[_CSV_LABEL] not in CLASS_NAMES:
                raise ValueError(
                    f"{where}: {_CSV_LABEL} is {row[_CSV_LABEL][:60]!r}; expected "
                    f"{' or '.join(CLASS_NAMES)}; mend or remove the row"
                )
            texts.append(row[_CSV_TEXT])
            labels.append(CLASS_NAMES.index(row[_CSV_LABEL]))
    except csv.Error as error:
        raise ValueError(
            f"{file} row {len(texts)} (line {reader.line_num}) is no CSV ({one_line(error)}); "
            f"expected a review with quotes in double quotes, and each quote in it doubled"
        ) from error
    if not texts:
        raise ValueError(f"{file}: {_NO_ROWS}")
    reviews = Reviews(tuple(texts), np.array(labels, np.int32))
    return RawReviews(f"{file}: Kaggle CSV", CLASS_NAMES, train=reviews, test=None)


def _read_raw_folder(root: Path) -> RawReviews:
    folders = [folder for pair in _RAW_FOLDERS.values() for folder in pair]
    missing = [folder for folder in folders if not (root / folder).is_dir()]
    if missing:
        raise ValueError(
            f"{root} lacks {', '.join(missing)}; expected {', '.join(folders)}; unpack "
            f"aclImdb_v1.tar.gz again"
        )
    splits = {}
    for split, pair in _RAW_FOLDERS.items():
        texts: list[str] = []
        labels: list[int] = []
        for label, folder in enumerate(pair):
            files = sorted((root / folder).glob("*.txt"))
            if not files:
                raise ValueError(f"{root / folder}: {_NO_ROWS}")
            texts += [_read_text(file) for file in files]
            labels += [label] * len(files)
        splits[split] = Reviews(tuple(texts), np.array(labels, np.int32))
    name = f"{root}: the original aclImdb"
    return RawReviews(name, CLASS_NAMES, splits["train"], splits["test"])


def _read_text(file: Path) -> str:
    try:
        encoded = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({one_line(error)}); fetch it again") from error
    # A byte order mark, as spreadsheets write it, is no text.
    return decode_utf8(encoded, str(file)).removeprefix("\ufeff")


def _from_tables(tables: Tables) -> RawReviews:
    names = tables.class_names
    # Named the other way round, every label would be read as its opposite.
    if names is not None and [name.lower()[:3] for name in names] != ["neg", "pos"]:
        raise ValueError(
            f"{tables.source}: classes are {listed(names)}; expected neg, pos in this order; "
            f"take a data set of two sentiments"
        )
    train, test = _from_rows(tables.train), _from_rows(tables.test)
    return RawReviews(tables.source, CLASS_NAMES, train, test)


def _from_rows(parts: Sequence[Rows]) -> Reviews:
    texts = tuple(
        _decode(encoded, f"{part.where} row {row}")
        for part in parts
        for row, encoded in enumerate(_encoded_texts(part))
    )
    if not texts:
        raise ValueError(f"{', '.join(part.where for part in parts)}: {_NO_ROWS}")
    labels = [check_labels(p.labels, num_classes=len(CLASS_NAMES), where=p.where) for p in parts]
    return Reviews(texts, np.concatenate(labels))


def _encoded_texts(part: Rows) -> list[bytes | None]:
    """As UTF-8, not text: arrow does not check what it was given, and would not name the row."""
    if isinstance(part.values, list):
        return part.values
    import pyarrow

    try:
        return part.values.cast(pyarrow.large_binary()).to_pylist()
    except pyarrow.ArrowException as error:
        raise ValueError(
            f"{part.where}: the column of reviews is {part.values.type}; expected text"
        ) from error


def _decode(encoded: bytes | None, where: str) -> str:
    if encoded is None:
        raise ValueError(f"{where}: there is no review; expected text; mend or remove the row")
    return decode_utf8(encoded, where)
