"""The weights of a Hugging Face model folder, whichever framework wrote them.

    tensors = open_tensors(Path("bert-base-uncased"))  # names, shapes and dtypes: nothing is read
    rows = tensors["embeddings.word_embeddings.weight"].read((slice(0, 8),))

Every tensor comes in torch's name and layout. Files of several formats may lie side by side; the
first of SOURCES is taken. Neither framework is needed, and no code in a file is run.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from jaxmodels.shared.hub.flax_msgpack import read_flax_msgpack
from jaxmodels.shared.hub.stored_tensors import StoredTensor, known_dtype, row_major, unreadable
from jaxmodels.shared.hub.torch_pickles import read_torch_pickle
from jaxmodels.shared.weights import LEAF_RULES

Layout = str | None  # "pt" or "flax"; None where a safetensors file does not say
Tensors = dict[str, StoredTensor]

_SAFETENSORS_DTYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"},
    **{f"I{bits}": f"int{bits}" for bits in (64, 32, 16, 8)},
    **{f"U{bits}": f"uint{bits}" for bits in (64, 32, 16, 8)},
}
_FLAX_LEAVES = {"kernel", "scale", "embedding"}
_FLAX_COLLECTIONS = ("params", "batch_stats")
_LEGACY_LEAVES = {"gamma": "weight", "beta": "bias"}  # LayerNorm's, in checkpoints made from TF
_NOT_READ = {
    ".h5": "TensorFlow's",
    ".ckpt": "TensorFlow's",
    ".onnx": "ONNX's",
    ".gguf": "GGUF's",
    ".ot": "Rust's",
}


def read_safetensors(path: Path) -> tuple[Tensors, Layout]:
    """The tensors of a safetensors file by the names it has, and the layout that it states.

    Raises:
        ValueError: the file is damaged, or its layout or a dtype is one that is not read.
    """
    try:
        with safe_open(path, framework="numpy"):
            pass  # it checks the header against the file's size; offsets it does not tell
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header: Any = json.loads(file.read(size), object_pairs_hook=_unique)
        layout = (header.pop("__metadata__", None) or {}).get("format")
        tensors = {}
        for name, entry in header.items():
            start, end = (8 + size + offset for offset in entry["data_offsets"])
            code: str = entry["dtype"]
            dtype = known_dtype(_SAFETENSORS_DTYPES.get(code, code))
            tensors[name] = row_major(tuple(entry["shape"]), dtype, path, ((start, end - start),))
    except (SafetensorError, ValueError) as error:
        raise unreadable(path, "safetensors", error) from error
    if layout not in ("pt", "flax", None):
        raise ValueError(
            f"{path} has the format {layout!r}, expected 'pt' or 'flax', as other layouts differ; "
            "fetch the model's PyTorch or Flax file"
        )
    return tensors, layout


Reader = Callable[[Path], tuple[Tensors, Layout]]
SOURCES: dict[str, Reader] = {
    "model.safetensors": read_safetensors,
    "flax_model.safetensors": read_safetensors,
    "pytorch_model.bin": lambda path: (read_torch_pickle(path), "pt"),
    "flax_model.msgpack": lambda path: (read_flax_msgpack(path), "flax"),
}


def open_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a Hugging Face model folder, by torch's names and in torch's layout.

    Reads one of SOURCES, or its `.index.json` with the shards that it names; headers only.

    Raises:
        ValueError: the folder has none of them; a file is missing, damaged, or holds code; the
            index and the shards disagree; or two tensors get the same name.
    """
    folder = Path(folder)
    for source, reader in SOURCES.items():
        path, index = folder / source, folder / f"{source}.index.json"
        if path.is_file():
            tensors, layout = _read(path, reader)
        elif index.is_file():
            path = index
            tensors, layout = _read_shards(index, reader)
        else:
            continue
        if not tensors:
            raise ValueError(f"{path} holds no tensors; fetch it again")
        return _in_torch_layout(tensors, layout)
    raise _nothing_to_read(folder)


def read_all(tensors: Mapping[str, StoredTensor]) -> dict[str, np.ndarray]:
    """Reads every tensor; floats of any width become float32, integers and bools stay.

    Raises:
        ValueError: a value is NaN or infinite, or lies outside float32's range.
    """
    return {name: read_values(name, tensor) for name, tensor in tensors.items()}


def read_values(
    name: str, tensor: StoredTensor, index: tuple[slice, ...] | None = None
) -> np.ndarray:
    """`read_all` of one tensor, or of `tensor[index]`, for which only its pages are read."""
    array = tensor.read(index)
    if not np.issubdtype(array.dtype, np.integer) and array.dtype != bool:
        with np.errstate(over="ignore"):  # a float64 too large is found to be infinite below
            array = array.astype(np.float32, copy=False)
    check_finite(name, array, tensor.path)
    return array


