"""A Flax model's modules by name, and another computation in the place of one's own."""

from collections.abc import Callable
from typing import Any

from flax import nnx


def named_modules(model: nnx.Module) -> list[tuple[str, nnx.Module]]:
    """Every module by dotted path, the model itself as ""; lists of modules are passed over."""
    return [
        (".".join(map(str, path)), module)
        for path, module in nnx.iter_modules(model)
        if not isinstance(module, nnx.List)
    ]


def replace_call(module: nnx.Module, call: Callable[..., Any]) -> None:
    """Gives one module another `__call__`: Python looks it up on the class, so it gets its own."""
    kind = type(module)
    module.__class__ = type(kind.__name__, (kind,), {"__call__": call})
