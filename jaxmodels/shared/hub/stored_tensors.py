"""A tensor on disk, whichever format its file has: a strided view of a run of bytes."""

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np

# Every dtype that is read, by numpy's name; complex numbers and the 8 bit floats are not.
DTYPES: dict[str, np.dtype] = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    **{name: np.dtype(name) for name in ("float64", "float32", "float16", "bool")},
    **{
        f"{kind}{bits}": np.dtype(f"{kind}{bits}")
        for kind in ("int", "uint")
        for bits in (64, 32, 16, 8)
    },
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor on disk: shape, dtype, the file it is in, and where its bytes are.

    `strides` are in bytes and start at the first byte of the first of `pieces`, which are runs of
    (first byte, number of bytes) of the file, read as if they followed each other. All formats but
    Flax's, which cuts arrays above 1 GiB, have one piece.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    path: Path
    strides: tuple[int, ...]
    pieces: tuple[tuple[int, int], ...]

    def read(self, index: tuple[slice, ...] | None = None) -> np.ndarray:
        """The tensor, or `tensor[index]` of which only the pages it touches are read; a copy.

        A tensor of several pieces is read whole first.

        Raises:
            ValueError: the file has been removed or shortened since it was opened.
        """
        if 0 in self.shape:
            array = np.empty(self.shape, self.dtype)
        else:
            array = np.ndarray(self.shape, self.dtype, self._bytes(), strides=self.strides)
        return np.array(array[(*(index or ()), ...)], order="C")

    def _bytes(self) -> np.ndarray:
        try:
            runs = [
                np.memmap(self.path, np.uint8, "r", offset=start, shape=(size,))
                for start, size in self.pieces
            ]
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{self.path} changed after it was opened ({error}); fetch it again"
            ) from error
        return runs[0] if len(runs) == 1 else np.concatenate(runs)

    def transposed(self, axes: tuple[int, ...]) -> "StoredTensor":
        """The same bytes with axis `axes[i]` as axis i."""
        shape, strides = (tuple(of[axis] for axis in axes) for of in (self.shape, self.strides))
        return replace(self, shape=shape, strides=strides)


def row_major(
    shape: tuple[int, ...], dtype: np.dtype, path: Path, pieces: tuple[tuple[int, int], ...]
) -> StoredTensor:
    """A tensor in C order that fills its pieces.

    Raises:
        ValueError: the pieces have another number of bytes than the shape.
    """
    expected, found = prod(shape) * dtype.itemsize, sum(size for _, size in pieces)
    if expected != found:
        raise ValueError(f"{dtype} {shape} takes {expected} bytes, found {found}")
    strides = tuple(prod(shape[axis + 1 :]) * dtype.itemsize for axis in range(len(shape)))
    return StoredTensor(shape, dtype, path, strides, pieces)


class RefusedError(ValueError):
    """The file is whole, but holds what is not read; the message ends with the mend."""


def known_dtype(name: str) -> np.dtype:
    """The dtype that numpy or ml_dtypes gives this name; a RefusedError if it is not read."""
    if name not in DTYPES:
        raise RefusedError(
            f"dtype {name} is not read; expected {', '.join(sorted(DTYPES))}; convert the weights"
        )
    return DTYPES[name]


def unreadable(path: Path, kind: str, error: Exception) -> ValueError:
    """One line that says why this file cannot be read: something refused, or else damage."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, RefusedError):
        return ValueError(f"{path}: {reason}")
    return ValueError(f"{path} is not a whole {kind} file ({reason[:200]}); fetch it again")
