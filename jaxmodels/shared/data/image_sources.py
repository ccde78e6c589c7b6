"""Where images come from: an embedded sample, the Hub, tensorflow-datasets, or a local folder.

`read_source` turns any of them into one train and one test split in memory. A source that cannot be
had raises; nothing else is read in its place.

>>> read_source("hub:ylecun/mnist", dataset="cifar10").train.images.shape
(60000, 28, 28, 1)
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.shared.data.cifar_batches import is_cifar_batches, read_cifar_batches
from jaxmodels.shared.data.image_rows import EncodedRows, Split, decode_split
from jaxmodels.shared.data.labels import check_labels
from jaxmodels.shared.data.tables import (
    PARQUET_LAYOUT,
    Tables,
    read_hub,
    read_parquet_folder,
    read_tfds,
)

HUB_NAMES = {"cifar10": "uoft-cs/cifar10"}
SOURCES = "sample, hub, hub:OWNER/NAME, tfds, tfds:NAME or the path of a folder"
_LAYOUTS = (
    f"{PARQUET_LAYOUT} or the original batches (data_batch_1 to data_batch_5, test_batch, "
    f"batches.meta)"
)
_IMAGE_COLUMNS = ("img", "image")
_SAMPLE_SCALE = 4  # 8x8 digits to 32x32
_SAMPLE_TEST_FRACTION = 0.2


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
        return _from_tables(read_hub(name or HUB_NAMES[dataset], columns=_IMAGE_COLUMNS))
    if source == "tfds" or kind == "tfds":
        return _from_tables(read_tfds(name or dataset, columns=_IMAGE_COLUMNS))
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
    return _from_tables(read_parquet_folder(folder, columns=_IMAGE_COLUMNS, layouts=_LAYOUTS))


def _from_tables(tables: Tables) -> RawImages:
    class_names = tables.class_names
    if class_names is None:
        labels = [label for part in tables.train for label in part.labels]
        highest = max((label for label in labels if type(label) is int), default=0)
        class_names = tuple(str(label) for label in range(max(highest, 0) + 1))
    train, test = (
        decode_split(
            [EncodedRows(p.where, _encoded_images(p.values, p.where), p.labels) for p in split],
            num_classes=len(class_names),
        )
        for split in (tables.train, tables.test)
    )
    mirror = tables.class_names is None or _mirror(class_names)
    return RawImages(tables.source, class_names, mirror, train, test)


def _encoded_images(column: Any, where: str) -> list[bytes | str | None]:
    """A column of images, as bytes; where those are absent, as the path of a file."""
    if isinstance(column, list):
        return column
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
        f"{where}: the column of images is {column.type}; expected encoded images (a struct of "
        f"bytes and path)"
    )


def _mirror(class_names: Iterable[str]) -> bool:
    # A mirrored digit or letter is another sign, or none; a mirrored ship is a ship.
    return not all(len(name) == 1 or name.isdigit() for name in class_names)
