"""CIFAR-10 as its authors publish it: python pickles, read without running what is in them.

A pickle is a program. The genuine files only rebuild numpy arrays, so every other name a file asks
for is refused before anything of it is called (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html).

>>> train, test, class_names = read_cifar_batches(Path("cifar-10-batches-py"))
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.shared.data.image_rows import Split
from jaxmodels.shared.data.labels import check_labels

TRAIN_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_FILE = "test_batch"
META_FILE = "batches.meta"
_IMAGE_SHAPE = (3, 32, 32)


def is_cifar_batches(folder: Path) -> bool:
    """Whether the folder holds any file of the original layout, complete or not."""
    return any((folder / name).is_file() for name in (*TRAIN_FILES, TEST_FILE, META_FILE))


def read_cifar_batches(folder: Path) -> tuple[Split, Split, tuple[str, ...]]:
    """-> (train, test, class names).

    Raises:
        ValueError: a file is missing, is no genuine batch, or holds a bad label.
    """
    missing = [n for n in (*TRAIN_FILES, TEST_FILE, META_FILE) if not (folder / n).is_file()]
    if missing:
        raise ValueError(
            f"{folder} lacks {', '.join(missing)}; expected {TRAIN_FILES[0]} to {TRAIN_FILES[-1]}, "
            f"{TEST_FILE} and {META_FILE}; unpack cifar-10-python.tar.gz again"
        )
    names = _unpickle(folder / META_FILE).get(b"label_names")
    if not isinstance(names, list) or not names or any(type(name) is not bytes for name in names):
        raise ValueError(f"{folder / META_FILE} has no label_names; expected a list of class names")
    class_names = tuple(name.decode() for name in names)
    batches = [_read_batch(folder / name, len(class_names)) for name in TRAIN_FILES]
    train = Split(
        np.concatenate([batch.images for batch in batches]),
        np.concatenate([batch.labels for batch in batches]),
    )
    return train, _read_batch(folder / TEST_FILE, len(class_names)), class_names


def _read_batch(file: Path, num_classes: int) -> Split:
    content = _unpickle(file)
    data, labels = content.get(b"data"), content.get(b"labels")
    row_size = int(np.prod(_IMAGE_SHAPE))
    if not isinstance(data, np.ndarray):
        raise ValueError(f"{file}: data is {type(data).__name__}; expected an array")
    if data.dtype != np.uint8 or data.shape != (len(data), row_size):
        found = f"{data.dtype} {data.shape}"
        raise ValueError(f"{file}: data is {found}; expected uint8 (rows, {row_size})")
    if not isinstance(labels, list) or len(labels) != len(data):
        found = f"{len(labels)} labels" if isinstance(labels, list) else type(labels).__name__
        raise ValueError(f"{file}: labels is {found}; expected a list of {len(data)}, one an image")
    if not labels:
        raise ValueError(f"{file}: no rows; expected at least one image; fetch the data again")
    # A row is 1,024 red values, then the green, then the blue.
    images = data.reshape(-1, *_IMAGE_SHAPE).transpose(0, 2, 3, 1)  # (N, H, W, C)
    labels = check_labels(labels, num_classes=num_classes, where=str(file))
    return Split(np.ascontiguousarray(images), labels)


def _unpickle(file: Path) -> dict[bytes, Any]:
    try:
        with file.open("rb") as stream:
            # Python 2 wrote the files: its strings are bytes here.
            content = _ArraysOnly(stream, encoding="bytes").load()
        if not isinstance(content, dict):
            raise pickle.UnpicklingError(f"it holds a {type(content).__name__}, not a dict")
    except Exception as error:  # a hand-made pickle can make any of its opcodes fail in its own way
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"{file} is not a genuine CIFAR-10 batch: {reason}; none of its code was run; "
            f"unpack cifar-10-python.tar.gz again"
        ) from error
    return content


class _ArraysOnly(pickle.Unpickler):
    """An unpickler to which only the names that rebuild a numpy array exist."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED.get((module, name))
        if allowed is None:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}; expected numpy arrays, lists and strings only"
            )
        return allowed


def _encode_latin1(text: str, encoding: str) -> bytes:
    # Python 3 writes bytes into a protocol 2 pickle as _codecs.encode(text, "latin1").
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}; expected latin1")
    return text.encode("latin1")


_reconstruct = np.zeros(0).__reduce__()[0]  # numpy 2 moved numpy.core to numpy._core
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode_latin1,
}
