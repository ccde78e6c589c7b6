"""Labelled rows wherever they are kept: the Hub, tensorflow-datasets, or a folder of parquet files.

What a row holds (an image, a review) is the caller's business: here each split becomes the columns
of its files. Whatever cannot be had raises; nothing else is read in its place.

>>> tables = read_hub("stanfordnlp/imdb", columns=("text",))
>>> tables.class_names, len(tables.train[0].labels)
(('neg', 'pos'), 25000)
"""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxmodels.shared.data.remote import (
    import_datasets,
    load_hub,
    one_line,
    prepared_tfds,
    read_tfds_split,
)

PARQUET_LAYOUT = (
    "the Hub's parquet layout (train-00000-of-00001.parquet and test-00000-of-00001.parquet, there "
    "or one folder down)"
)
_LABEL_COLUMN = "label"
_SPLITS = ("train", "test")


@dataclass(frozen=True)
class Rows:
    """The rows of one file, or of one split; `where` names them in errors.

    values: an arrow column, or from tfds a list of bytes; labels: integers or None, unchecked.
    """

    where: str
    values: Any
    labels: Sequence[Any]


@dataclass(frozen=True)
class Tables:
    """What a source holds; `source` says for people what was read.

    class_names: None where the labels are bare numbers.
    """

    source: str
    class_names: tuple[str, ...] | None
    train: tuple[Rows, ...]
    test: tuple[Rows, ...]


def read_hub(name: str, *, columns: Sequence[str]) -> Tables:
    """OWNER/NAME of the Hugging Face Hub; the values are in the first of `columns` there is.

    Raises:
        ValueError: the library is missing, the set is unreachable, or lacks a split or a column.
    """
    tables = load_hub(name)
    _require_splits(f"hub:{name}", tables)
    parts = {
        split: [(f"hub:{name} split {split}", tables[split].with_format("arrow")[:])]
        for split in _SPLITS
    }
    return _from_arrow(f"hub:{name}", parts, tables["train"].features, columns)


def read_tfds(name: str, *, columns: Sequence[str]) -> Tables:
    """A set that tensorflow-datasets has prepared as array_record; values as encoded there.

    Raises:
        ValueError: a library is missing, the set is not prepared, or lacks a split or a column.
    """
    where, builder = f"tfds:{name}", prepared_tfds(name)
    features: Any = builder.info.features
    column = _value_column(where, list(features), columns)
    class_names = tuple(getattr(features[_LABEL_COLUMN], "names", None) or ())
    if not class_names:
        raise ValueError(
            f"{where}: column {_LABEL_COLUMN} is {features[_LABEL_COLUMN]}; expected a ClassLabel; "
            f"take a classification data set"
        )
    _require_splits(where, builder.info.splits)
    parts = {}
    for split in _SPLITS:
        records = read_tfds_split(builder, split, undecoded=column)
        parts[split] = Rows(
            where=f"{where} split {split}",
            values=[record[column] for record in records],
            labels=[int(record[_LABEL_COLUMN]) for record in records],
        )
    return Tables(where, class_names, (parts["train"],), (parts["test"],))


def read_parquet_folder(folder: Path, *, columns: Sequence[str], layouts: str) -> Tables:
    """Lets `datasets` say which file is which split, then reads the files where they are.

    `load_dataset` would copy them to its cache first, and not name the file that is damaged.
    `layouts` says in errors what the caller can read.

    Raises:
        ValueError: no parquet layout, a damaged file, or a split or a column is missing.
    """
    datasets = import_datasets(f"--source {folder}")
    import pyarrow
    import pyarrow.parquet

    # The builder locks its cache: neither the source (perhaps read-only) nor the home is the place.
    with tempfile.TemporaryDirectory() as cache:
        try:
            builder = datasets.load_dataset_builder(str(folder), cache_dir=cache)
        except Exception as error:
            raise ValueError(
                f"{folder} has no known layout ({one_line(error)}); expected {layouts}"
            ) from error
    if builder.name != "parquet":
        raise ValueError(
            f"{folder} has no known layout (it holds {builder.name} data); expected {layouts}"
        )
    files = {str(split): list(paths) for split, paths in builder.config.data_files.items()}
    _require_splits(str(folder), files)
    features = builder.info.features
    parts: dict[str, list[tuple[str, Any]]] = {split: [] for split in _SPLITS}
    for split, tables in parts.items():
        for file in files[split]:
            try:
                table = pyarrow.parquet.ParquetFile(file).read()
                features = features or datasets.Features.from_arrow_schema(table.schema)
            except Exception as error:  # datasets has its own way to fail for each odd schema
                raise ValueError(
                    f"{file} is not a readable parquet file ({one_line(error)}); it may be "
                    f"truncated: fetch it again"
                ) from error
            tables.append((file, table))
    return _from_arrow(f"{folder}: Hub parquet", parts, features, columns)


def listed(names: Iterable[str]) -> str:
    """Names found in a file, for a message that must stay on one line."""
    return " ".join(", ".join(names).split())[:200] or "none"


def _from_arrow(
    source: str, parts: dict[str, list[tuple[str, Any]]], features: Any, columns: Sequence[str]
) -> Tables:
    """parts: split -> (name for errors, arrow table) a file; features: the Hub's column types."""
    import pyarrow

    rows: dict[str, list[Rows]] = {}
    for split, tables in parts.items():
        rows[split] = []
        for where, table in tables:
            values = table[_value_column(where, table.column_names, columns)]
            labels = table[_LABEL_COLUMN]
            if len(labels) and not pyarrow.types.is_integer(labels.type):  # empty ones are untyped
                raise ValueError(
                    f"{where}: column {_LABEL_COLUMN} is {listed([str(labels.type)])}; expected "
                    f"integers; convert the column"
                )
            rows[split].append(Rows(where, values, labels.to_pylist()))
    names = getattr(features.get(_LABEL_COLUMN), "names", None)
    class_names = None if names is None else tuple(names)
    return Tables(source, class_names, tuple(rows["train"]), tuple(rows["test"]))


def _value_column(where: str, names: list[str], columns: Sequence[str]) -> str:
    column = next((column for column in columns if names.count(column) == 1), None)
    if column is None or names.count(_LABEL_COLUMN) != 1:
        raise ValueError(
            f"{where}: expected a column {' or '.join(columns)} and a column {_LABEL_COLUMN}, "
            f"found {listed(names)}; rename the columns"
        )
    return column


def _require_splits(where: str, found: Iterable[Any]) -> None:
    names = [str(split) for split in found]
    missing = [split for split in _SPLITS if split not in names]
    if missing:
        raise ValueError(
            f"{where} has no {' and no '.join(missing)} split; expected train and test, found "
            f"{listed(names)}; take a data set with both, or name a local file like "
            f"{missing[0]}-00000-of-00001.parquet"
        )
