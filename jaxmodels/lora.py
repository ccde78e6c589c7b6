"""Low-rank adapters (LoRA, Hu et al. 2022) in any Flax model, by surgery that no model knows of.

>>> add_lora(model, LoRAConfig(rank=4), seed=0)  # the same function, of which A and B alone train
>>> graphdef, state = init_state(model, optimizer)  # slots for A and B alone
>>> save_adapter(model, config, "adapter", base="gpt2")  # peft loads it too
>>> originals = merge(model)  # a plain model with W + alpha / rank * B A for each W
"""

import inspect
import re
from collections import Counter
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxmodels.shared.configs import ModelConfig
from jaxmodels.shared.lora import LoRAConfig, find_targets, read_adapter, write_adapter
from jaxmodels.shared.weights import to_flax_layout, to_torch_layout
from jaxmodels.state import Frozen, Leaves, read_leaves

# `train` and `rngs` of the innermost call under way of a module that has an adapted layer in it.
_CALL: ContextVar[tuple[bool, nnx.Rngs | None]] = ContextVar("_CALL", default=(False, None))


class LoRALinear(nnx.Linear):
    """x (..., in) -> (..., out): W x + bias + alpha / rank * B A dropout(x)."""

    lora_config: LoRAConfig
    lora_a: nnx.Param[jax.Array]  # (in, rank)
    lora_b: nnx.Param[jax.Array]  # (rank, out)
    lora_dropout: nnx.Dropout

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        train, rngs = _CALL.get()
        lora_a, lora_b = self.lora_a[...], self.lora_b[...]
        dtype = self.dtype or lora_a.dtype
        x = self.lora_dropout(inputs, deterministic=not train, rngs=rngs).astype(dtype)
        added = x @ lora_a.astype(dtype) @ lora_b.astype(dtype)
        return super().__call__(inputs, out_sharding) + self.lora_config.scale * added


@dataclass(frozen=True)
class Merged:
    """What `merge` took out of a model: the kernels as they were, the adapters, their config."""

    config: LoRAConfig
    kernels: Leaves  # by the layer's path
    adapters: dict[str, tuple[jax.Array, jax.Array]]


def add_lora(model: nnx.Module, config: LoRAConfig, *, seed: int) -> nnx.Module:
    """Adapts the model in place, and freezes all that it had: A and B alone train.

    A is drawn from U(-in ** -0.5, in ** -0.5) and B is zero, so the function is the same at first.

    Raises:
        ValueError: a target is found nowhere, the model is adapted already, or it scans its blocks
            and they would differ.
    """
    linears = _linears(model)
    paths = find_targets(config, linears)
    if adapted_layers(model):
        raise ValueError("the model has adapters already; merge them first")
    _require_equal_blocks(model, paths)
    adapters = {}
    keys = jax.random.split(jax.random.key(seed), len(paths))
    for path, key in zip(paths, keys, strict=True):
        num_inputs, num_outputs = linears[path].kernel.shape
        dtype, bound = linears[path].kernel.dtype, num_inputs**-0.5
        lora_a = jax.random.uniform(key, (num_inputs, config.rank), dtype, -bound, bound)
        adapters[path] = (lora_a, jnp.zeros((config.rank, num_outputs), dtype))
    _adapt(model, config, adapters)
    return model


def adapted_layers(model: nnx.Module) -> dict[str, LoRALinear]:
    """The adapted linear layers by dotted path."""
    return {path: m for path, m in _linears(model).items() if isinstance(m, LoRALinear)}


def merge(model: nnx.Module) -> Merged:
    """Folds every product into its kernel, in place: the model is then a plain one, all of which
    trains. `unmerge` takes what this returns."""
    layers = adapted_layers(model)
    config = _config(layers)
    kernels, adapters = {}, {}
    for path, layer in layers.items():
        lora_a, lora_b = adapters[path] = (layer.lora_a[...], layer.lora_b[...])
        kernels[path] = layer.kernel[...]
        product = jnp.matmul(lora_a, lora_b, precision="highest")
        layer.kernel[...] = kernels[path] + config.scale * product
        del layer.lora_a, layer.lora_b, layer.lora_dropout, layer.lora_config
        _become(layer, nnx.Linear)
    _change_kind(model, Frozen, nnx.Param)
    for _, module in nnx.iter_modules(model):
        _become(module, getattr(type(module), "plain_class", type(module)))
    return Merged(config, kernels, adapters)


def unmerge(model: nnx.Module, merged: Merged) -> None:
    """Undoes `merge`: the kernels have the very same bits as before, and are frozen again."""
    for path, layer in _linears(model).items():
        if path in merged.kernels:
            layer.kernel[...] = merged.kernels[path]
    _adapt(model, merged.config, merged.adapters)


