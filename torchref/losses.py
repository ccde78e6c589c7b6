"""Losses, and what is shown beside them in training: the same formulas as `jaxmodels.losses`."""

import torch
import torch.nn.functional as F

from jaxmodels.shared.targets import IGNORED, median_index


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, *, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Mean cross-entropy: logits (..., K), integer labels (...) -> scalar, float32 at least.

    Labels of `IGNORED` count neither above nor below the line; where all are, the loss is 0.

    Smoothing gives every class smoothing / K, the true one included (Szegedy et al. 2016).
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits, labels = logits.flatten(0, -2), labels.flatten().long()
    total = F.cross_entropy(
        logits, labels, ignore_index=IGNORED, label_smoothing=label_smoothing, reduction="sum"
    )
    return total / (labels != IGNORED).sum().clamp(min=1)


def counted(labels: torch.Tensor) -> torch.Tensor:
    """How many labels the losses and metrics of classes are means over."""
    return (labels != IGNORED).sum()


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The fraction right of labels that count: logits (..., K), labels (...) -> scalar, float32."""
    counted = labels != IGNORED
    right = (logits.argmax(dim=-1) == labels) & counted
    return right.sum().float() / counted.sum().clamp(min=1)


def pinball_loss(
    outputs: torch.Tensor, targets: torch.Tensor, *, quantiles: tuple[float, ...]
) -> torch.Tensor:
    """Mean quantile loss: outputs (..., H, Q), targets (..., H) -> scalar, float32 at least.

    Koenker & Bassett 1978, "Regression quantiles": a target above the output of quantile q costs q
    a unit, one below 1 - q.
    """
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    short = targets[..., None] - outputs  # (..., H, Q)
    levels = torch.tensor(quantiles, dtype=short.dtype, device=short.device)
    return torch.maximum(levels * short, (levels - 1) * short).mean()


def absolute_error(
    outputs: torch.Tensor, targets: torch.Tensor, *, quantiles: tuple[float, ...]
) -> torch.Tensor:
    """Mean |median - target|: outputs (..., H, Q), targets (..., H) -> scalar, float32 at least."""
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    return (outputs[..., median_index(quantiles)] - targets).abs().mean()


def half_squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Half the mean square of the errors: outputs (B,), targets (B,) -> scalar, float32 at least.

    Of one row (x, d), whose error is e, a step of gradient descent at rate mu is the LMS filter's
    w += mu * e * x (Widrow & Hoff 1960).
    """
    return squared_error(outputs, targets) / 2


def squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean square of the errors: outputs (B,), targets (B,) -> scalar, float32 at least."""
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    return ((outputs - targets) ** 2).mean()
