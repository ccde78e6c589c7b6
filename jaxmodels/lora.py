"""Low-rank adapters (LoRA, Hu et al. 2022) in any Flax model, by surgery that no model knows of.

>>> add_lora(model, LoRAConfig(rank=4), seed=0)  # the same function, of which A and B alone train
>>> graphdef, state = init_state(model, optimizer)  # slots for A and B alone
>>> save_adapter(model, config, "adapter", base="gpt2")  # peft loads it too
>>> originals = merge(model)  # a plain model with W + alpha / rank * B A for each W
"""

import inspect
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.frozen import become, freeze, require_equal_blocks, unfreeze
from jaxmodels.shared.adapter_files import read_adapter, write_adapter
from jaxmodels.shared.configs import ModelConfig
from jaxmodels.shared.lora import (
    LoRAConfig,
    find_saved,
    find_targets,
    fresh_adapters,
    is_adapter,
    modules_of,
)
from jaxmodels.shared.weights import WeightRules, to_flax_layout, to_torch_layout
from jaxmodels.state import Leaves, read_leaves, read_shapes

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
    adapters: Leaves


def add_lora(model: nnx.Module, config: LoRAConfig, *, seed: int) -> nnx.Module:
    """Adapts the model in place, and freezes all that it had but the modules to save.

    A and B start as `fresh_adapters` draws them for either framework, so the function is the same
    at first.

    Raises:
        ValueError: a target or a module to save is found nowhere, the model is adapted already, or
            it scans its blocks and they would differ.
    """
    linears = _linears(model)
    paths = find_targets(config, linears)
    if adapted_layers(model):
        raise ValueError("the model has adapters already; merge them first")
    saved = find_saved(config, _tensor_shapes(model), paths)
    require_equal_blocks(model, paths, "adapted")
    require_equal_blocks(model, saved, "saved")
    shapes = {path: linears[path].kernel.shape[::-1] for path in paths}
    fresh = fresh_adapters(config.rank, shapes, seed=seed)
    dtype = linears[paths[0]].kernel.dtype
    _adapt(model, config, {name: jnp.asarray(value.T, dtype) for name, value in fresh.items()})
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
        lora_a, lora_b = layer.lora_a[...], layer.lora_b[...]
        adapters |= {f"{path}.lora_a": lora_a, f"{path}.lora_b": lora_b}
        kernels[path] = layer.kernel[...]
        product = jnp.matmul(lora_a, lora_b, precision="highest")
        layer.kernel[...] = kernels[path] + config.scale * product
        del layer.lora_a, layer.lora_b, layer.lora_dropout, layer.lora_config
        become(layer, nnx.Linear)
    unfreeze(model)
    for _, module in nnx.iter_modules(model):
        become(module, getattr(type(module), "plain_class", type(module)))
    return Merged(config, kernels, adapters)


def unmerge(model: nnx.Module, merged: Merged) -> None:
    """Undoes `merge`: the kernels have the bits that they had, and the base is frozen again."""
    for path, layer in _linears(model).items():
        if path in merged.kernels:
            layer.kernel[...] = merged.kernels[path]
    _adapt(model, merged.config, merged.adapters)


def save_adapter(
    model: nnx.Module, config: ModelConfig, folder: str | Path, *, base: str = ""
) -> None:
    """Writes what was trained so that `load_adapter` in either framework loads it and, where the
    Hub knows the architecture, peft does: the adapters, and the modules to save."""
    layers = adapted_layers(model)
    lora, shapes = _config(layers), _tensor_shapes(model)
    saved = set(find_saved(lora, shapes, layers))
    tensors = {
        name: value
        for name, value in to_torch_layout(read_leaves(model)).items()
        if is_adapter(name) or name.rpartition(".")[0] in saved
    }
    write_adapter(Path(folder), config, lora, tensors, shapes, _linears(model), base=base)


def load_adapter(model: nnx.Module, config: ModelConfig, folder: str | Path) -> nnx.Module:
    """Adapts a plain model in place with what peft or `save_adapter` wrote.

    Raises:
        ValueError: the model is adapted already, or the folder holds something else; see
            `read_adapter`.
    """
    linears = {path: m.kernel.shape[::-1] for path, m in _linears(model).items()}
    lora, tensors = read_adapter(Path(folder), config, _tensor_shapes(model), linears)
    add_lora(model, lora, seed=0)
    variables = {
        name: variable
        for path, variable in nnx.to_flat_state(nnx.state(model))
        if WeightRules().torch_name(name := _dotted(path)) in tensors
    }
    shapes = {name: variable[...].shape for name, variable in variables.items()}
    for name, value in to_flax_layout(tensors, shapes).items():
        variables[name].set_value(jnp.asarray(value, variables[name][...].dtype))
    return model


def _adapt(model: nnx.Module, config: LoRAConfig, adapters: Leaves) -> None:
    modules = {_dotted(path): module for path, module in nnx.iter_modules(model)}
    paths = modules_of(adapters)
    saved = set(find_saved(config, _tensor_shapes(model), paths))
    freeze(model, lambda name: name.rpartition(".")[0] not in saved)
    for path in paths:
        layer = modules[path]
        become(layer, LoRALinear)
        assert isinstance(layer, LoRALinear)
        layer.lora_config = config
        layer.lora_a = nnx.Param(adapters[f"{path}.lora_a"])
        layer.lora_b = nnx.Param(adapters[f"{path}.lora_b"])
        layer.lora_dropout = nnx.Dropout(config.dropout_rate)
    for path, module in modules.items():
        above = any(other.startswith(f"{path}." if path else "") for other in paths)
        told = callable(module) and "rngs" in inspect.signature(module).parameters
        if above and told:
            become(module, _telling(type(module)))


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


def _linears(model: nnx.Module) -> dict[str, nnx.Linear]:
    return {_dotted(p): m for p, m in nnx.iter_modules(model) if isinstance(m, nnx.Linear)}


def _tensor_shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    """Of all that a plain model has, by torch's names and in its layout."""
    shapes = WeightRules().torch_shapes(read_shapes(model))
    return {k: v for k, v in shapes.items() if not is_adapter(k)}


def _config(layers: Mapping[str, LoRALinear]) -> LoRAConfig:
    if not layers:
        raise ValueError("the model has no adapters; add_lora or load_adapter gives it some")
    return next(iter(layers.values())).lora_config


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))
