"""Where arrays lie on a mesh of devices: one table of path patterns for all models and batches.

>>> mesh = make_mesh({"fsdp": 4, "tensor": 2})
>>> parameter_sharding("blocks.0.linear1.kernel", (768, 3072), mesh).spec
PartitionSpec('fsdp', 'tensor')

Models know nothing of it: the compiler follows the places of parameters and batches (GSPMD, Xu et
al. 2021). The axes are described in `jaxmodels.shared.meshes`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxmodels.shared.meshes import (
    ROW_AXES,
    check_axes,
    check_devices,
    row_parts,
    shown,
)
from jaxmodels.state import Frozen

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

# The same of a batch's entries.
BATCH_RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"^(tokens|targets|input_ids|attention_mask|inputs)$", PartitionSpec(ROW_AXES, "sequence")),
    (r"", PartitionSpec(ROW_AXES)),
)
_CARRY = PartitionSpec(None, ROW_AXES)  # (directions, B, H)


def make_mesh(sizes: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with these axes, of all devices unless told which.

    Raises:
        ValueError: an axis is unknown, or the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    check_axes(sizes, shown(sizes))
    check_devices(sizes, len(devices), simulated=devices[0].platform == "cpu")
    # Auto: the compiler propagates shardings. The default would have each operation state its own.
    types = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=types, devices=devices)


def parameter_sharding(name: str, shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Where the leaf of this dotted path and shape lies.

    Raises:
        ValueError: the mesh has an axis that the table does not know.
    """
    check_axes(mesh.shape, shown(mesh.shape))
    spec = next(spec for pattern, spec in RULES if re.search(pattern, name))
    cut = _fitting(spec, shape, mesh)
    if "fsdp" in mesh.shape and "fsdp" in spec and "fsdp" not in cut:
        able = [n for n, a in enumerate(cut) if a is None and shape[n] % mesh.shape["fsdp"] == 0]
        if able:
            cut[max(able, key=lambda n: shape[n])] = "fsdp"
    return _sharding(mesh, cut)


def parameter_shardings(leaves: Mapping[str, Any], mesh: Mesh) -> dict[str, NamedSharding]:
    """Where each leaf lies, of arrays or shapes by dotted path."""
    return {name: parameter_sharding(name, leaf.shape, mesh) for name, leaf in leaves.items()}


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """Where each leaf of a training state lies; its leaves may be shapes alone.

    The optimizer's slots and the average lie as their parameters do.
    """

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        part, name = path[0].key, getattr(path[-1], "key", "")
        if name in state["params"] or part == "stats":
            return parameter_sharding(name, leaf.shape, mesh)
        return replicated(mesh)  # a count

    carry = {"carry": carry_shardings(state["carry"], mesh)} if "carry" in state else {}
    others = {part: value for part, value in state.items() if part != "carry"}
    return jax.tree_util.tree_map_with_path(place, others) | carry


def batch_shardings(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, NamedSharding]:
    """Where each entry of a batch lies, of arrays or shapes; whole where a size does not divide."""

    def place(name: str, shape: tuple[int, ...]) -> NamedSharding:
        spec = next(spec for pattern, spec in BATCH_RULES if re.search(pattern, name))
        return _sharding(mesh, _fitting(PartitionSpec(*spec[: len(shape)]), shape, mesh))

    return {name: place(name, value.shape) for name, value in batch.items()}


def stacked(sharding: NamedSharding) -> NamedSharding:
    """Of several such arrays along a new first axis, which is not cut."""
    return NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))


