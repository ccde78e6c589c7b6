"""Whatever is wrong with reviews is refused in one line: what, where, the mend."""

import shutil
import sys
from pathlib import Path

import pytest

from jaxmodels.shared.data.reviews import ReviewDataConfig, load_reviews
from parity_tests.review_folders import (
    CONFIG,
    POOLED,
    csv_file,
    pa,
    parquet_folder,
    pq,
    raw_folder,
    write_csv,
    write_parquet,
    write_reviews,
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "8:1:1"}, "data.split '8:1:1' must be standard or 7:1:2"),
        ({"truncate": "middle"}, "data.truncate 'middle' must be head or tail"),
        ({"stem": "porter"}, "data.stem 'porter' must be none or snowball"),
        ({"stem": "snowball", "lowercase": False}, "data.stem snowball needs data.lowercase"),
        ({"validation_fraction": 1.0}, r"validation_fraction 1\.0 must be in \[0, 1\)"),
        ({"validation_fraction": float("nan")}, "validation_fraction nan must be in"),
        ({"split_seed": -1}, "data.split_seed -1 must be at least 0"),
        ({"max_length": 0}, "data.max_length 0 must be at least 1"),
        ({"min_frequency": 0}, "data.min_frequency 0 must be at least 1"),
        ({"max_vocabulary": 2}, "data.max_vocabulary 2 must be at least 3"),
    ],
)
def test_impossible_config_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ReviewDataConfig(**options)


def check_refused(source: str, expected: str, config: ReviewDataConfig = CONFIG) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        load_reviews(source, config)
    assert len(str(caught.value).splitlines()) == 1
    assert source in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "config", "expected"),
    [
        (["a,negative", "b,positive"] * 9, CONFIG, "no test split.* --data.split 7:1:2"),
        (["a,negative"], POOLED, "7:1:2 of 1 reviews is 1, 0, 0; .* try 10 or more"),
        (
            [f"own{row},positive" for row in range(20)],
            ReviewDataConfig(split="7:1:2"),
            "no word occurs 2 times in the 14 training reviews.* --data.min-frequency 1",
        ),
        (["...,positive"] * 20, POOLED, "no word occurs 1 times"),
    ],
)
def test_csv_that_cannot_be_split_is_refused(tmp_path, rows, config, expected):
    check_refused(write_csv(tmp_path, *rows), expected, config)


def test_validation_fraction_that_leaves_nothing_is_refused(tmp_path):
    source = write_reviews(tmp_path, ["bad", "good"], ["bad"])
    for fraction, rows in ((0.1, 0), (0.9, 2)):
        expected = (
            rf"data\.validation_fraction {fraction} of 2 rows is {rows}; expected at least one"
        )
        check_refused(source, expected, ReviewDataConfig(validation_fraction=fraction))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "expected one column review and one column sentiment, found none"),
        (b"review,sentiment\n", "reviews.csv: no rows; expected at least one review"),
        (b"text,label\na,1\n", "found text, label; rename the columns"),
        (b"review,review,sentiment\n", "found review, review, sentiment"),
        (b"review,sentiment\na,positive\nb,good\n", r"row 1 \(line 3\): sentiment is 'good'; exp"),
        (b"review,sentiment\na,Positive", "sentiment is 'Positive'; expected negative or positive"),
        (b"review,sentiment\na,\n", r"row 0 \(line 2\): sentiment is ''"),
        (b"review,sentiment\na, b,positive\n", r"row 0 \(line 2\): 3 cells; expected 2"),
        (b"review,sentiment\na\n", r"row 0 \(line 2\): 1 cells; expected 2"),
        (b'review,sentiment\na,positive\n"b\nc,positive\n', r"row 1 \(line 4\) is no CSV"),
        (b'review,sentiment\n"a"b,positive\n', r"row 0 \(line 2\) is no CSV"),
        (
            b"review,sentiment\na,positive\n\xff,positive\n",
            r"csv: byte 0xff at offset 28 \(line 3\) is not UTF-8",
        ),
        (b"review,sentiment\n" + b"a" * 140000 + b",positive", "is no CSV .*field larger"),
    ],
)
def test_damaged_csv_is_refused_with_its_row(tmp_path, content, expected):
    file = tmp_path / "reviews.csv"
    file.write_bytes(content)
    check_refused(str(file), expected, POOLED)


def remove(path: Path) -> None:
    shutil.rmtree(path)


def empty(path: Path) -> None:
    remove(path)
    path.mkdir()


def archive(path: Path) -> None:
    remove(path)
    path.write_bytes(b"")


def other_files(path: Path) -> None:
    empty(path)
    (path / "notes.docx").write_bytes(b"hello")


def csv_inside(path: Path) -> None:
    remove(path)
    csv_file(path)


def no_train_pos(path: Path) -> None:
    remove(path)
    remove(raw_folder(path) / "train" / "pos")


def empty_test_neg(path: Path) -> None:
    remove(path)
    empty(raw_folder(path) / "test" / "neg")


