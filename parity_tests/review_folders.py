"""A tiny set of reviews in every layout that reviews are read from, and what it holds."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxmodels.shared.data.review_sources import CLASS_NAMES
from jaxmodels.shared.data.reviews import ReviewData, ReviewDataConfig, TokenSplit
from jaxmodels.shared.data.vocabulary import Vocabulary
from parity_tests.stand_ins import write_tfds

# A test module that imports these is skipped where the extra `hub` is not installed.
datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

# Pairwise distinct numbers and texts, so that no mixed-up split passes. "unseen" is in the test
# split only. What a CSV or an encoding could spoil is among the first.
TRAIN_TEXTS = (
    'She said "good",<br /><br />and it was',
    "line one\r\nline two\nline three, with a comma",
    "très émouvant \U0001f44d 很好",
    "  ",
    "it isn't bad &amp; it's short",
    *(f"a film of number {number} and no more" for number in range(14)),
)
TEST_TEXTS = ("an unseen film", "\U0001f600", "a film; 'tis good", "no more", "so bad", "so good")
TRAIN_LABELS = tuple(row % 3 % 2 for row in range(len(TRAIN_TEXTS)))
TEST_LABELS = (0, 1, 1, 0, 0, 1)
TRAIN, TEST = 19, 6
CONFIG = ReviewDataConfig(max_length=7, min_frequency=1, split_seed=1)
POOLED = ReviewDataConfig(max_length=7, min_frequency=1, split="7:1:2")
SPLITS = ("train", "validation", "test")


def check_split(split: TokenSplit, config: ReviewDataConfig, vocabulary: Vocabulary) -> None:
    """What a model may rely on."""
    size, length = len(split), config.max_length
    assert (split.tokens.shape, split.tokens.dtype) == ((size, length), np.int32)
    assert (split.lengths.shape, split.lengths.dtype) == ((size,), np.int32)
    assert (split.labels.shape, split.labels.dtype) == ((size,), np.int32)
    assert len(split.texts) == size
    assert set(split.labels.tolist()) <= {0, 1}
    assert ((split.lengths >= 1) & (split.lengths <= length)).all()
    filled = np.arange(length) < split.lengths[:, None]  # (N, T)
    np.testing.assert_array_equal(split.tokens != 0, filled)
    assert (split.tokens < len(vocabulary)).all()


def check_data(data: ReviewData, config: ReviewDataConfig) -> None:
    for name in SPLITS:
        check_split(getattr(data, name), config, data.vocabulary)
    assert len(data.vocabulary) <= config.max_vocabulary
    assert len(set(data.vocabulary.words)) == len(data.vocabulary.words)
    assert all(data.vocabulary.words)
    assert 0 <= data.duplicates <= len(data.test)


def write_parquet(file: Path, texts: Any, labels: Any, *, names=("neg", "pos"), text="text"):
    """names: of the classes, as the Hub's metadata; None leaves them out."""
    table = pa.table({text: texts, "label": labels})
    if names is not None:
        label = datasets.ClassLabel(names=list(names))
        features = datasets.Features({text: datasets.Value("string"), "label": label})
        table = table.replace_schema_metadata(features.arrow_schema.metadata)
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)


def write_reviews(folder: Path, train: Sequence[str], test: Sequence[str]) -> str:
    """A parquet folder of these texts, negative and positive by turns."""
    for split, texts in (("train", train), ("test", test)):
        labels = [row % 2 for row in range(len(texts))]
        write_parquet(folder / f"{split}-00000-of-00001.parquet", texts, labels)
    return str(folder)


def parquet_folder(folder: Path, **options) -> Path:
    """The Hub's layout; the training split in two files, to keep their order and row numbers."""
    files = {
        "train-00000-of-00002": (TRAIN_TEXTS[:8], TRAIN_LABELS[:8]),
        "train-00001-of-00002": (TRAIN_TEXTS[8:], TRAIN_LABELS[8:]),
        "test-00000-of-00001": (TEST_TEXTS, TEST_LABELS),
        "unsupervised-00000-of-00001": (["an unlabelled film"], [-1]),
    }
    for name, (texts, labels) in files.items():
        write_parquet(folder / "plain_text" / f"{name}.parquet", texts, labels, **options)
    return folder


def raw_folder(folder: Path) -> Path:
    """aclImdb: a file a review, and the other things that lie about in it."""
    content = {"train": (TRAIN_TEXTS, TRAIN_LABELS), "test": (TEST_TEXTS, TEST_LABELS)}
    for split, (texts, labels) in content.items():
        for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
            file = folder / split / ("neg", "pos")[label] / f"{row}_{9 * label + 1}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text.encode())
        (folder / split / "urls_pos.txt").write_text("http://example.com/title")
    (folder / "train" / "unsup").mkdir()
    (folder / "train" / "unsup" / "0_0.txt").write_text("an unlabelled film")
    (folder / "train" / "neg" / "Thumbs.db").write_bytes(b"\xff")
    (folder / "imdb.vocab").write_text("film\n")
    return folder


def csv_file(folder: Path) -> Path:
    """Kaggle's one file, the test split after the other."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "IMDB Dataset.csv"
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["review", "sentiment"])
        labels = [CLASS_NAMES[label] for label in TRAIN_LABELS + TEST_LABELS]
        writer.writerows(zip(TRAIN_TEXTS + TEST_TEXTS, labels, strict=True))
    return file


def write_csv(folder: Path, *rows: str, header="review,sentiment") -> str:
    file = folder / "reviews.csv"
    file.write_text("\n".join((header, *rows)), encoding="utf-8", newline="")
    return str(file)


def hub_tables() -> Any:
    """What `datasets.load_dataset` would answer."""
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )

    def split(texts, labels):
        rows = {"text": list(texts), "label": list(labels)}
        return datasets.Dataset.from_dict(rows, features=features)

    return datasets.DatasetDict(
        train=split(TRAIN_TEXTS, TRAIN_LABELS),
        test=split(TEST_TEXTS, TEST_LABELS),
        unsupervised=split(["an unlabelled film"], [-1]),
    )


def tfds_folder(folder: Path) -> Path:
    """tfds's layout of the training and the test split."""

    def features(types: Any) -> dict[str, Any]:
        return {"text": types.Text(), "label": types.ClassLabel(names=["neg", "pos"])}

    def rows(texts: Sequence[str], labels: Sequence[int]) -> list[dict[str, Any]]:
        return [{"text": t, "label": n} for t, n in zip(texts, labels, strict=True)]

    splits = {"train": rows(TRAIN_TEXTS, TRAIN_LABELS), "test": rows(TEST_TEXTS, TEST_LABELS)}
    return write_tfds(folder, "TinyReviews", features, splits)
