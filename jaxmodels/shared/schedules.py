"""Learning-rate schedules: one function of the step, evaluated on the host for every framework.

Both engines ask `learning_rate(schedule, step, total_steps)` for the rate of a step and hand the
number to their optimizer, so a schedule cannot differ between them (torch's `OneCycleLR` ends at
`total_steps - 1`, optax's ends at `total_steps`; ours ends at the last step, as torch's does).
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

ScheduleName = Literal["constant", "step", "linear", "cosine", "one-cycle"]


@dataclass(frozen=True)
class ScheduleConfig:
    """A factor on the optimizer's peak rate, as a function of progress in [0, 1].

    constant: 1. step: `decay_factor` to the number of `milestones` passed (He et al. 2016).
    linear: a straight line from 1 to `final_scale` (Devlin et al. 2019).
    cosine: half a cosine from 1 to `final_scale` (Loshchilov & Hutter 2017). one-cycle: a cosine
    from `initial_scale` up to 1 over the warm-up, then down to `final_scale` (Smith & Topin 2018).
    All but one-cycle rise linearly over `warmup_fraction` first.
    """

    name: ScheduleName = "constant"
    warmup_fraction: float = 0.0
    initial_scale: float = 0.04
    final_scale: float = 0.0
    milestones: tuple[float, ...] = (0.5, 0.75)
    decay_factor: float = 0.1

    def __post_init__(self) -> None:
        if self.name not in get_args(ScheduleName):
            raise ValueError(
                f"schedule.name {self.name!r} must be one of {', '.join(get_args(ScheduleName))}"
            )
        if not 0 <= self.warmup_fraction < 1:
            raise ValueError(f"schedule.warmup_fraction {self.warmup_fraction} must be in [0, 1)")
        if self.name == "one-cycle" and self.warmup_fraction == 0:
            raise ValueError("schedule.warmup_fraction must be positive for one-cycle; try 0.25")
        if any(not 0 < milestone < 1 for milestone in self.milestones):
            raise ValueError(f"schedule.milestones {self.milestones} must be fractions in (0, 1)")


def learning_rate(schedule: ScheduleConfig, peak: float, step: int, total_steps: int) -> float:
    """The learning rate of `step` (from 0) out of `total_steps`; the last step is progress 1."""
    progress = step / max(total_steps - 1, 1)
    warmup = schedule.warmup_fraction
    if progress < warmup:
        rise = progress / warmup
        if schedule.name == "one-cycle":
            return peak * _cosine(schedule.initial_scale, 1.0, rise)
        return peak * (step + 1) / math.ceil(warmup * max(total_steps - 1, 1))
    fall = (progress - warmup) / (1 - warmup)
    if schedule.name in ("cosine", "one-cycle"):
        return peak * _cosine(1.0, schedule.final_scale, fall)
    if schedule.name == "linear":
        return peak * (1 + (schedule.final_scale - 1) * fall)
    if schedule.name == "step":
        return peak * schedule.decay_factor ** sum(progress >= m for m in schedule.milestones)
    return peak


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2
