"""Every text source is read faithfully, or refused in one line: what, where, the mend."""

import hashlib
import os
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmodels.shared.data.text_sources import read_text
from parity_tests.stand_ins import cut_network, write_tfds

fuzz = settings(max_examples=100, deadline=None, derandomize=True, database=None)
SPLITS = {"train": ["First Citizen:\nBefore we pr"], "validation": ["oceed"], "test": [" é\n"]}
WHOLE = "First Citizen:\nBefore we proceed é\n"


# ---- Files


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"plain", "plain"),
        ("Zoë 🙂\n".encode(), "Zoë 🙂\n"),
        (b"two\r\nlines\r", "two\r\nlines\r"),
        (b"\xef\xbb\xbfmarked", "marked"),
        (b"\0", "\0"),
    ],
)
def test_file_is_read_as_it_is(tmp_path, content, text):
    file = tmp_path / "text.txt"
    file.write_bytes(content)
    raw = read_text(str(file))
    assert (raw.text, raw.source) == (text, str(file))


@given(content=st.binary(max_size=40))
@fuzz
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "fuzz.txt"
    file.write_bytes(content)
    try:
        text, refusal = read_text(str(file)).text, ""
    except ValueError as error:
        text, refusal = "", str(error)
    assert "\n" not in refusal
    kept = content.removeprefix(b"\xef\xbb\xbf")
    assert "is not UTF-8" in refusal or text.encode() == kept
    assert bool(kept) or "is empty" in refusal


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected text"),
        (b"\xef\xbb\xbf", "is empty; expected text"),
        (b"one\ntwo \xe9t\xe9", r"byte 0xe9 at offset 8 \(line 2\) is not UTF-8; .*iconv"),
        ("Ende".encode("utf-16"), r"byte 0xff at offset 0 \(line 1\) is not UTF-8"),
        ("é".encode()[:1], "byte 0xc3 at offset 0"),
        (None, "does not exist; expected sample, hub, hub:OWNER/NAME"),
    ],
)
def test_bad_file_is_refused_by_name(tmp_path, content, message):
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_text(str(file))
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_path_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is a folder; expected a text file"):
        read_text(str(tmp_path))
    for path in ("a\0b", "x" * 5000):
        with pytest.raises(ValueError, match="cannot be read"):
            read_text(path)


# ---- The sample


def test_sample_is_long_prose_and_always_the_same():
    first = read_text("sample")
    assert first == read_text("sample")
    assert len(first.text) > 300_000
    assert first.text.count(" the ") > 2000
    if sys.version_info[:3] == (3, 11, 7):
        digest = hashlib.sha256(first.text.encode()).hexdigest()
        assert digest == "f784d6fb39bdb407417b39889b74209e5327a12c530ac010595a0cb3719c903b"


def test_sample_repeats_no_paragraph():
    from pydoc_data.topics import topics

    def repeated(text):
        paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
        return len(paragraphs) - len(set(paragraphs))

    assert repeated("\n\n".join(topics.values())) > 100, "so that there is something to leave out"
    assert repeated(read_text("sample").text) == 0


# ---- The Hub


def stand_in(monkeypatch, splits, column="text"):
    """No network is assumed: the Hub's answers are stand-ins; what is read is a real Dataset."""
    datasets = pytest.importorskip("datasets")
    import huggingface_hub

    tables = {name: datasets.Dataset.from_dict({column: rows}) for name, rows in splits.items()}
    asked = []

    def load_dataset(name, revision):
        asked.append((name, revision))
        return datasets.DatasetDict(tables)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


@pytest.mark.parametrize(
    ("source", "question"),
    [
        ("hub", ("karpathy/tiny_shakespeare", "refs/convert/parquet")),
        ("hub:some-one/some.set", ("some-one/some.set", None)),
        ("hub:some-one/some.set@v1", ("some-one/some.set", "v1")),
    ],
)
def test_hub_splits_are_joined_in_order(monkeypatch, source, question):
    asked = stand_in(monkeypatch, dict(reversed(SPLITS.items())))
    assert read_text(source).text == WHOLE
    assert asked == [question]


