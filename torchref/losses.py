"""Losses, the same formulas as `jaxmodels.losses`."""

import torch
import torch.nn.functional as F


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, *, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Mean cross-entropy: logits (..., K), integer labels (...) -> scalar, float32 at least.

    Smoothing gives every class smoothing / K, the true one included (Szegedy et al. 2016).
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits, labels = logits.flatten(0, -2), labels.flatten().long()
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
