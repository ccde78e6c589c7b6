"""A tiny pair for each model: sizes pairwise distinct, so that no wrong transpose fits.

`CASES` are for the tests and the audit; `task_pair` is a task's own model at its real size.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

import jaxmodels.models
import torchref.models
from jaxmodels.shared.configs import (
    CNNConfig,
    LogisticRegressionConfig,
    ModelConfig,
    ResNetConfig,
    SimpleCNNConfig,
)
from jaxmodels.shared.schedules import ScheduleConfig
from jaxmodels.shared.tasks import OptimizerConfig, Task
from parity_tests.pairs import Pair, Recipe

# Larger rates make the trajectories themselves diverge: at 0.1 a gradient's float64 rounding has
# grown to 3e-10 after nine steps. The step rung therefore caps the rate, and keeps its bound.
STEP_RATE = {"sgd": 0.01, "adamw": 1e-3}

_SGD = OptimizerConfig(learning_rate=0.01, nesterov=True, weight_decay=5e-3)
_ADAMW = OptimizerConfig(
    name="adamw", learning_rate=1e-3, weight_decay=0.05, clip_norm=0.5, l1=1e-3
)
_ONE_CYCLE = ScheduleConfig(name="one-cycle", warmup_fraction=0.3)

_CONFIGS: dict[str, tuple[ModelConfig, OptimizerConfig, ScheduleConfig, float]] = {
    "logistic": (
        LogisticRegressionConfig(image_size=6, in_channels=2, num_classes=7, initializer="he-normal"),
        dataclasses.replace(_SGD, l1=1e-3, clip_norm=0.7, decay_mask="all"),
        ScheduleConfig(name="step"),
        0.0,
    ),
    "simplecnn": (
        SimpleCNNConfig(
            image_size=12,
            in_channels=2,
            num_classes=7,
            channels=(5, 6),
            kernel_size=3,
            hidden_dims=(11, 9),
            activation="swish",
            dropout_rate=0.3,
        ),
        _ADAMW,
        ScheduleConfig(name="cosine", warmup_fraction=0.2),
        0.1,
    ),
    "simplecnn-norm": (
        SimpleCNNConfig(
            image_size=12,
            in_channels=2,
            num_classes=7,
            channels=(5, 6),
            kernel_size=5,
            hidden_dims=(11, 9),
            batch_norm=True,
        ),
        _ADAMW,
        _ONE_CYCLE,
        0.0,
    ),
    "cnn": (
        CNNConfig(
            image_size=8,
            in_channels=2,
            num_classes=7,
            stage_channels=(4, 5),
            hidden_dim=9,
            activation="swish",
            dropout_rate=0.3,
            stage_dropout_rate=0.2,
        ),
        dataclasses.replace(_SGD, clip_norm=0.7, nesterov=False),
        _ONE_CYCLE,
        0.1,
    ),
    "resnet-a": (
        ResNetConfig(
            depth=8, stage_channels=(4, 5, 6), image_size=16, in_channels=3, num_classes=7
        ),
        _SGD,
        _ONE_CYCLE,
        0.0,
    ),
    "resnet-b": (
        ResNetConfig(
            depth=8,
            shortcut="B",
            stage_channels=(4, 5, 6),
            image_size=16,
            in_channels=3,
            num_classes=7,
        ),
        _SGD,
        _ONE_CYCLE,
        0.1,
    ),
}


def make_pair(
    name: str,
    config: ModelConfig,
    recipe: Recipe,
    *,
    batch_size: int = 10,
    offset: float = 0.5,
    seed: int = 0,
) -> Pair:
    """The project's own pair for a config, with a random batch whose pixels have mean `offset`."""
    rng = np.random.default_rng(seed)
    shape = (batch_size, config.image_size, config.image_size, config.in_channels)
    batch = {
        "image": (offset + rng.normal(size=shape)).astype(np.float32),
        "label": rng.integers(config.num_classes, size=batch_size).astype(np.int32),
    }

    def make_flax(seed: int):
        return jaxmodels.models.create(config, seed=seed)

    def make_torch(seed: int):
        return torchref.models.create(config, seed=seed)

    return Pair(
        name,
        make_flax(seed),
        make_torch(seed),
        batch,
        flax_recipe=recipe,
        torch_recipe=recipe,
        fresh=(make_flax, make_torch),
    )


def _case(name: str) -> Pair:
    config, optimizer, schedule, smoothing = _CONFIGS[name]
    return make_pair(name, config, Recipe.of(optimizer, schedule, smoothing))


CASES: dict[str, Callable[[], Pair]] = {
    name: (lambda name=name: _case(name)) for name in _CONFIGS
} | {
    # Inputs far from zero, where a variance computed as E[x^2] - E[x]^2 loses its digits.
    "resnet-offset": lambda: make_pair(
        "resnet-offset",
        _CONFIGS["resnet-a"][0],
        Recipe.of(_SGD, _ONE_CYCLE, 0.0),
        offset=100,
    )
}


def task_pair(task: Task) -> Pair:
    """A task's own model, optimizer, schedule and loss, with the rate capped at `STEP_RATE`."""
    rate = min(task.optimizer.learning_rate, STEP_RATE[task.optimizer.name])
    optimizer = dataclasses.replace(task.optimizer, learning_rate=rate)
    recipe = Recipe.of(optimizer, task.schedule, task.training.label_smoothing)
    return make_pair(task.name, task.model, recipe, batch_size=16)
