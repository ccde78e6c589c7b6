"""Where images come from: an embedded sample, the Hub, tensorflow-datasets, or a local folder.

`read_source` turns any of them into one train and one test split in memory. A source that cannot be
had raises; nothing else is read in its place.

>>> read_source("hub:ylecun/mnist", dataset="cifar10").train.images.shape
(60000, 28, 28, 1)
"""

import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.shared.data.cifar_batches import is_cifar_batches, read_cifar_batches
from jaxmodels.shared.data.image_rows import EncodedRows, Split, check_labels, decode_split

HUB_NAMES = {"cifar10": "uoft-cs/cifar10"}
SOURCES = "sample, hub, hub:OWNER/NAME, tfds, tfds:NAME or the path of a folder"
_OFFLINE = "with no network, use --source sample or --source PATH (a local folder)"
_LAYOUTS = (
    "the Hub's parquet layout (train-00000-of-00001.parquet and test-00000-of-00001.parquet, there "
    "or one folder down) or the original batches (data_batch_1 to data_batch_5, test_batch, "
    "batches.meta)"
)
_IMAGE_COLUMNS = ("img", "image")
_LABEL_COLUMN = "label"
_HUB_TIMEOUT_SECONDS = 10.0
_SAMPLE_SCALE = 4  # 8x8 digits to 32x32
_SAMPLE_TEST_FRACTION = 0.2
_TFDS_ROWS_PER_READ = 1024


@dataclass(frozen=True)
class RawImages:
    """What a source holds, before the validation split is taken from `train`."""

    source: str
    class_names: tuple[str, ...]
    mirror: bool
    train: Split
    test: Split


def read_source(source: str, *, dataset: str, split_seed: int = 0) -> RawImages:
    """Reads `source`; `dataset` is what plain "hub" and "tfds" mean.

    `split_seed` draws the sample's test split, the one source that comes without.

    Raises:
        ValueError: the source is unknown, unreachable or malformed; one line, with the mend.
    """
    kind, _, name = source.partition(":")
    if source == "sample":
        return _read_sample(split_seed)
    if source == "hub" or kind == "hub":
        return _read_hub(name or HUB_NAMES[dataset])
    if source == "tfds" or kind == "tfds":
        return _read_tfds(name or dataset)
    return _read_folder(source)


def _read_sample(split_seed: int) -> RawImages:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError(
            "--source sample needs scikit-learn; pip install 'jaxmodels[sample]' installs it"
        ) from error
    digits: Any = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8), from 0..16
    grey = grey.repeat(_SAMPLE_SCALE, axis=1).repeat(_SAMPLE_SCALE, axis=2)  # (N, 32, 32)
    images = np.repeat(grey[..., None], 3, axis=3)  # (N, 32, 32, 3)
    labels = check_labels(digits.target, num_classes=10, where="sample")
    order = np.random.Generator(np.random.PCG64(split_seed)).permutation(len(labels))
    num_test = round(_SAMPLE_TEST_FRACTION * len(labels))
    test, train = np.sort(order[:num_test]), np.sort(order[num_test:])
    return RawImages(
        source="sample: scikit-learn digits",
        class_names=tuple(str(digit) for digit in range(10)),
        mirror=False,
        train=Split(images[train], labels[train]),
        test=Split(images[test], labels[test]),
    )


def _read_hub(name: str) -> RawImages:
    datasets = _import_datasets(f"--source hub:{name}")
    import huggingface_hub

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(f"hub:{name} is no Hub data set; expected hub:OWNER/NAME")
    offline = huggingface_hub.constants.HF_HUB_OFFLINE
    try:
        # One quick question first: load_dataset alone retries an unreachable Hub for half a minute.
        if not offline:
            huggingface_hub.HfApi().dataset_info(name, timeout=_HUB_TIMEOUT_SECONDS)
        tables = datasets.load_dataset(name)
    except Exception as error:  # the HTTP library's own errors are not the standard library's
        cached = "" if offline else " (or HF_HUB_OFFLINE=1 if it was downloaded before)"
        raise ValueError(
            f"hub:{name} cannot be loaded from the Hugging Face Hub ({_one_line(error)}); "
            f"{_OFFLINE}{cached}"
        ) from error
    parts = {
        str(split): [(f"hub:{name} split {split}", table.with_format("arrow")[:])]
        for split, table in tables.items()
        if split in ("train", "test")
    }
    features = next(iter(tables.values())).features
    return _from_tables(f"hub:{name}", parts, features, found=list(tables))


