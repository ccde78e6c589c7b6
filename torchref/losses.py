"""Losses, and what is shown beside them in training: the same formulas as `jaxmodels.losses`."""

import torch
import torch.nn.functional as F

from jaxmodels.shared.configs import median_index


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
    """The fraction right: logits (..., K), integer labels (...) -> scalar, float32."""
    return (logits.argmax(dim=-1) == labels).float().mean()


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
