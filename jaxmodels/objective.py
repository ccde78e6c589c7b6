"""What a batch feeds a model, and what is made of its outputs: a task's objective.

>>> objective = make_objective(TASKS["cifar10-resnet20"])
>>> objective.loss(model(*[batch[name] for name in objective.inputs]), batch[objective.target])
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from jaxmodels.losses import (
    absolute_error,
    accuracy,
    counted,
    cross_entropy,
    half_squared_error,
    pinball_loss,
    squared_error,
)
from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.tasks import Task


@dataclass(frozen=True)
class Objective:
    """`inputs` are the entries of the batch that the model is called with, in order.

    loss, metric: (outputs, batch[target]) -> scalar, a mean over count(batch[target]) items.
    """

    inputs: tuple[str, ...] = ("image",)
    target: str = "label"
    loss: Callable[[jax.Array, jax.Array], jax.Array] = cross_entropy
    metric: Callable[[jax.Array, jax.Array], jax.Array] = accuracy
    count: Callable[[jax.Array], jax.Array | int] = counted


def make_objective(task: Task) -> Objective:
    """The loss that the task's family names, with the task's settings."""
    family = family_of(task)
    if family.LOSS == "pinball":
        quantiles = task.model.quantiles  # type: ignore[union-attr]
        loss = partial(pinball_loss, quantiles=quantiles)
        metric, count = partial(absolute_error, quantiles=quantiles), jnp.size
    elif family.LOSS == "half-squared-error":
        loss, metric, count = half_squared_error, squared_error, jnp.size
    else:
        loss = partial(cross_entropy, label_smoothing=task.training.label_smoothing)
        metric, count = accuracy, counted
    return Objective(family.INPUTS, family.TARGET, loss, metric, count)
