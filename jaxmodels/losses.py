"""Losses and metrics, the same formulas as `torchref.losses`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.tasks import Task


def cross_entropy(
    logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0
) -> jax.Array:
    """Mean cross-entropy: logits (..., K), integer labels (...) -> scalar, float32 at least.

    Smoothing gives every class smoothing / K, the true one included (Szegedy et al. 2016), as
    torch does; some Flax examples spread it over the K - 1 others.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    log_probabilities = jax.nn.log_softmax(logits)
    of_label = jnp.take_along_axis(log_probabilities, labels[..., None], axis=-1)[..., 0]
    smooth = log_probabilities.mean(axis=-1)
    return -((1 - label_smoothing) * of_label + label_smoothing * smooth).mean()


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The fraction right: logits (..., K), labels (...) -> scalar."""
    return (logits.argmax(axis=-1) == labels).mean()


@dataclass(frozen=True)
class Objective:
    """What a batch feeds the model, and what is made of its outputs.

    `inputs` are the entries of the batch that the model is called with. loss, metric: (outputs,
    batch[target]) -> scalar.
    """

    inputs: tuple[str, ...] = ("image",)
    target: str = "label"
    loss: Callable[[jax.Array, jax.Array], jax.Array] = cross_entropy
    metric: Callable[[jax.Array, jax.Array], jax.Array] = accuracy


def make_objective(task: Task) -> Objective:
    """A task's objective, its family's loss by name."""
    family = family_of(task)
    losses = {
        "cross-entropy": (
            partial(cross_entropy, label_smoothing=task.training.label_smoothing),
            accuracy,
        ),
    }
    return Objective(family.INPUTS, family.TARGET, *losses[family.LOSS])
