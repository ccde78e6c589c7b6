"""Parts of a Flax model that do not train, by surgery that no model knows of.

>>> freeze(model, lambda name: name.startswith("blocks.0."))  # by torch's name of a parameter
>>> graphdef, params, rest = split(model)  # params are what trains; unfreeze(model) undoes it

What is frozen has no gradient and no place in the optimizer, and computes the same function all the
while: a BatchNorm whose scale and bias are both frozen normalises by its running statistics in
training too, and leaves them as they are.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import jax
from flax import nnx

from jaxmodels.models.layers import BatchNorm
from jaxmodels.shared.parameter_groups import find_frozen
from jaxmodels.shared.weights import WeightRules
from jaxmodels.state import Frozen


class FrozenBatchNorm(BatchNorm):
    """A BatchNorm that is in evaluation mode for good."""

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        return super().__call__(x)


def freeze(model: nnx.Module, frozen: Callable[[str], bool]) -> None:
    """Freezes the parameters, by torch's names, that `frozen` says are; in place."""
    for path, module in nnx.iter_modules(model):
        for leaf, value in list(vars(module).items()):
            if type(value) is nnx.Param and frozen(_torch_name((*path, leaf))):
                setattr(module, leaf, Frozen(value[...]))
        if type(module) is BatchNorm and {type(module.scale), type(module.bias)} == {Frozen}:
            become(module, FrozenBatchNorm)


def freeze_found(model: nnx.Module, patterns: tuple[str, ...]) -> None:
    """Freezes the parameters in whose names (torch's) a pattern is found, in place.

    Raises:
        ValueError: a pattern is found in none, nothing is left to train, or the model scans its
            blocks and they would differ.
    """
    if not patterns:
        return
    names = [
        _torch_name((*path, leaf))
        for path, module in nnx.iter_modules(model)
        for leaf, value in vars(module).items()
        if type(value) is nnx.Param
    ]
    found = find_frozen(patterns, names)
    require_equal_blocks(model, found, "frozen")
    freeze(model, found.__contains__)


def unfreeze(model: nnx.Module) -> None:
    """All parameters train, in place."""
    for _, module in nnx.iter_modules(model):
        for leaf, value in list(vars(module).items()):
            if type(value) is Frozen:
                setattr(module, leaf, nnx.Param(value[...]))
        if type(module) is FrozenBatchNorm:
            become(module, BatchNorm)


def become(module: nnx.Module, kind: type[nnx.Module]) -> None:
    """Gives a module another class."""
    # Not by an assignment, of which nnx would make an attribute in the model's structure.
    object.__setattr__(module, "__class__", kind)


def require_equal_blocks(model: nnx.Module, paths: Iterable[str], what: str) -> None:
    """Raises a ValueError where a scan would run blocks that differ in what is at `paths`.

    A scan runs one block with the parameters of each, so all must have the same ones.
    """
    config: Any = getattr(model, "config", None)
    if not getattr(config, "scan_layers", False):
        return
    kinds = Counter(re.sub(r"^blocks\.\d+\.", "blocks.*.", path) for path in paths)
    for kind, count in kinds.items():
        if "*" in kind and count != config.num_layers:
            raise ValueError(
                f"{kind} would be {what} in {count} of {config.num_layers} blocks, which "
                f"scan_layers runs as one; have it {what} in all of them, or set scan_layers=False"
            )


def _torch_name(path: tuple[Any, ...]) -> str:
    return WeightRules().torch_name(".".join(map(str, path)))
