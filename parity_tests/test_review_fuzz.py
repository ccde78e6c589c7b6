"""Whatever stands in a CSV, text or parquet file: sound data, or a refusal in one line."""

import csv
import io
import tempfile
from pathlib import Path

import pytest

from jaxmodels.shared.data.review_sources import CLASS_NAMES
from jaxmodels.shared.data.reviews import ReviewDataConfig, load_reviews
from parity_tests.review_folders import check_data, pa, pq

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies
pytest.importorskip("sklearn")
pytest.importorskip("snowballstemmer")

# Without a deadline, for a busy machine; derandomized, so that a failure is everyone's failure.
fuzz = hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)

WORDS = ("a", "film", "bad", "isn't", "<br />", "&amp;", "😀", "très", "很好")
ODD_TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["\ufeff", "a\u0301", "\r", "\x00", "\u2028", '"', "e" * 500]),
)
TEXTS = st.one_of(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), ODD_TEXTS)
CONFIGS = st.builds(
    ReviewDataConfig,
    split=st.sampled_from(["7:1:2", "7:1:2", "standard"]),
    validation_fraction=st.sampled_from([0, 0.1, 0.5]),
    max_length=st.integers(1, 9),
    truncate=st.sampled_from(["head", "tail"]),
    remove_stop_words=st.booleans(),
    stem=st.sampled_from(["none", "snowball"]),
    min_frequency=st.sampled_from([1, 1, 2]),
    max_vocabulary=st.integers(3, 99),
)


def load_or_refuse(source: str, config: ReviewDataConfig) -> str:
    """What became of it: "read" or "refused"."""
    try:
        data = load_reviews(source, config)
    except ValueError as error:
        refusal = error
    else:
        check_data(data, config)
        return "read"
    assert type(refusal) is ValueError, "a subclass is an accident"
    assert len(str(refusal).splitlines()) == 1
    assert source in str(refusal)
    return "refused"


@pytest.fixture(scope="module")
def outcomes():
    """Negative control: of every kind of source, some were read and some refused."""
    kinds: dict[str, set[str]] = {"csv": set(), "text": set(), "parquet": set()}
    yield kinds
    assert all(kind in (set(), {"read", "refused"}) for kind in kinds.values()), kinds


ROWS = st.lists(st.tuples(TEXTS, st.sampled_from(CLASS_NAMES)), min_size=8, max_size=25)
ODD_ROWS = st.lists(st.lists(TEXTS, max_size=3), max_size=2)


def as_csv(rows: list) -> bytes:
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([("review", "sentiment"), *rows])
    return stream.getvalue().encode()


@fuzz
@hypothesis.given(
    content=st.one_of(
        ROWS.map(as_csv),
        st.builds(list.__add__, ROWS, ODD_ROWS).map(as_csv),
        st.builds(bytes.__add__, ROWS.map(as_csv), st.binary() | st.text().map(str.encode)),
        st.binary(),
    ),
    config=CONFIGS,
)
def test_any_csv_is_read_or_refused(outcomes, content, config):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "reviews.csv"
        file.write_bytes(content)
        outcomes["csv"].add(load_or_refuse(str(file), config))


FOLDERS = ("train/neg", "train/pos", "test/neg", "test/pos")
FILES = st.lists(TEXTS.map(str.encode), min_size=1, max_size=5)
ODD_FILES = st.lists(st.binary(max_size=9), max_size=1)


@fuzz
@hypothesis.given(
    files=st.fixed_dictionaries(dict.fromkeys(FOLDERS, FILES)),
    odd=st.dictionaries(st.sampled_from(FOLDERS), ODD_FILES, max_size=1),
    config=CONFIGS,
)
def test_any_text_folder_is_read_or_refused(outcomes, files, odd, config):
    with tempfile.TemporaryDirectory() as folder:
        for name, contents in (files | odd).items():
            (Path(folder) / name).mkdir(parents=True)
            for row, content in enumerate(contents):
                (Path(folder) / name / f"{row}.txt").write_bytes(content)
        outcomes["text"].add(load_or_refuse(folder, config))


def column(size: int, values, kind):
    return st.lists(values, min_size=size, max_size=size).map(lambda rows: pa.array(rows, kind))


def sound_table(size: int):
    reviews, labels = column(size, TEXTS, pa.string()), column(size, st.integers(0, 1), pa.int64())
    return st.builds(lambda *arrays: pa.table(list(arrays), ["text", "label"]), reviews, labels)


def odd_table(size: int):
    """With any columns of any types, right or wrong, under any names."""
    columns = st.one_of(
        column(size, TEXTS, pa.string()),
        column(size, st.none() | TEXTS, pa.large_string()),
        column(size, st.binary(max_size=5), pa.binary()),
        column(size, st.integers(0, 1), pa.int8()),
        column(size, st.integers(-1, 2), pa.int64()),
        column(size, st.none() | st.integers(0, 1), pa.int64()),
        column(size, st.integers(0, 2**64 - 1), pa.uint64()),
        column(size, st.floats(), pa.float64()),
        column(size, st.booleans(), pa.bool_()),
        column(size, st.none(), pa.null()),
        column(size, st.lists(st.integers(0, 1), max_size=2), pa.list_(pa.int64())),
        column(size, st.integers(0, 10**12), pa.duration("s")),
        column(size, TEXTS, pa.string()).map(pa.Array.dictionary_encode),
    )
    names = st.sampled_from([("text", "label"), ("review", "label"), ("label",) * 2, ("a\nb", "")])
    return st.builds(lambda a, b, names: pa.table([a, b], list(names)), columns, columns, names)


SIZES = st.integers(2, 12)
SOUND, ODD = SIZES.flatmap(sound_table), st.integers(0, 3).flatmap(odd_table)


@fuzz
@hypothesis.given(
    tables=st.one_of(*(st.tuples(*pair) for pair in ((SOUND, SOUND), (SOUND, ODD), (ODD, SOUND)))),
    damage=st.one_of(st.none(), st.none(), st.none(), st.binary(max_size=20)),
    config=CONFIGS,
)
def test_any_parquet_folder_is_read_or_refused(outcomes, tables, damage, config):
    with tempfile.TemporaryDirectory() as folder:
        for split, table in zip(("train", "test"), tables, strict=True):
            pq.write_table(table, f"{folder}/{split}.parquet")
        if damage is not None:
            Path(folder, "train.parquet").write_bytes(damage)
        outcomes["parquet"].add(load_or_refuse(folder, config))
