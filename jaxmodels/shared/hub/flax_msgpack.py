"""Flax's `.msgpack` files: where each array's bytes are, without reading them.

flax.serialization writes nested dicts whose leaves are msgpack extensions that hold (shape, dtype
name, bytes). A msgpack library would copy every array to find the next one; this reads the headers
only and steps over the bytes. It knows the types that Flax writes (https://github.com/msgpack/msgpack/blob/master/spec.md).
"""

import mmap
from pathlib import Path
from typing import Any

from jaxmodels.shared.hub.stored_tensors import (
    RefusedError,
    StoredTensor,
    known_dtype,
    row_major,
    unreadable,
)

# Headers followed by a big-endian number of that many bytes: the length, or the value of an int.
_HEADERS: dict[int, tuple[str, int]] = {
    **{0xC3: ("true", 0), 0xC4: ("bin", 1), 0xC5: ("bin", 2), 0xC6: ("bin", 4)},
    **{0xC7: ("ext", 1), 0xC8: ("ext", 2), 0xC9: ("ext", 4)},
    **{0xCC: ("int", 1), 0xCD: ("int", 2), 0xCE: ("int", 4), 0xCF: ("int", 8)},
    **{0xD9: ("str", 1), 0xDA: ("str", 2), 0xDB: ("str", 4)},
    **{0xDC: ("array", 2), 0xDD: ("array", 4), 0xDE: ("map", 2), 0xDF: ("map", 4)},
}
_ARRAY, _NUMPY_SCALAR = 1, 3  # Flax's extension codes; 2 is a complex number
_MEND = "expected nested dicts of arrays; save the model's params alone"
_CHUNKED = "__msgpack_chunked_array__"  # how Flax cuts arrays above 1 GiB


def read_flax_msgpack(path: Path) -> dict[str, StoredTensor]:
    """The arrays of a file that `flax.serialization.to_bytes` wrote, by `/`-joined path.

    Raises:
        ValueError: the file is damaged, or holds anything but nested dicts of arrays.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            walk = _Walk(data, path)
            tree = walk.value()
            if walk.at != len(data):
                raise ValueError(f"{len(data) - walk.at} bytes are left over")
        if not isinstance(tree, dict):
            raise RefusedError(f"it holds one {type(tree).__name__}; {_MEND}")
        return _flat(tree, "")
    except (ValueError, RecursionError) as error:
        raise unreadable(path, "Flax msgpack", error) from error


class _Walk:
    """A position in msgpack data; each method moves it past what it returns."""

    def __init__(self, data: mmap.mmap, path: Path):
        self.data, self.path, self.at = data, path, 0

    def take(self, count: int) -> bytes:
        self.skip(count)
        return self.data[self.at - count : self.at]

    def skip(self, count: int) -> None:
        if self.at + count > len(self.data):
            raise ValueError(f"it ends at byte {len(self.data)}, inside a value of {count} bytes")
        self.at += count

    def header(self) -> tuple[str, int]:
        """The kind of the next value, and its length (or its value, if that is an int)."""
        code = self.take(1)[0]
        if code < 0x80:
            return "int", code
        if code < 0xC0:
            kind, bits = ("map", 4) if code < 0x90 else ("array", 4) if code < 0xA0 else ("str", 5)
            return kind, code & ((1 << bits) - 1)
        if 0xD4 <= code <= 0xD8:
            return "ext", 1 << (code - 0xD4)
        if code not in _HEADERS:
            raise ValueError(
                f"byte {self.at - 1} starts a value of type 0x{code:02x}; expected dicts of arrays"
            )
        kind, width = _HEADERS[code]
        return kind, int.from_bytes(self.take(width), "big")

    def expect(self, kind: str) -> int:
        found, size = self.header()
        if found != kind:
            raise ValueError(f"expected a value of type {kind} before byte {self.at}, got {found}")
        return size

    def value(self) -> Any:
        kind, size = self.header()
        if kind == "map":
            return self.mapping(size)
        if kind == "ext":
            return self.extension(size)
        if kind in ("int", "true"):  # of the description of a chunked array
            return size
        raise ValueError(f"found a value of type {kind} before byte {self.at}; expected arrays")

    def mapping(self, size: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for _ in range(size):
            key = self.take(self.expect("str")).decode()
            if key in result:
                raise ValueError(f"the name {key!r} occurs twice in one dict")
            result[key] = self.value()
        return result

    def extension(self, size: int) -> StoredTensor:
        code = self.take(1)[0]
        end = self.at + size
        if code not in (_ARRAY, _NUMPY_SCALAR):
            raise RefusedError(f"extension {code} at byte {self.at - 1} is not an array; {_MEND}")
        if self.expect("array") != 3:
            raise ValueError(f"the array before byte {self.at} is not (shape, dtype, bytes)")
        shape = tuple(self.expect("int") for _ in range(self.expect("array")))
        dtype = known_dtype(self.take(self.expect("str")).decode())
        length = self.expect("bin")
        start = self.at
        self.skip(length)
        if self.at != end:
            raise ValueError(f"an array ends at byte {self.at} instead of {end}")
        return row_major(shape, dtype, self.path, ((start, length),))


def _flat(tree: dict[str, Any], prefix: str) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and _CHUNKED in value:
            value = _joined(name, value)
        found = _flat(value, f"{name}/") if isinstance(value, dict) else {name: value}
        if not isinstance(value, dict | StoredTensor):
            raise RefusedError(f"{name!r} is the number {value}; {_MEND}")
        if tensors.keys() & found.keys():
            raise ValueError(f"two arrays are called {min(tensors.keys() & found.keys())!r}")
        tensors |= found
    return tensors


def _joined(name: str, chunked: dict[str, Any]) -> StoredTensor:
    """The array that Flax cut into flat pieces, which are numbered from 0 as `shape` is."""
    try:
        shape, chunks = (
            tuple(chunked[part][str(index)] for index in range(len(chunked[part])))
            for part in ("shape", "chunks")
        )
        pieces = tuple(piece for chunk in chunks for piece in chunk.pieces)
        return row_major(shape, chunks[0].dtype, chunks[0].path, pieces)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{name!r} is cut into pieces that do not fit ({error!r})") from error
