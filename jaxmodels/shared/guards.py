"""Steps that are not taken: their loss or gradients are no numbers, or their loss leaps.

A loss leaps that is over `training.spike_factor` times the median of the last `WINDOW` losses of
steps that were taken; before there are so many none does. Each framework tells by `skipped` among a
step's metrics, and its model, optimizer, statistics and carry are then as before the step.
"""

from dataclasses import dataclass
from typing import Any

from jaxmodels.shared.run import NonFiniteLossError, check_finite
from jaxmodels.shared.tasks import TrainingConfig

WINDOW = 31  # odd: the median is one of them
TAKEN, NOT_FINITE, SPIKE = 0, 1, 2  # what `skipped` says


def is_guarded(training: TrainingConfig) -> bool:
    """Whether any step may be skipped."""
    return training.on_nonfinite == "skip" or training.spike_factor > 0


@dataclass
class Sums:
    """Loss and metric of an epoch's steps so far, and how many were skipped: JSON by `vars`."""

    loss: float = 0.0
    metric: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0  # of earlier epochs too

    def add(
        self,
        training: TrainingConfig,
        step: int,
        steps_per_epoch: int,
        rows: list[int],
        metrics: dict[str, Any],
    ) -> tuple[float, float]:
        """Adds a step's metrics, which are (loss, metric).

        Raises:
            NonFiniteLossError: the loss is no number, or leaps, and that is to stop the training;
                or too many steps in a row were skipped.
        """
        loss, metric = float(metrics["loss"]), float(metrics["metric"])
        skipped = int(metrics.get("skipped", TAKEN))
        if skipped == TAKEN:
            check_finite(loss, step, steps_per_epoch, rows)
            self.loss += loss
            self.metric += metric
            self.skipped_in_a_row = 0
            return loss, metric
        self.skipped += 1
        self.skipped_in_a_row += 1
        what = f"the loss is {loss} at step {step} (epoch {step // steps_per_epoch + 1})"
        if skipped == SPIKE and training.on_spike == "stop":
            raise NonFiniteLossError(
                f"{what}, over {training.spike_factor:g} times the median of the {WINDOW} before; "
                "checkpoints before it are kept. --training.on-spike skip leaves such steps out"
            )
        if self.skipped_in_a_row > training.max_skipped_in_a_row:
            raise NonFiniteLossError(
                f"{what}, and {self.skipped_in_a_row} steps in a row were skipped, of which "
                f"training.max_skipped_in_a_row allows {training.max_skipped_in_a_row}; what was "
                "saved before is kept. Try a lower --optimizer.learning-rate in another --out"
            )
        return loss, metric

    def means(self, steps: int) -> tuple[float, float]:
        """(loss, metric) of the steps that were taken, and 0 where none was."""
        taken = max(steps - self.skipped, 1)
        return self.loss / taken, self.metric / taken
