"""Where parameters lie on a mesh of devices: one table of path patterns for all models.

>>> mesh = make_mesh({"fsdp": 4, "tensor": 2})
>>> parameter_sharding("blocks.0.linear1.kernel", (768, 3072), mesh).spec
PartitionSpec('fsdp', 'tensor')

Models know nothing of it: the compiler follows the parameters' places (GSPMD, Xu et al. 2021).
"""

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# data    each device has its part of a batch, and all parameters
# fsdp    the same, but each has only a part of every parameter, gathered where it is needed
#         (Zhao et al. 2023)
# tensor  each computes a part of every layer (Shoeybi et al. 2019)
AXES = ("data", "fsdp", "tensor")

# The first pattern that is found in a leaf's path says along which axes of the mesh its own axes
# are cut. Where a size does not divide, fsdp cuts the longest of the others that does, and else the
# leaf is whole along that axis of the mesh.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"token_embedding\.embedding$", PartitionSpec("tensor", "fsdp")),  # (V, C)
    # What widens is cut by columns, what narrows again by rows: one sum over devices for the two.
    (r"\b(query|key|value|query_key_value|linear1)\.kernel$", PartitionSpec("fsdp", "tensor")),
    (r"\b(query|key|value|query_key_value|linear1)\.bias$", PartitionSpec("tensor")),
    (r"\b(output|linear2)\.kernel$", PartitionSpec("tensor", "fsdp")),
    (r"\bconv\.kernel$", PartitionSpec(None, None, None, "fsdp")),  # (H, W, in, out)
    (r"\bweight_[ih]h_l", PartitionSpec("fsdp", None)),  # (gates * hidden, in)
    (r"\b(kernel|embedding)$", PartitionSpec(None, "fsdp")),
    (r"", PartitionSpec()),  # biases, norms and statistics are small, and whole everywhere
)


def make_mesh(sizes: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with these axes, of all devices unless told which.

    Raises:
        ValueError: an axis is unknown, or the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    _check_axes(sizes)
    if min(sizes.values(), default=1) < 1 or prod(sizes.values()) != len(devices):
        raise ValueError(
            f"a mesh of {_shown(sizes)} needs {prod(sizes.values())} devices, and there are "
            f"{len(devices)}; the sizes must multiply to that, as in fsdp={len(devices)}"
        )
    # Auto: the compiler propagates shardings. The default would have each operation state its own.
    types = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=types, devices=devices)


def parameter_sharding(name: str, shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Where the leaf of this dotted path and shape lies.

    Raises:
        ValueError: the mesh has an axis that the table does not know.
    """
    _check_axes(mesh.shape)
    spec = next(spec for pattern, spec in RULES if re.search(pattern, name))
    wanted = [*spec, *(None,) * (len(shape) - len(spec))]
    cut = [
        axis if axis in mesh.shape and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(wanted, shape, strict=True)
    ]
    if "fsdp" in mesh.shape and "fsdp" in wanted and "fsdp" not in cut:
        able = [n for n, a in enumerate(cut) if a is None and shape[n] % mesh.shape["fsdp"] == 0]
        if able:
            cut[max(able, key=lambda n: shape[n])] = "fsdp"
    while cut and cut[-1] is None:
        cut.pop()
    return NamedSharding(mesh, PartitionSpec(*cut))


def _check_axes(sizes: Mapping[str, int]) -> None:
    strange = [axis for axis in sizes if axis not in AXES]
    if strange:
        raise ValueError(
            f"a mesh of {_shown(sizes)} has the axis {', '.join(strange)}; expected some of "
            f"{', '.join(AXES)}"
        )


def _shown(sizes: Mapping[str, int]) -> str:
    return ",".join(f"{axis}={size}" for axis, size in sizes.items())