def test_hub_rows_each_end_a_line(monkeypatch):
    stand_in(monkeypatch, {"train": ["one", "two\n", ""], "test": ["x", "y"]}, column="Text")
    assert read_text("hub:a/b").text == "one\ntwo\n\nx\ny\n"


@pytest.mark.parametrize(
    ("splits", "column", "message"),
    [
        ({"test": ["x"]}, "text", "hub:a/b has no train split; .* found test;"),
        ({"train": ["x"]}, "prose", "hub:a/b: expected a column text, found prose"),
        ({"train": ["x", None]}, "text", "hub:a/b split train row 1: NoneType is no text"),
        ({"train": [""]}, "text", "hub:a/b is empty"),
    ],
)
def test_unfit_hub_set_is_refused(monkeypatch, splits, column, message):
    stand_in(monkeypatch, splits, column)
    with pytest.raises(ValueError, match=message):
        read_text("hub:a/b")


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("source", ["hub", "hub:no-one/nothing"])
def test_unreachable_hub_says_what_works(tmp_path, monkeypatch, source, offline):
    cut_network(monkeypatch, tmp_path, offline=offline)
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"cannot be loaded .* --source sample or --source PATH"):
        read_text(source)
    assert time.monotonic() - start < 30


def test_hub_name_must_have_an_owner():
    pytest.importorskip("datasets")
    with pytest.raises(ValueError, match="hub:prose is no Hub data set; expected hub:OWNER/NAME"):
        read_text("hub:prose")


# ---- tensorflow-datasets


def tfds_folder(folder: Path) -> Path:
    """Tiny Shakespeare's layout."""
    splits = {name: [{"text": text} for text in rows] for name, rows in SPLITS.items()}
    return write_tfds(folder, "TinyShakespeare", lambda types: {"text": types.Text()}, splits)


@pytest.mark.parametrize("source", ["tfds", "tfds:tiny_shakespeare"])
def test_tfds_is_read_without_tensorflow(tmp_path, monkeypatch, source):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_folder(tmp_path)))
    loaded_before = "tensorflow" in sys.modules
    assert read_text(source).text == WHOLE
    assert loaded_before or "tensorflow" not in sys.modules


def test_damaged_tfds_file_is_named(tmp_path, monkeypatch):
    (file,) = tfds_folder(tmp_path).rglob("*test.array_record*")
    file.write_bytes(b"")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    message = r"tfds:tiny_shakespeare split test in .* cannot be read"
    with pytest.raises(ValueError, match=message) as caught:
        read_text("tfds")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["tfds", "tfds:no_such_set"])
def test_unprepared_tfds_says_what_works(tmp_path, monkeypatch, source):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    message = "(not prepared|unknown to tfds).*tfds build .* --source sample or --source PATH"
    with pytest.raises(ValueError, match=message) as caught:
        read_text(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "module", "message"),
    [
        ("hub", "datasets", r"pip install 'jaxmodels\[hub\]'"),
        ("tfds", "array_record", r"pip install 'jaxmodels\[tfds\]'"),
        ("sample", "pydoc_data.topics", "install the whole standard library"),
    ],
)
def test_missing_library_says_what_to_install(monkeypatch, source, module, message):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=message):
        read_text(source)


@pytest.mark.real
def test_real_shakespeare_is_read():
    if "JAXMODELS_DATA" not in os.environ:
        pytest.skip("JAXMODELS_DATA is not set")
    text = read_text(os.environ["JAXMODELS_DATA"] + "/tinyshakespeare/input.txt").text
    assert len(text) == 1_115_394
    assert text.startswith("First Citizen:\nBefore we proceed any further, hear me speak.")
