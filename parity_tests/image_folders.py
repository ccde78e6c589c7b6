"""Tiny data sets on disk in every layout that images are read from, and the content they hold."""

import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxmodels.shared.data.images import ImageDataConfig
from parity_tests.stand_ins import write_tfds

# A test module that imports these is skipped where the extra `hub` is not installed.
datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
Image = pytest.importorskip("PIL.Image")

# Pairwise distinct, so that no wrong transpose or mixed-up split has the right shape.
TRAIN, TEST, HEIGHT, WIDTH, CHANNELS = 23, 4, 5, 7, 3
NAMES = ("boat", "cow", "pear", "tree", "van", "wasp")
CONFIG = ImageDataConfig(validation_fraction=0.25, split_seed=1)
VALIDATION = 6


def pixels(count: int, seed: int) -> np.ndarray:
    shape = (count, HEIGHT, WIDTH, CHANNELS)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


TRAIN_PIXELS, TEST_PIXELS = pixels(TRAIN, 1), pixels(TEST, 2)
TRAIN_LABELS = [int(label) for label in np.random.default_rng(3).integers(0, 5, TRAIN)]
TEST_LABELS = [5, 0, 3, 1]  # wasp is in the test split only: a class may have no rows


IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def write_parquet(file: Path, images: list, labels: list, *, image="img", named=True) -> None:
    column = pa.array([{"bytes": data, "path": None} for data in images], IMAGE_TYPE)
    table = pa.table({image: column, "label": pa.array(labels)})
    if named:
        label = datasets.ClassLabel(names=list(NAMES))
        features = datasets.Features({image: datasets.Image(), "label": label})
        table = table.replace_schema_metadata(features.arrow_schema.metadata)
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)


def parquet_folder(folder: Path, **options) -> Path:
    """The Hub's layout; the training split in two files, to keep their order and row numbers."""
    train, test = [png(image) for image in TRAIN_PIXELS], [png(image) for image in TEST_PIXELS]
    first, second = "train-00000-of-00002.parquet", "train-00001-of-00002.parquet"
    write_parquet(folder / "data" / first, train[:13], TRAIN_LABELS[:13], **options)
    write_parquet(folder / "data" / second, train[13:], TRAIN_LABELS[13:], **options)
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", test, TEST_LABELS, **options)
    return folder


def tfds_folder(folder: Path) -> Path:
    """tfds's layout; encoded images need no TensorFlow."""

    def features(types: Any) -> dict[str, Any]:
        image = types.Image(shape=(HEIGHT, WIDTH, CHANNELS))
        return {"image": image, "label": types.ClassLabel(names=list(NAMES))}

    def rows(images: np.ndarray, labels: list[int]) -> list[dict[str, Any]]:
        pairs = zip(images, labels, strict=True)
        return [{"image": io.BytesIO(png(image)), "label": label} for image, label in pairs]

    splits = {"train": rows(TRAIN_PIXELS, TRAIN_LABELS), "test": rows(TEST_PIXELS, TEST_LABELS)}
    return write_tfds(folder, "TinySigns", features, splits)


def python2_pickle(value) -> bytes:
    """The opcodes with which Python 2's cPickle wrote the genuine files at protocol 2."""

    def emit(item) -> bytes:
        if isinstance(item, bytes):  # Python 2's str: SHORT_BINSTRING or BINSTRING
            if len(item) < 256:
                return b"U" + struct.pack("<B", len(item)) + item
            return b"T" + struct.pack("<i", len(item)) + item
        if item is None or isinstance(item, bool):
            return {None: b"N", True: b"\x88", False: b"\x89"}[item]
        if isinstance(item, int):
            return b"J" + struct.pack("<i", item)
        if isinstance(item, tuple):
            return b"(" + b"".join(map(emit, item)) + b"t"
        if isinstance(item, list):
            return b"](" + b"".join(map(emit, item)) + b"e"
        if isinstance(item, dict):
            return b"}(" + b"".join(emit(k) + emit(v) for k, v in item.items()) + b"u"
        assert item.dtype == np.uint8
        reconstruct = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"
        empty = reconstruct + emit((0,)) + emit(b"b") + b"tR"
        dtype = b"cnumpy\ndtype\n" + emit((b"u1", 0, 1)) + b"R"
        dtype += emit((3, b"|", None, None, None, -1, -1, 0)) + b"b"
        state = emit(1) + emit(item.shape) + dtype + emit(False) + emit(item.tobytes())
        return empty + b"(" + state + b"tb"

    return b"\x80\x02" + emit(value) + b"."


def python3_pickle(value) -> bytes:
    return pickle.dumps(value, protocol=2)


def batch(rows: int, seed: int) -> dict[bytes, Any]:
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (rows, 3072), dtype=np.uint8)
    return {b"data": data, b"labels": rng.integers(0, 6, rows).tolist(), b"batch_label": b"x"}


def batches_folder(folder: Path, write=python2_pickle, **replaced) -> Path:
    """replaced: file name -> content; None leaves the file out."""
    content = {f"data_batch_{n}": batch(n + 1, n) for n in range(1, 6)}
    content |= {
        "test_batch": batch(3, 9),
        "batches.meta": {b"label_names": [*map(str.encode, NAMES)]},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in (content | replaced).items():
        if value is not None:
            (folder / name).write_bytes(value if isinstance(value, bytes) else write(value))
    return folder