def _read_tfds(name: str) -> RawImages:
    try:
        import array_record  # noqa: F401  (what data_source reads with)
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError(
            f"--source tfds:{name} needs tensorflow-datasets ({error}); "
            f"pip install 'jaxmodels[tfds]' installs it"
        ) from error
    where = f"tfds:{name}"
    prepare = (
        f"prepare it once where TensorFlow and a network are (tfds build {name} "
        f"--file_format=array_record) and set TFDS_DATA_DIR to its folder; {_OFFLINE}"
    )
    data_dir = os.environ.get("TFDS_DATA_DIR")  # tfds itself looks once, when it is imported
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:
        raise ValueError(f"{where} is unknown to tfds ({_one_line(error)}); {prepare}") from error
    # Downloading needs TensorFlow, and an unreachable home is retried for minutes: never start it.
    if not builder.is_prepared():
        raise ValueError(f"{where} is not prepared in {builder.data_path}; {prepare}")
    columns: Any = builder.info.features
    image = next((column for column in _IMAGE_COLUMNS if column in columns), None)
    if image is None or _LABEL_COLUMN not in columns:
        raise ValueError(_missing_column(where, list(columns)))
    class_names = tuple(getattr(columns[_LABEL_COLUMN], "names", None) or ())
    if not class_names:
        raise ValueError(
            f"{where}: column {_LABEL_COLUMN} is {columns[_LABEL_COLUMN]}; expected a ClassLabel; "
            f"take a classification data set"
        )
    _require_splits(where, list(builder.info.splits))
    splits = {}
    for split in ("train", "test"):
        try:
            rows: Any = tfds.data_source(
                name,
                split=split,
                data_dir=data_dir,
                download=False,
                decoders={image: tfds.decode.SkipDecoding()},
            )
            records = [
                record
                for first in range(0, len(rows), _TFDS_ROWS_PER_READ)
                for record in rows.__getitems__(
                    list(range(first, min(first + _TFDS_ROWS_PER_READ, len(rows))))
                )
            ]
        except Exception as error:
            raise ValueError(
                f"{where} split {split} in {builder.data_path} cannot be read "
                f"({_one_line(error)}); {prepare}"
            ) from error
        encoded = EncodedRows(
            where=f"{where} split {split}",
            images=[record[image] for record in records],
            labels=[int(record[_LABEL_COLUMN]) for record in records],
        )
        splits[split] = decode_split([encoded], num_classes=len(class_names))
    return RawImages(where, class_names, _mirror(class_names), splits["train"], splits["test"])


def _read_folder(source: str) -> RawImages:
    folder = Path(source).expanduser()
    if not folder.exists():
        raise ValueError(f"source {source} does not exist; expected {SOURCES}")
    if not folder.is_dir():
        raise ValueError(
            f"source {source} is a file; expected a folder in {_LAYOUTS}; unpack an archive first"
        )
    if not any(folder.iterdir()):
        raise ValueError(f"source {source} is an empty folder; expected {_LAYOUTS}")
    for candidate in (folder, folder / "cifar-10-batches-py"):
        if is_cifar_batches(candidate):
            train, test, class_names = read_cifar_batches(candidate)
            name = f"{candidate}: the original CIFAR-10 batches"
            return RawImages(name, class_names, _mirror(class_names), train, test)
    return _read_parquet_folder(folder)


