"""A Flax NNX model as flat dicts of arrays by dotted path, and back.

`{"blocks.0.convnorm1.conv.kernel": array, ...}` is the form in which this project trains, shards,
checkpoints and compares models: one name a tensor, the same in every place.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

Leaves = dict[str, jax.Array]


class Frozen(nnx.Variable):
    """A parameter that does not train: it has no gradient and no place in the optimizer."""


def split(model: nnx.Module) -> tuple[nnx.GraphDef, Leaves, Leaves]:
    """The model's static structure, its parameters and its other state.

    That is BatchNorm's statistics and what is `Frozen`.
    """
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    return graphdef, _flatten(params), _flatten(rest)


def merge(graphdef: nnx.GraphDef, params: Leaves, rest: Leaves) -> nnx.Module:
    """The inverse of `split`; cheap enough to call inside a jitted function."""
    # Bare arrays, so that each becomes the kind of variable that the structure says.
    return nnx.merge(
        graphdef, nnx.from_flat_state([(_path(k), v) for k, v in (params | rest).items()])
    )


def read_leaves(model: nnx.Module) -> dict[str, np.ndarray]:
    """Every parameter and statistic, on the host."""
    _, params, rest = split(model)
    return {name: np.asarray(value) for name, value in (params | rest).items()}


def read_shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter and statistic, also of a model that `nnx.eval_shape` made."""
    flat = nnx.to_flat_state(nnx.state(model))
    return {_dotted(path): variable.get_value().shape for path, variable in flat}


def write_leaves(model: nnx.Module, leaves: Mapping[str, np.ndarray]) -> None:
    """Replaces every parameter and statistic, in place; the model takes the arrays' dtype."""
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        variable.set_value(jnp.asarray(leaves[_dotted(path)]))


def cast(model: nnx.Module, dtype: jnp.dtype) -> nnx.Module:
    """A copy of the model with every leaf in `dtype`."""
    graphdef, params, rest = split(model)
    return merge(graphdef, *({k: v.astype(dtype) for k, v in d.items()} for d in (params, rest)))


def _flatten(state: nnx.State) -> Leaves:
    return {_dotted(path): variable.get_raw_value() for path, variable in nnx.to_flat_state(state)}


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def _path(name: str) -> tuple[str | int, ...]:
    return tuple(int(part) if part.isdigit() else part for part in name.split("."))
