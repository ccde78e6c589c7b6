"""Losses, the same formulas as `jaxmodels.losses`."""

import torch
import torch.nn.functional as F


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, *, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Mean cross-entropy: logits (B, K), integer labels (B,) -> scalar, float32 at least.

    Smoothing gives every class smoothing / K, the true one included (Szegedy et al. 2016).
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, labels.long(), label_smoothing=label_smoothing)