def check_finite(name: str, array: np.ndarray, path: Path) -> None:
    """Raises a ValueError that names the tensor and its file if a value is NaN or infinite."""
    bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        raise ValueError(
            f"{path}: {bad} of {array.size} values of {name!r} are NaN or infinite as "
            f"{array.dtype}; expected finite weights; fetch the file again or take another one"
        )


def _read(path: Path, reader: Reader) -> tuple[Tensors, Layout]:
    with path.open("rb") as file:
        start = file.read(24)
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{path} is a Git LFS pointer, not the weights; run `git lfs pull` in its folder"
        )
    return reader(path)


def _read_shards(index: Path, reader: Reader) -> tuple[Tensors, Layout]:
    """All shards' tensors; each must be in the shard that the index names and in no other."""
    shard_of = _read_index(index)
    tensors: Tensors = {}
    layouts: set[Layout] = set()
    for shard in sorted(set(shard_of.values())):
        path = index.parent / shard
        if Path(shard).name != shard or not path.is_file():
            raise ValueError(f"{index} names {shard!r}, which is not beside it; fetch the shard")
        found, layout = _read(path, reader)
        listed = {name for name in shard_of if shard_of[name] == shard}
        for names, fault in (
            (listed - found.keys(), f"lacks tensors that {index.name} places in it"),
            (found.keys() - listed, f"holds tensors that {index.name} does not place in it"),
        ):
            if names:
                raise ValueError(f"{path} {fault}: {_some(names)}; fetch index and shards together")
        tensors |= found
        layouts.add(layout)
    if len(layouts) > 1:
        raise ValueError(
            f"{index}: the shards have the formats {_some(map(str, layouts))}; expected one; fetch "
            "index and shards together"
        )
    return tensors, layouts.pop()


def _read_index(index: Path) -> dict[str, str]:
    """The shard's file name by the tensor's name."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise unreadable(index, "JSON", error) from error
    shard_of = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shard_of, dict) or not shard_of:
        raise ValueError(f"{index} has no weight_map; expected each tensor's file; fetch it again")
    if not all(isinstance(shard, str) for shard in shard_of.values()):
        raise ValueError(f"{index}: weight_map must give a file name for each tensor")
    return shard_of


def _in_torch_layout(tensors: Tensors, layout: Layout) -> dict[str, StoredTensor]:
    # A file without metadata is told by its leaves. Torch's own are called weight, whatever else
    # a module calls its parameters.
    leaves = {re.split(r"[./]", name)[-1] for name in tensors}
    flax = layout == "flax" or (layout is None and leaves & _FLAX_LEAVES and "weight" not in leaves)
    origins: dict[str, str] = {}
    renamed: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        new_name, tensor = (_from_flax if flax else _from_torch)(name, tensor)
        if new_name in renamed:
            raise ValueError(
                f"{tensor.path}: {origins[new_name]!r} and {name!r} are both {new_name!r} in "
                "torch's names; expected one; remove one of the two"
            )
        origins[new_name], renamed[new_name] = name, tensor
    return renamed


def _from_torch(name: str, tensor: StoredTensor) -> tuple[str, StoredTensor]:
    *path, leaf = name.split(".")
    return ".".join((*path, _LEGACY_LEAVES.get(leaf, leaf))), tensor


def _from_flax(name: str, tensor: StoredTensor) -> tuple[str, StoredTensor]:
    """torch's name and layout by the leaf alone; modules keep the names that Flax gave them.

    Flax's GPT-2 keeps its kernels as (out, in), which the same rule turns to torch's (in, out).
    """
    *path, leaf = re.split(r"[./]", name)
    if path and path[0] in _FLAX_COLLECTIONS:
        del path[0]
    if leaf in LEAF_RULES:
        rule, rank = LEAF_RULES[leaf], len(tensor.shape)
        if rule.axes and rank not in rule.axes:
            raise ValueError(
                f"{tensor.path}: {name!r} has shape {tensor.shape}; expected a kernel of rank "
                f"{' or '.join(map(str, rule.axes))}; fetch the model's PyTorch file"
            )
        leaf = rule.torch_name
        tensor = tensor.transposed(rule.axes.get(rank, tuple(range(rank))))
    return ".".join((*path, leaf)), tensor


def _nothing_to_read(folder: Path) -> ValueError:
    if not folder.is_dir():
        return ValueError(f"{folder} is not a folder; expected one with a model's weights")
    found = sorted(file.name for file in folder.iterdir())
    others = {_NOT_READ[suffix] for name in found if (suffix := Path(name).suffix) in _NOT_READ}
    hint = f"; {' and '.join(sorted(others))} files are not read" if others else ""
    return ValueError(
        f"{folder} holds no weights that are read: expected {', '.join(SOURCES)} or one of these "
        f"names with .index.json, found {_some(found) or 'nothing'}{hint}; fetch one of these files"
    )


def _some(names: Iterable[str], limit: int = 8) -> str:
    names = [repr(name) for name in sorted(names)]  # whatever a file calls them, on one line
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if names[limit:] else "")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object; the standard library would keep the last of two equal names."""
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {max(names, key=names.count)!r} occurs twice")
    return result