def bad_text(path: Path) -> None:
    remove(path)
    (raw_folder(path) / "train" / "pos" / "1_10.txt").write_bytes(b"good\n\xe9")


def folder_for_text(path: Path) -> None:
    remove(path)
    (raw_folder(path) / "train" / "pos" / "99_10.txt").mkdir()


def truncated(path: Path) -> None:
    file = path / "plain_text" / "train-00001-of-00002.parquet"
    file.write_bytes(file.read_bytes()[:-50])


def no_test(path: Path) -> None:
    (path / "plain_text" / "test-00000-of-00001.parquet").unlink()


def second_file(texts, labels, **options):
    """Rewrites the second training file."""

    def damage(path: Path) -> None:
        file = path / "plain_text" / "train-00001-of-00002.parquet"
        write_parquet(file, texts, labels, **options)

    return damage


def twice_text(path: Path) -> None:
    table = pa.table([["a"], ["b"], [0]], ["text", "text", "label"])
    pq.write_table(table, path / "plain_text" / "train-00001-of-00002.parquet")


def other_names(path: Path) -> None:
    remove(path)
    parquet_folder(path, names=("pos", "neg"))


SECOND = r"train-00001-of-00002\.parquet"
DAMAGES = {
    "missing path": (remove, "does not exist; expected sample, hub, hub:OWNER/NAME, tfds"),
    "a file": (
        archive,
        r"is a file, but no \.csv; expected .*aclImdb.*unpack an archive first",
    ),
    "empty folder": (empty, "is an empty folder; expected the Hub's parquet layout"),
    "unknown files": (
        other_files,
        "has no known layout .*; expected the Hub's parquet layout",
    ),
    "a folder with the CSV": (
        csv_inside,
        r"it holds csv data.* or, named itself, Kaggle's CSV",
    ),
    "raw: no train/pos": (
        no_train_pos,
        "lacks train/pos; expected train/neg, train/pos, test/",
    ),
    "raw: nothing in test/neg": (empty_test_neg, "test/neg: no rows; expected at least one"),
    "raw: not UTF-8": (
        bad_text,
        r"train/pos/1_10\.txt: byte 0xe9 at offset 5 \(line 2\) is not UTF-8",
    ),
    "raw: a folder": (folder_for_text, r"train/pos/99_10\.txt cannot be read"),
    "truncated": (truncated, SECOND + " is not a readable parquet file"),
    "no test": (no_test, "has no test split; expected train and test, found train;"),
    "null review": (second_file(["a", None], [0, 1]), SECOND + " row 1: there is no review"),
    "not UTF-8": (
        second_file(pa.array([b"a", b"\xff"]), [0, 1], names=None),
        SECOND + r" row 1: byte 0xff at offset 0 \(line 1\) is not UTF-8",
    ),
    "numbers": (second_file([1, 2], [0, 1]), SECOND + ": the column of reviews is int64; expected"),
    "label 2": (
        second_file(["a", "b"], [0, 2]),
        SECOND + r" row 1: label 2 is out of range; expected 0 to 1 \(2 classes\)",
    ),
    "label -1": (second_file(["a", "b"], [-1, 0]), SECOND + " row 0: label -1 is out of range"),
    "label null": (second_file(["a", "b"], [0, None]), SECOND + " row 1: label None is not an int"),
    "label text": (
        second_file(["a"], ["neg"], names=None),
        SECOND + ": column label is string; expected integers",
    ),
    "label list": (
        second_file(["a"], [[0]], names=None),
        SECOND + r": column label is list<.*>; expected integers",
    ),
    "other column": (
        second_file(["a"], [0], text="bo\ndy"),
        SECOND + ": expected a column text or review and a column label, found bo dy, label",
    ),
    "column twice": (twice_text, SECOND + ": expected a column .* found text, text, label; rename"),
    "classes turned": (other_names, "classes are pos, neg; expected neg, pos in this order"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_folder_is_refused(tmp_path, name):
    damage, expected = DAMAGES[name]
    folder = parquet_folder(tmp_path / "source")
    damage(folder)
    check_refused(str(folder), expected)


def test_split_without_rows_is_refused(tmp_path):
    check_refused(write_reviews(tmp_path, ["a"], []), r"test-00000-of-00001\.parquet: no rows")


def test_hub_name_must_have_an_owner():
    with pytest.raises(ValueError, match="hub:imdb is no Hub data set; expected hub:OWNER/NAME"):
        load_reviews("hub:imdb", CONFIG)


@pytest.mark.parametrize(
    ("source", "config", "module", "extra"),
    [
        ("hub", {}, "datasets", "hub"),
        ("tfds", {}, "array_record", "tfds"),
        ("sample", {"remove_stop_words": True}, "sklearn.feature_extraction.text", "text"),
        ("sample", {"stem": "snowball"}, "snowballstemmer", "text"),
    ],
)
def test_missing_library_names_its_extra(monkeypatch, source, config, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"pip install 'jaxmodels\[{extra}\]'"):
        load_reviews(source, ReviewDataConfig(**config))
