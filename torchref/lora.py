"""Low-rank adapters (LoRA, Hu et al. 2022) in any torch model, by surgery that no model knows of.

>>> add_lora(model, LoRAConfig(rank=4), seed=0)  # the same function, of which A and B alone train
>>> optimizer = make_optimizer(task.optimizer, model)  # slots for A and B alone
>>> save_adapter(model, config, "adapter", base="gpt2")  # peft loads it too
>>> originals = merge(model)  # a plain model with W + alpha / rank * B A for each W
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

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
from jaxmodels.shared.weights import without_ignored
from torchref.frozen import freeze, unfreeze
from torchref.weights import read_tensors


class LoRALinear(nn.Linear):
    """x (..., in) -> (..., out): W x + bias + alpha / rank * B A dropout(x)."""

    lora_config: LoRAConfig
    lora_a: nn.Parameter  # (rank, in)
    lora_b: nn.Parameter  # (out, rank)
    lora_dropout: nn.Dropout

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x = self.lora_dropout(input)
        added = F.linear(F.linear(x, self.lora_a), self.lora_b)
        return super().forward(input) + self.lora_config.scale * added


@dataclass(frozen=True)
class Merged:
    """What `merge` took out of a model: the kernels as they were, the adapters, their config."""

    config: LoRAConfig
    kernels: dict[str, torch.Tensor]  # by the layer's path
    adapters: dict[str, torch.Tensor]


def add_lora(model: nn.Module, config: LoRAConfig, *, seed: int) -> nn.Module:
    """Adapts the model in place, and freezes all that it had but the modules to save.

    A and B start as `fresh_adapters` draws them for either framework, so the function is the same
    at first.

    Raises:
        ValueError: a target or a module to save is found nowhere, or the model is adapted already.
    """
    linears = _linears(model)
    paths = find_targets(config, linears)
    if adapted_layers(model):
        raise ValueError("the model has adapters already; merge them first")
    shapes = {path: tuple(linears[path].weight.shape) for path in paths}
    fresh = fresh_adapters(config.rank, shapes, seed=seed)
    weight = linears[paths[0]].weight
    _adapt(model, config, {k: torch.from_numpy(value).to(weight) for k, value in fresh.items()})
    return model


def adapted_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The adapted linear layers by dotted path."""
    return {path: m for path, m in _linears(model).items() if isinstance(m, LoRALinear)}


@torch.no_grad()
def merge(model: nn.Module) -> Merged:
    """Folds every product into its kernel, in place: the model is then a plain one, all of which
    trains. `unmerge` takes what this returns."""
    layers = adapted_layers(model)
    config = _config(layers)
    kernels, adapters = {}, {}
    for path, layer in layers.items():
        lora_a, lora_b = layer.lora_a.detach(), layer.lora_b.detach()
        adapters |= {f"{path}.lora_a": lora_a, f"{path}.lora_b": lora_b}
        kernels[path] = layer.weight.detach().clone()
        product = lora_b @ lora_a
        layer.weight.copy_(kernels[path] + config.scale * product)
        del layer.lora_a, layer.lora_b, layer.lora_dropout, layer.lora_config
        layer.__class__ = nn.Linear  # pyright: ignore[reportAttributeAccessIssue]
    unfreeze(model)
    return Merged(config, kernels, adapters)


@torch.no_grad()
def unmerge(model: nn.Module, merged: Merged) -> None:
    """Undoes `merge`: the kernels have the bits that they had, and the base is frozen again."""
    for path, layer in _linears(model).items():
        if path in merged.kernels:
            layer.weight.copy_(merged.kernels[path])
    _adapt(model, merged.config, merged.adapters)


def save_adapter(
    model: nn.Module, config: ModelConfig, folder: str | Path, *, base: str = ""
) -> None:
    """Writes what was trained so that `load_adapter` in either framework loads it and, where the
    Hub knows the architecture, peft does: the adapters, and the modules to save."""
    layers = adapted_layers(model)
    lora, shapes = _config(layers), _tensor_shapes(model)
    saved = set(find_saved(lora, shapes, layers))
    tensors = {
        name: value
        for name, value in read_tensors(model).items()
        if is_adapter(name) or name.rpartition(".")[0] in saved
    }
    write_adapter(Path(folder), config, lora, tensors, shapes, _linears(model), base=base)


@torch.no_grad()
def load_adapter(model: nn.Module, config: ModelConfig, folder: str | Path) -> nn.Module:
    """Adapts a plain model in place with what peft or `save_adapter` wrote.

    Raises:
        ValueError: the model is adapted already, or the folder holds something else; see
            `read_adapter`.
    """
    linears = {path: (m.out_features, m.in_features) for path, m in _linears(model).items()}
    lora, tensors = read_adapter(Path(folder), config, _tensor_shapes(model), linears)
    add_lora(model, lora, seed=0)
    targets = model.state_dict()
    for name, value in tensors.items():
        targets[name].copy_(torch.from_numpy(value))
    return model


def _adapt(model: nn.Module, config: LoRAConfig, adapters: Mapping[str, torch.Tensor]) -> None:
    paths = modules_of(adapters)
    saved = set(find_saved(config, _tensor_shapes(model), paths))
    freeze(model, lambda name: name.rpartition(".")[0] not in saved)
    for path in paths:
        layer: Any = model.get_submodule(path)
        layer.__class__ = LoRALinear
        assert isinstance(layer, LoRALinear)
        layer.lora_config = config
        layer.lora_a = nn.Parameter(adapters[f"{path}.lora_a"])
        layer.lora_b = nn.Parameter(adapters[f"{path}.lora_b"])
        layer.lora_dropout = nn.Dropout(config.dropout_rate).train(layer.training)


def _linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {path: m for path, m in model.named_modules() if isinstance(m, nn.Linear)}


def _tensor_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Of all that a plain model has, by name."""
    shapes = {
        name: tuple(value.shape) for name, value in without_ignored(model.state_dict()).items()
    }
    return {k: v for k, v in shapes.items() if not is_adapter(k)}


def _config(layers: Mapping[str, LoRALinear]) -> LoRAConfig:
    if not layers:
        raise ValueError("the model has no adapters; add_lora or load_adapter gives it some")
    return next(iter(layers.values())).lora_config