def save_adapter(
    model: nnx.Module, config: ModelConfig, folder: str | Path, *, base: str = ""
) -> None:
    """Writes the adapters so that `load_adapter` in either framework loads them and, where the Hub
    knows the architecture, peft does."""
    lora = _config(adapted_layers(model))
    leaves = {k: v for k, v in read_leaves(model).items() if k.endswith((".lora_a", ".lora_b"))}
    tensors = to_torch_layout(leaves)
    write_adapter(Path(folder), config, lora, tensors, _linears(model), base=base)


def load_adapter(model: nnx.Module, config: ModelConfig, folder: str | Path) -> nnx.Module:
    """Adapts a plain model in place with what peft or `save_adapter` wrote.

    Raises:
        ValueError: the model is adapted already, or the folder holds something else; see
            `read_adapter`.
    """
    linears = {path: m.kernel.shape[::-1] for path, m in _linears(model).items()}
    lora, tensors = read_adapter(Path(folder), config, linears)
    add_lora(model, lora, seed=0)
    shapes = {name: tensor.shape[::-1] for name, tensor in tensors.items()}
    _write_adapters(model, to_flax_layout(tensors, shapes))
    return model


def _require_equal_blocks(model: nnx.Module, paths: list[str]) -> None:
    """A scan runs one block with the parameters of each, so all must have the same ones."""
    config: Any = getattr(model, "config", None)
    if not getattr(config, "scan_layers", False):
        return
    kinds = Counter(re.sub(r"^blocks\.\d+\.", "blocks.*.", path) for path in paths)
    for kind, count in kinds.items():
        if "*" in kind and count != config.num_layers:
            raise ValueError(
                f"{kind} would be adapted in {count} of {config.num_layers} blocks, which "
                "scan_layers runs as one; adapt it in all of them, or set scan_layers=False"
            )


def _write_adapters(model: nnx.Module, leaves: Mapping[str, np.ndarray]) -> None:
    for path, layer in adapted_layers(model).items():
        for name, variable in (("lora_a", layer.lora_a), ("lora_b", layer.lora_b)):
            variable[...] = jnp.asarray(leaves[f"{path}.{name}"], variable.dtype)


def _adapt(
    model: nnx.Module, config: LoRAConfig, adapters: Mapping[str, tuple[jax.Array, jax.Array]]
) -> None:
    _change_kind(model, nnx.Param, Frozen)
    modules = {_dotted(path): module for path, module in nnx.iter_modules(model)}
    for path, (lora_a, lora_b) in adapters.items():
        layer = modules[path]
        _become(layer, LoRALinear)
        assert isinstance(layer, LoRALinear)
        layer.lora_config = config
        layer.lora_a = nnx.Param(lora_a)
        layer.lora_b = nnx.Param(lora_b)
        layer.lora_dropout = nnx.Dropout(config.dropout_rate)
    for path, module in modules.items():
        above = any(other.startswith(f"{path}." if path else "") for other in adapters)
        told = callable(module) and "rngs" in inspect.signature(module).parameters
        if above and told:
            _become(module, _telling(type(module)))


@cache  # one class for each, so that the structures of equal blocks are equal
def _telling(kind: type[nnx.Module]) -> type[nnx.Module]:
    """The module class, whose calls tell adapted layers of `train` and `rngs`.

    A linear layer is called with neither, but the dropout in it needs both. They are those of the
    innermost module above, for a block that is scanned or computed anew has its own `rngs`.
    """

    def call(
        self: Any, *args: Any, train: bool = False, rngs: nnx.Rngs | None = None, **options: Any
    ):
        token = _CALL.set((train, rngs))
        try:
            return kind.__call__(self, *args, train=train, rngs=rngs, **options)  # type: ignore[operator]
        finally:
            _CALL.reset(token)

    return type(kind.__name__, (kind,), {"__call__": call, "plain_class": kind})


def _become(module: nnx.Module, kind: type[nnx.Module]) -> None:
    # Not by an assignment, of which nnx would make an attribute in the model's structure.
    object.__setattr__(module, "__class__", kind)


def _change_kind(model: nnx.Module, old: type[nnx.Variable], new: type[nnx.Variable]) -> None:
    for _, module in nnx.iter_modules(model):
        for name, value in list(vars(module).items()):
            if type(value) is old:
                setattr(module, name, new(value[...]))


def _linears(model: nnx.Module) -> dict[str, nnx.Linear]:
    return {_dotted(p): m for p, m in nnx.iter_modules(model) if isinstance(m, nnx.Linear)}


def _config(layers: Mapping[str, LoRALinear]) -> LoRAConfig:
    if not layers:
        raise ValueError("the model has no adapters; add_lora or load_adapter gives it some")
    return next(iter(layers.values())).lora_config


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))
