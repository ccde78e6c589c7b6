"""Losses and metrics, the same formulas as `jaxmodels.losses`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.tasks import Task


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, *, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Mean cross-entropy: logits (..., K), integer labels (...) -> scalar, float32 at least.

    Smoothing gives every class smoothing / K, the true one included (Szegedy et al. 2016).
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits, labels = logits.flatten(0, -2), labels.flatten().long()
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The fraction right: logits (..., K), labels (...) -> scalar."""
    return (logits.argmax(dim=-1) == labels).float().mean()


@dataclass(frozen=True)
class Objective:
    """What a batch feeds the model, and what is made of its outputs.

    `inputs` are the entries of the batch that the model is called with. loss, metric: (outputs,
    batch[target]) -> scalar.
    """

    inputs: tuple[str, ...] = ("image",)
    target: str = "label"
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = cross_entropy
    metric: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = accuracy


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
