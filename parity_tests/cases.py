"""A tiny pair for each model, for the tests and the audit; `task_pair` is a task's own model.

>>> climb(CASES["gpt2"](), ["forward", "gradient"])
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import torch
from flax import nnx
from torch import nn

import jaxmodels.frozen
import jaxmodels.lora
import torchref.frozen
import torchref.lora
from jaxmodels.models.attention import MultiHeadAttention
from jaxmodels.models.layers import BatchNorm
from jaxmodels.shared.parameter_groups import layers_of
from jaxmodels.shared.tasks import Task
from parity_tests.own_pairs import make_pair
from parity_tests.pairs import Pair, Recipe
from parity_tests.tiny_configs import ADAPTED, LAYERED, SETTINGS, config_of
from torchref.models.attention import MultiHeadAttention as TorchMultiHeadAttention

# Larger rates make the trajectories themselves diverge: at 0.1 a gradient's float64 rounding has
# grown to 3e-10 after nine steps. The step rung therefore caps the rate, and keeps its bound.
STEP_RATE = {"sgd": 0.01, "proximal-sgd": 0.01, "adamw": 1e-3}


def _case(name: str) -> Pair:
    config, optimizer, schedule, smoothing = SETTINGS[name]
    return make_pair(name, config, Recipe.of(optimizer, schedule, smoothing))


def _lora_case(name: str) -> Pair:
    """A pair of which the adapters alone train."""
    base, config = ADAPTED[name]
    pair = _case(base)
    assert pair.fresh is not None
    of_flax, of_torch = pair.fresh

    def make_flax(seed: int):
        return jaxmodels.lora.add_lora(of_flax(seed), config, seed=seed)

    def make_torch(seed: int):
        return torchref.lora.add_lora(of_torch(seed), config, seed=seed)

    fresh = (make_flax, make_torch)
    return replace(pair, name=name, flax=make_flax(0), torch=make_torch(0), fresh=fresh)


def _layered_case(name: str) -> Pair:
    """A pair of which a part is frozen, and whose rates differ by layer."""
    base, decay, frozen = LAYERED[name]
    pair = _case(base)
    jaxmodels.frozen.freeze_found(pair.flax, frozen)
    torchref.frozen.freeze_found(pair.torch, frozen)
    optimizer = replace(pair.flax_recipe.optimizer, layer_decay=decay)
    recipe = replace(pair.flax_recipe, optimizer=optimizer, layers=layers_of(config_of(base)))
    return replace(pair, name=name, flax_recipe=recipe, torch_recipe=recipe)


class FlaxNorm(nnx.Module):
    """BatchNorm, ReLU, a linear layer on the mean over pixels: images (B, H, W, C) -> (B, K)."""

    def __init__(self, channels: int, num_classes: int):
        self.norm = BatchNorm(channels, momentum=0.1, epsilon=1e-5)
        self.linear = nnx.Linear(channels, num_classes, rngs=nnx.Rngs(0))

    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        return self.linear(jax.nn.relu(self.norm(images, train=train)).mean(axis=(1, 2)))


class TorchNorm(nn.Module):
    """The twin of `FlaxNorm`."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, momentum=0.1, eps=1e-5)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.relu(self.norm(images.permute(0, 3, 1, 2))).mean(dim=(2, 3)))


def _offset_case() -> Pair:
    """Inputs of mean 10 and deviation 1, where a variance E[x^2] - E[x]^2 loses its digits."""
    rng = np.random.default_rng(0)
    batch = {
        "image": (10 + rng.normal(size=(20, 8, 9, 5))).astype(np.float32),
        "label": rng.integers(7, size=20).astype(np.int32),
    }
    return Pair("norm-offset", FlaxNorm(5, 7), TorchNorm(5, 7), batch)


class FlaxMasked(nnx.Module):
    """Attention among valid steps, a linear layer on the mean: x (B, T, C) -> logits (B, K)."""

    def __init__(self, width: int, num_heads: int, num_classes: int):
        shared = {"initializer": "lecun-normal", "dtype": None, "rngs": nnx.Rngs(0)}
        self.attention = MultiHeadAttention(
            width, num_heads, fused=False, dropout_rate=0.3, **shared
        )
        self.linear = nnx.Linear(width, num_classes, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array, valid: jax.Array, *, train: bool = False) -> jax.Array:
        attended, _, _ = self.attention(x, valid[:, None, None], train=train)
        return self.linear(attended.mean(axis=1))


class TorchMasked(nn.Module):
    """The twin of `FlaxMasked`."""

    def __init__(self, width: int, num_heads: int, num_classes: int):
        super().__init__()
        self.attention = TorchMultiHeadAttention(width, num_heads, fused=False, dropout_rate=0.3)
        self.linear = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        attended, _, _ = self.attention(x, valid[:, None, None])
        return self.linear(attended.mean(dim=1))


def _masked_case() -> Pair:
    """Rows of 0 to 8 valid steps of 9: some may attend to nothing at all."""
    rng = np.random.default_rng(0)
    batch = {
        "x": rng.normal(size=(20, 9, 10)).astype(np.float32),
        "valid": np.arange(9) < (np.arange(20) % 9)[:, None],
        "label": rng.integers(7, size=20).astype(np.int32),
    }
    return Pair(
        "attention-masked",
        FlaxMasked(10, 2, 7),
        TorchMasked(10, 2, 7),
        batch,
        flax_call=lambda m, batch, train: m(batch["x"], batch["valid"], train=train),
        torch_call=lambda m, batch: m(batch["x"], batch["valid"]),
    )


CASES: dict[str, Callable[[], Pair]] = {
    **{name: partial(_case, name) for name in SETTINGS},
    **{name: partial(_lora_case, name) for name in ADAPTED},
    **{name: partial(_layered_case, name) for name in LAYERED},
    "norm-offset": _offset_case,
    "attention-masked": _masked_case,
}


def task_pair(task: Task) -> Pair:
    """A task's own model, optimizer, schedule and loss, with the rate capped at `STEP_RATE`."""
    rate = min(task.optimizer.learning_rate, STEP_RATE[task.optimizer.name])
    optimizer = replace(task.optimizer, learning_rate=rate)
    recipe = Recipe.of(optimizer, task.schedule, task.training.label_smoothing)
    recipe = replace(recipe, layers=task.layers())
    return make_pair(task.name, task.model, recipe, batch_size=16)
