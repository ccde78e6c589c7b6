"""Where text comes from: an embedded sample, the Hub, tensorflow-datasets, or a local file.

`read_text` turns any of them into one string. A source that cannot be had raises; nothing else is
read in its place.

>>> len(read_text("tfds").text)
1115394
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxmodels.shared.data.remote import load_hub, prepared_tfds, read_tfds_split
from jaxmodels.shared.data.utf8 import decode_utf8

# The data set itself is a script, which `datasets` refuses since version 4: read the Hub's own
# conversion of it.
HUB_NAME = "karpathy/tiny_shakespeare@refs/convert/parquet"
TFDS_NAME = "tiny_shakespeare"
SOURCES = (
    "sample, hub, hub:OWNER/NAME, hub:OWNER/NAME@REVISION, tfds, tfds:NAME or the path of a file"
)
SPLITS = ("train", "validation", "test")  # in this order Tiny Shakespeare's are the whole text
_TEXT_COLUMN = "text"


@dataclass(frozen=True)
class RawText:
    """A whole corpus; `source` says for people what was read."""

    source: str
    text: str


@dataclass(frozen=True)
class RawSplits:
    """A corpus in the splits that its source has, of train, validation and test in this order."""

    source: str
    texts: dict[str, str]

    def joined(self) -> RawText:
        return RawText(self.source, "".join(self.texts.values()))


def read_text(source: str) -> RawText:
    """Reads "sample", "hub", "hub:OWNER/NAME", "tfds", "tfds:NAME" or a UTF-8 file.

    A data set's train, validation and test splits are joined in this order. A file's characters are
    kept as they are, line ends included; only a byte order mark at its start is dropped. (A file
    that is called "sample", "hub" or "tfds" is read by "./sample".)

    Raises:
        ValueError: the source is unknown, unreachable, malformed or empty; one line, with the mend.
    """
    kind, _, name = source.partition(":")
    if source == "sample":
        raw = _read_sample()
    elif kind == "hub":
        raw = read_hub(name or HUB_NAME).joined()
    elif kind == "tfds":
        raw = read_tfds(name or TFDS_NAME).joined()
    else:
        raw = RawText(source, read_file(source))
    if not raw.text:
        raise ValueError(f"{raw.source} is empty; expected text; take a source that has some")
    return raw


def _read_sample() -> RawText:
    """The language reference that the interpreter shows at `help("if")`: 79 topics in 3.11.

    English enough to learn from, but no benchmark: the text follows the Python version (about
    370,000 characters in 3.11.7), so that figures compare within one version only.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise ValueError(
            "--source sample reads the standard library's pydoc_data.topics, which this Python "
            "lacks; install the whole standard library or use --source PATH (a text file)"
        ) from error
    return RawText("sample: Python's help topics", "\n\n".join(_first_seen(topics)))


def _first_seen(topics: dict[str, str]) -> Iterator[str]:
    """The paragraphs of all topics, each once.

    Topics quote each other at length ("while" is a part of "compound"). Repeated, a fifth of the
    text could be copied from the training part into the validation part.
    """
    seen = set()
    for topic in sorted(topics):
        for paragraph in topics[topic].split("\n\n"):
            words = tuple(paragraph.split())  # the quotes are indented differently
            if words and words not in seen:
                seen.add(words)
                yield paragraph.strip("\n")


def read_hub(name: str) -> RawSplits:
    """OWNER/NAME, OWNER/NAME:SUBSET and either with @REVISION of the Hugging Face Hub.

    Raises:
        ValueError: it cannot be had, or has no train split or no column of text.
    """
    name, _, revision = name.partition("@")
    where = f"hub:{name}"
    name, _, subset = name.partition(":")
    tables = load_hub(name, subset=subset or None, revision=revision or None)
    splits = _known_splits(where, tables)
    columns = {split: text_column(where, tables[split].column_names) for split in splits}
    rows = {split: tables[split][column] for split, column in columns.items()}
    return RawSplits(where, {s: join_rows(f"{where} split {s}", rows[s]) for s in splits})


def read_tfds(name: str) -> RawSplits:
    """A data set that tensorflow-datasets has prepared.

    Raises:
        ValueError: it cannot be had, or has no train split or no column of text.
    """
    builder = prepared_tfds(name)
    where = f"tfds:{name}"
    column = text_column(where, list(builder.info.features))
    texts = {}
    for split in _known_splits(where, builder.info.splits):
        rows = [record[column] for record in read_tfds_split(builder, split)]
        texts[split] = join_rows(f"{where} split {split}", rows)
    return RawSplits(where, texts)


def _known_splits(where: str, found: Iterable[str]) -> list[str]:
    names = [str(name) for name in found]
    splits = [split for split in SPLITS if split in names]
    if "train" not in splits:
        raise ValueError(
            f"{where} has no train split; expected {', '.join(SPLITS)}, found "
            f"{', '.join(names) or 'none'}; take a data set with one"
        )
    return splits


def text_column(where: str, columns: list[str]) -> str:
    """The column of text; a ValueError where there is none."""
    column = next((column for column in columns if column.lower() == _TEXT_COLUMN), None)
    if column is None:
        raise ValueError(
            f"{where}: expected a column {_TEXT_COLUMN}, found {', '.join(columns)}; "
            f"rename the column"
        )
    return column


def join_rows(where: str, rows: Iterable[str | bytes | None]) -> str:
    """One row is a text cut anywhere and stays as it is; of many rows each ends a line."""
    texts = []
    for row, value in enumerate(rows):
        if isinstance(value, bytes):
            value = decode_utf8(value, f"{where} row {row}")
        if not isinstance(value, str):
            raise ValueError(
                f"{where} row {row}: {type(value).__name__} is no text; mend or remove the row"
            )
        texts.append(value)
    if len(texts) == 1:
        return texts[0]
    return "".join(text if text.endswith("\n") else text + "\n" for text in texts)


def read_file(source: str) -> str:
    """The text of a UTF-8 file; a ValueError that names it where there is none."""
    path = Path(source).expanduser()
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"source {source} does not exist; expected {SOURCES}") from error
    except IsADirectoryError as error:
        raise ValueError(
            f"source {source} is a folder; expected a text file; name one file in it"
        ) from error
    except (OSError, ValueError) as error:  # a null character in a path is a ValueError
        raise ValueError(
            f"source {source!r} cannot be read ({error}); expected {SOURCES}"
        ) from error
    return decode_utf8(data, f"source {source}").removeprefix("\ufeff")