def carry_shardings(carry: Any, mesh: Mesh) -> Any:
    """Where each array (directions, B, H) of a carry lies: cut as its rows are."""
    return jax.tree.map(lambda part: _sharding(mesh, _fitting(_CARRY, part.shape, mesh)), carry)


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The batch on the mesh, from this process's own rows of it; one process has them all.

    Raises:
        ValueError: the rows do not divide by the parts into which the mesh cuts them.
    """
    own, processes = own_row_parts(mesh)
    rows = max((len(value) for value in batch.values() if value.ndim), default=0)
    if rows % own:
        raise ValueError(
            f"--mesh {shown(mesh.shape)} cuts a batch into {own} parts a process, which does not "
            f"divide its {rows} rows; try a batch size of {-(-rows // own) * own * processes}, or "
            "data and fsdp that divide it"
        )
    shapes = {
        name: (len(value) * processes, *value.shape[1:]) if value.ndim else ()
        for name, value in batch.items()
    }
    shardings = batch_shardings(
        {name: jax.ShapeDtypeStruct(shape, batch[name].dtype) for name, shape in shapes.items()},
        mesh,
    )
    return {
        name: jax.make_array_from_process_local_data(shardings[name], batch[name], shape)
        for name, shape in shapes.items()
    }


def own_row_parts(mesh: Mesh) -> tuple[int, int]:
    """Of a batch's rows: how many of the mesh's parts this process has, and in how many processes
    the others are."""
    axes = [n for n, axis in enumerate(mesh.axis_names) if axis in ROW_AXES]
    own = {
        tuple(place[axis] for axis in axes)
        for place, device in np.ndenumerate(mesh.devices)
        if device.process_index == jax.process_index()
    }
    return len(own), row_parts(mesh.shape) // len(own)


def spread_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The batch on the mesh, where every process has all rows; whole where they do not divide."""
    shardings = batch_shardings(batch, mesh)
    return {name: place(value, shardings[name]) for name, value in batch.items()}


def fill_rows(batch: Mapping[str, np.ndarray], parts: int) -> dict[str, np.ndarray]:
    """The batch with its last row repeated until the rows divide by `parts`."""

    def fill(value: np.ndarray) -> np.ndarray:
        return np.concatenate([value, np.repeat(value[-1:], -len(value) % parts, axis=0)])

    return {name: fill(value) for name, value in batch.items()}


def place(value: np.ndarray, sharding: NamedSharding | None) -> jax.Array:
    """A copy of an array that every process has, each device's part in its place."""
    if sharding is None:
        return jnp.array(value)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index].copy())


def to_host(value: jax.Array) -> np.ndarray:
    """The whole array, in every process."""
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        value = _gather(value.sharding.mesh)(value)  # type: ignore[attr-defined]
    return np.asarray(value)


def gather_where_read(model: nnx.Module, mesh: Mesh | None) -> nnx.Module:
    """Within a program: the model, whose parameters are gathered along fsdp where they are read.

    A gradient is scattered there. Left to itself, the compiler may rather cut the activations by
    their features, as if fsdp were tensor, and send these.
    """
    if mesh is None or mesh.shape.get("fsdp", 1) == 1:
        return model
    for path, variable in nnx.to_flat_state(nnx.state(model, (nnx.Param, Frozen))):
        name, shape = ".".join(map(str, path)), variable.get_raw_value().shape
        cut = parameter_sharding(name, shape, mesh)
        if "fsdp" in cut.spec:
            variable.set_metadata(on_get_value=_gathering(cut))
    return model


@cache  # one function for each, so that the structures of equal blocks are equal
def _gathering(cut: NamedSharding) -> Callable[[nnx.Variable, jax.Array], jax.Array]:
    whole = NamedSharding(cut.mesh, PartitionSpec(*(a if a != "fsdp" else None for a in cut.spec)))

    @jax.custom_vjp
    def gather(value: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(value, whole)

    def scatter(_: None, gradient: jax.Array) -> tuple[jax.Array]:
        # Summed whole and then cut, which is a reduce-scatter; cut alone would reach back to what
        # is summed, and move that.
        gradient = jax.lax.with_sharding_constraint(gradient, whole)
        return (jax.lax.with_sharding_constraint(gradient, cut),)

    gather.defvjp(lambda value: (gather(value), None), scatter)
    return lambda variable, value: gather(value)


def constrain(tree: Any, shardings: Any) -> Any:
    """Within a program: the tree, to be laid so."""
    return jax.tree.map(jax.lax.with_sharding_constraint, tree, shardings)


@cache
def _gather(mesh: Mesh) -> Any:
    return jax.jit(lambda value: value, out_shardings=replicated(mesh))


def _fitting(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh) -> list[Any]:
    """The axes of `spec` that the mesh has, by which the shape's sizes divide."""
    wanted = [*spec, *(None,) * (len(shape) - len(spec))]
    cut = []
    for axes, size in zip(wanted, shape, strict=True):
        present = tuple(
            a for a in ((axes,) if isinstance(axes, str) else axes or ()) if a in mesh.shape
        )
        fits = present and size % prod(mesh.shape[axis] for axis in present) == 0
        cut.append((present[0] if len(present) == 1 else present) if fits else None)
    return cut


def _sharding(mesh: Mesh, cut: list[Any]) -> NamedSharding:
    while cut and cut[-1] is None:
        cut.pop()
    return NamedSharding(mesh, PartitionSpec(*cut))
