"""Low-rank adapters (LoRA, Hu et al. 2022) in any torch model, by surgery that no model knows of.

>>> add_lora(model, LoRAConfig(rank=4), seed=0)  # the same function, of which A and B alone train
>>> optimizer = make_optimizer(task.optimizer, model)  # slots for A and B alone
>>> save_adapter(model, config, "adapter", base="gpt2")  # peft loads it too
>>> originals = merge(model)  # a plain model with W + alpha / rank * B A for each W
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from jaxmodels.shared.configs import ModelConfig
from jaxmodels.shared.lora import LoRAConfig, find_targets, read_adapter, write_adapter
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
    adapters: dict[str, tuple[torch.Tensor, torch.Tensor]]


def add_lora(model: nn.Module, config: LoRAConfig, *, seed: int) -> nn.Module:
    """Adapts the model in place, and freezes all that it had: A and B alone train.

    A is drawn from U(-in ** -0.5, in ** -0.5) and B is zero, so the function is the same at first.

    Raises:
        ValueError: a target is found nowhere, or the model is adapted already.
    """
    linears = _linears(model)
    paths = find_targets(config, linears)
    if adapted_layers(model):
        raise ValueError("the model has adapters already; merge them first")
    adapters = {}
    generator = torch.Generator().manual_seed(seed)
    for path in paths:
        num_outputs, num_inputs = linears[path].weight.shape
        weight, bound = linears[path].weight, num_inputs**-0.5
        drawn = torch.rand(config.rank, num_inputs, generator=generator) * (2 * bound) - bound
        adapters[path] = (drawn.to(weight), weight.new_zeros(num_outputs, config.rank))
    _adapt(model, config, adapters)
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
        lora_a, lora_b = adapters[path] = (layer.lora_a.detach(), layer.lora_b.detach())
        kernels[path] = layer.weight.detach().clone()
        product = lora_b @ lora_a
        layer.weight.copy_(kernels[path] + config.scale * product)
        del layer.lora_a, layer.lora_b, layer.lora_dropout, layer.lora_config
        layer.__class__ = nn.Linear  # pyright: ignore[reportAttributeAccessIssue]
    model.requires_grad_(True)
    return Merged(config, kernels, adapters)


@torch.no_grad()
def unmerge(model: nn.Module, merged: Merged) -> None:
    """Undoes `merge`: the kernels have the very same bits as before, and are frozen again."""
    for path, layer in _linears(model).items():
        if path in merged.kernels:
            layer.weight.copy_(merged.kernels[path])
    _adapt(model, merged.config, merged.adapters)


def save_adapter(
    model: nn.Module, config: ModelConfig, folder: str | Path, *, base: str = ""
) -> None:
    """Writes the adapters so that `load_adapter` in either framework loads them and, where the Hub
    knows the architecture, peft does."""
    lora = _config(adapted_layers(model))
    tensors = {k: v for k, v in read_tensors(model).items() if k.endswith((".lora_a", ".lora_b"))}
    write_adapter(Path(folder), config, lora, tensors, _linears(model), base=base)


@torch.no_grad()
def load_adapter(model: nn.Module, config: ModelConfig, folder: str | Path) -> nn.Module:
    """Adapts a plain model in place with what peft or `save_adapter` wrote.

    Raises:
        ValueError: the model is adapted already, or the folder holds something else; see
            `read_adapter`.
    """
    linears = {path: (m.out_features, m.in_features) for path, m in _linears(model).items()}
    lora, tensors = read_adapter(Path(folder), config, linears)
    add_lora(model, lora, seed=0)
    for path, layer in adapted_layers(model).items():
        for name, parameter in (("lora_a", layer.lora_a), ("lora_b", layer.lora_b)):
            parameter.copy_(torch.from_numpy(tensors[f"{path}.{name}"]))
    return model


def _adapt(
    model: nn.Module,
    config: LoRAConfig,
    adapters: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
) -> None:
    model.requires_grad_(False)
    for path, (lora_a, lora_b) in adapters.items():
        layer = model.get_submodule(path)
        layer.__class__ = LoRALinear
        assert isinstance(layer, LoRALinear)
        layer.lora_config = config
        layer.lora_a = nn.Parameter(lora_a)
        layer.lora_b = nn.Parameter(lora_b)
        layer.lora_dropout = nn.Dropout(config.dropout_rate).train(layer.training)


def _linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {path: m for path, m in model.named_modules() if isinstance(m, nn.Linear)}


def _config(layers: Mapping[str, LoRALinear]) -> LoRAConfig:
    if not layers:
        raise ValueError("the model has no adapters; add_lora or load_adapter gives it some")
    return next(iter(layers.values())).lora_config
