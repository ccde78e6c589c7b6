"""PyTorch's `.bin` files, read without PyTorch and without running what is in them.

torch.save writes a pickle, which is a program, and beside it the bytes of each storage: as entries
of an uncompressed zip file, or before PyTorch 1.6 one after the other behind the pickle. The pickle
of weights only rebuilds dicts of tensors; whatever else it asks for is refused by name.
"""

import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

from jaxmodels.shared.hub.stored_tensors import DTYPES, RefusedError, StoredTensor, unreadable

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip entry: signature, lengths of name and extra
_MEND = "nothing in it was run; use the model's safetensors file"


# A pickle can set attributes of the objects it builds, so these are tuples, which have none.
class _Storage(NamedTuple):
    key: str
    dtype: str
    numel: int


class _View(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_pickle(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file that `torch.save(state_dict)` wrote, in either of its formats.

    Raises:
        ValueError: the file is damaged, compressed or big-endian, or it asks for anything but
            tensors, strings, numbers and containers of them.
    """
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            content, places = (_read_zip if is_zip else _read_legacy)(file)
        size = path.stat().st_size
        return {name: _stored(name, view, places, path, size) for name, view in content.items()}
    except Exception as error:  # a hand-made pickle can make any opcode fail in its own way
        raise unreadable(path, "PyTorch", error) from error


def _read_zip(file: IO[bytes]) -> tuple[dict[str, _View], dict[str, tuple[int, int]]]:
    """The views, and where in the file each storage is: (first byte, number of bytes)."""
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise RefusedError(f"its zip entries are compressed, expected torch.save's; {_MEND}")
        roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError(f"expected a zip file with one data.pkl, found {len(roots)}")
        root = roots[0]
        byteorder = archive.read(f"{root}byteorder") if f"{root}byteorder" in entries else b"little"
        _check_little_endian(byteorder == b"little")
        with archive.open(f"{root}data.pkl") as stream:
            content = _load_weights(stream)
    places = {
        name.removeprefix(f"{root}data/"): (_first_byte(file, entry), entry.file_size)
        for name, entry in entries.items()
        if name.startswith(f"{root}data/")
    }
    return content, places


def _first_byte(file: IO[bytes], entry: zipfile.ZipInfo) -> int:
    file.seek(entry.header_offset)
    signature, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise ValueError(f"zip entry {entry.filename} is not where the directory says")
    return entry.header_offset + _LOCAL_HEADER.size + name + extra


def _read_legacy(file: IO[bytes]) -> tuple[dict[str, _View], dict[str, tuple[int, int]]]:
    """The format of PyTorch before 1.6: five pickles, then each storage behind its length."""
    header = [_WeightsOnly(file).load() for _ in range(3)]
    if header[:2] != [_LEGACY_MAGIC, _LEGACY_PROTOCOL]:
        raise ValueError("neither a zip file nor a pickle that starts with PyTorch's magic number")
    _check_little_endian(header[2]["little_endian"])
    content = _load_weights(file)
    storages = {view.storage.key: view.storage for view in content.values()}
    places = {}
    for key in _WeightsOnly(file).load():
        if key not in storages:
            raise ValueError(f"storage {key} belongs to no tensor, so its length is unknown")
        (numel,) = struct.unpack("<q", file.read(8))
        places[key] = file.tell(), numel * DTYPES[storages[key].dtype].itemsize
        file.seek(places[key][1], 1)
    return content, places


def _check_little_endian(little: bool) -> None:
    if not little:
        raise RefusedError(f"its numbers are big-endian, expected little-endian; {_MEND}")


def _load_weights(stream: IO[bytes]) -> dict[str, _View]:
    content = _WeightsOnly(stream).load()
    if not isinstance(content, dict):
        raise RefusedError(f"it holds a {type(content).__name__}, expected a dict; {_MEND}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, _View):
            raise RefusedError(f"{name!r} is a {type(value).__name__}, expected a tensor; {_MEND}")
    return content


class _WeightsOnly(pickle.Unpickler):
    """An unpickler to which only the names that rebuild tensors exist."""

    def __init__(self, stream: IO[bytes]):
        super().__init__(stream)
        # Made anew for each file: a pickle could set attributes of functions that last.
        self.allowed: dict[str, Callable[..., Any] | str] = {
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor_v2": lambda *arguments: _rebuild_view(*arguments),
            "torch._utils._rebuild_parameter": lambda data, requires_grad, hooks: data,
            **{f"torch.{name}": dtype for name, dtype in _STORAGES.items()},
        }

    def find_class(self, module: str, name: str) -> Any:
        wanted = f"{module}.{name}"
        if wanted not in self.allowed:
            raise RefusedError(
                f"it asks for {wanted}, so the file holds code or more than weights; expected a "
                f"dict of ordinary tensors; {_MEND}"
            )
        return self.allowed[wanted]

    def persistent_load(self, pid: tuple[Any, ...]) -> _Storage:
        kind, dtype, key, _, numel, *view = pid
        if kind != "storage" or view not in ([], [None]) or dtype not in _STORAGES.values():
            raise ValueError(f"expected a storage of its own, found {pid}")
        return _Storage(str(key), dtype, numel)


def _rebuild_view(
    storage: _Storage,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    requires_grad: bool,
    hooks: object,
    metadata: object = None,
) -> _View:
    if metadata:  # a tensor that is conjugated or negated when it is read
        raise RefusedError(f"a tensor has the metadata {metadata}, expected none; {_MEND}")
    return _View(storage, offset, shape, strides)


def _stored(
    name: str, view: _View, places: dict[str, tuple[int, int]], path: Path, file_size: int
) -> StoredTensor:
    if view.storage.key not in places:
        raise ValueError(f"{name!r}: its storage {view.storage.key} is missing")
    first, found = places[view.storage.key]
    dtype = DTYPES[view.storage.dtype]
    size = view.storage.numel * dtype.itemsize
    if found != size:
        raise ValueError(f"{name!r}: its storage should have {size} bytes and has {found}")
    if first + size > file_size:
        raise ValueError(f"{name!r} ends after the file's {file_size} bytes")
    shape, strides = tuple(view.shape), tuple(view.strides)
    numbers = (view.storage.numel, view.offset, *shape, *strides)
    if len(shape) != len(strides) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError(f"{name!r}: shape {shape}, strides {strides}, offset {view.offset}")
    last = view.offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= view.storage.numel:
        raise ValueError(f"{name!r} {shape} reaches beyond its storage of {view.storage.numel}")
    start = view.offset * dtype.itemsize
    return StoredTensor(
        shape=shape,
        dtype=dtype,
        path=path,
        strides=tuple(stride * dtype.itemsize for stride in strides),
        pieces=((first + start, size - start),),
    )