def _read_parquet_folder(folder: Path) -> RawImages:
    """Lets `datasets` say which file is which split, then reads the files where they are.

    `load_dataset` would copy them to its cache first, and not name the file that is damaged.
    """
    datasets = _import_datasets(f"--source {folder}")
    import pyarrow
    import pyarrow.parquet

    # The builder locks its cache: neither the source (perhaps read-only) nor the home is the place.
    with tempfile.TemporaryDirectory() as cache:
        try:
            builder = datasets.load_dataset_builder(str(folder), cache_dir=cache)
        except Exception as error:
            raise ValueError(
                f"{folder} has neither known layout ({_one_line(error)}); expected {_LAYOUTS}"
            ) from error
    if builder.name != "parquet":
        raise ValueError(
            f"{folder} has neither known layout (it holds {builder.name} data); expected {_LAYOUTS}"
        )
    files = {str(split): list(paths) for split, paths in builder.config.data_files.items()}
    _require_splits(str(folder), list(files))
    features = builder.info.features
    parts: dict[str, list[tuple[str, Any]]] = {"train": [], "test": []}
    for split, tables in parts.items():
        for file in files[split]:
            try:
                table = pyarrow.parquet.ParquetFile(file).read()
            except (pyarrow.ArrowException, OSError) as error:
                raise ValueError(
                    f"{file} is not a readable parquet file ({_one_line(error)}); it may be "
                    f"truncated: fetch it again"
                ) from error
            features = features or datasets.Features.from_arrow_schema(table.schema)
            tables.append((file, table))
    return _from_tables(f"{folder}: Hub parquet", parts, features, found=list(files))


def _from_tables(
    source: str, parts: dict[str, list[tuple[str, Any]]], features: Any, *, found: list[str]
) -> RawImages:
    """parts: split -> (name for errors, arrow table) a file; features: the Hub's column types."""
    _require_splits(source, found)
    rows: dict[str, list[EncodedRows]] = {}
    for split, tables in parts.items():
        rows[split] = []
        for where, table in tables:
            names = table.column_names
            image = next((column for column in _IMAGE_COLUMNS if column in names), None)
            if image is None or _LABEL_COLUMN not in names:
                raise ValueError(_missing_column(where, names))
            images = _encoded_images(table[image], f"{where}: column {image}")
            rows[split].append(EncodedRows(where, images, table[_LABEL_COLUMN].to_pylist()))
    class_names = getattr(features.get(_LABEL_COLUMN), "names", None)
    named = class_names is not None
    if not named:
        labels = [label for part in rows["train"] for label in part.labels]
        highest = max((label for label in labels if type(label) is int), default=0)
        class_names = [str(label) for label in range(max(highest, 0) + 1)]
    return RawImages(
        source=source,
        class_names=tuple(class_names),
        mirror=_mirror(class_names) if named else True,
        train=decode_split(rows["train"], num_classes=len(class_names)),
        test=decode_split(rows["test"], num_classes=len(class_names)),
    )


def _encoded_images(column: Any, where: str) -> list[bytes | str | None]:
    """An arrow column of images, as bytes; where those are absent, as the path of a file."""
    import pyarrow

    if pyarrow.types.is_struct(column.type):
        names = [field.name for field in column.type]
        fields = dict(zip(names, column.flatten(), strict=True))
        if "bytes" in fields:
            images = fields["bytes"].to_pylist()
            if fields["bytes"].null_count and "path" in fields:
                pairs = zip(images, fields["path"].to_pylist(), strict=True)
                images = [path if data is None else data for data, path in pairs]
            return images
    elif pyarrow.types.is_binary(column.type) or pyarrow.types.is_large_binary(column.type):
        return column.to_pylist()
    raise ValueError(
        f"{where} is {column.type}; expected encoded images (a struct of bytes and path)"
    )


def _mirror(class_names: Iterable[str]) -> bool:
    # A mirrored digit or letter is another sign, or none; a mirrored ship is a ship.
    return not all(len(name) == 1 or name.isdigit() for name in class_names)


def _require_splits(where: str, found: list[str]) -> None:
    missing = [split for split in ("train", "test") if split not in map(str, found)]
    if missing:
        raise ValueError(
            f"{where} has no {' and no '.join(missing)} split; expected train and test, found "
            f"{', '.join(map(str, found)) or 'none'}; take a data set with both, or name a local "
            f"file like {missing[0]}-00000-of-00001.parquet"
        )


def _missing_column(where: str, names: list[str]) -> str:
    return (
        f"{where}: expected a column {' or '.join(_IMAGE_COLUMNS)} and a column {_LABEL_COLUMN}, "
        f"found {', '.join(names)}; rename the columns"
    )


def _import_datasets(source: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"{source} needs the datasets library; pip install 'jaxmodels[hub]' installs it"
        ) from error
    return datasets


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
