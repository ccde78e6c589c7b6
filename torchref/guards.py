"""Skips a step whose loss or gradients are no numbers, or whose loss leaps.

`jaxmodels.shared.guards` says what is skipped; the twin of `jaxmodels.guards`.
"""

import torch
from torch import nn

from jaxmodels.shared.guards import NOT_FINITE, SPIKE, TAKEN, WINDOW, is_guarded
from jaxmodels.shared.tasks import TrainingConfig


class Guard:
    """Judges a model's steps; its tensors are the last losses and how many there were."""

    def __init__(self, training: TrainingConfig, model: nn.Module):
        self.training = training
        self.model = model
        self.losses = torch.zeros(WINDOW)
        self.count = torch.zeros((), dtype=torch.int32)

    def remember(self) -> None:
        """Keeps what a forward pass changes; call before it."""
        self.statistics = [buffer.clone() for buffer in self.model.buffers()]

    @torch.no_grad()
    def judge(self, loss: torch.Tensor) -> int:
        """What `skipped` says of the step with the model's gradients; call before the update.

        Of one that is skipped the model is as it was remembered.
        """
        skipped = TAKEN
        if self.training.spike_factor:
            median = self.losses.sort().values[WINDOW // 2]
            leaps = loss.cpu() > self.training.spike_factor * median
            skipped = SPIKE if self.count >= WINDOW and leaps else skipped
        if self.training.on_nonfinite == "skip":
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            finite = [torch.isfinite(value).all() for value in (loss, *gradients)]
            skipped = skipped if torch.stack(finite).all() else NOT_FINITE
        if skipped == TAKEN:
            self.losses[int(self.count) % WINDOW] = loss.float().cpu()
            self.count += 1
            return skipped
        for buffer, value in zip(self.model.buffers(), self.statistics, strict=True):
            buffer.copy_(value)
        return skipped


def make_guard(training: TrainingConfig, model: nn.Module) -> Guard | None:
    """None where every step is taken."""
    return Guard(training, model) if is_guarded(training) else None
