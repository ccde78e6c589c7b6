"""What the ladder measures, as plain data: verdicts, errors leaf by leaf, curves and accuracies.

The rungs make these, `report.py` draws them, and `report.json` is the list of verdicts.
"""

import math
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class LeafError:
    """One tensor's figure: a block's output, a parameter's gradient, an optimizer slot."""

    name: str
    value: float

    @property
    def finite(self) -> bool:
        return math.isfinite(self.value)


@dataclass(frozen=True)
class Verdict:
    """One cell of the matrix: `value` must not exceed `bound`; `where` names the worst leaf.

    `leaves` are in order of execution (forward) or of the parameters; `first_divergence` is the
    first of them over the bound, or "" if none is.
    """

    task: str
    rung: str
    dtype: str
    value: float
    bound: float
    where: str
    first_divergence: str = ""
    note: str = ""
    leaves: tuple[LeafError, ...] = ()
    metric: str = "accuracy"  # of the metric rung: accuracies differ by percentage points

    @property
    def ok(self) -> bool:
        return math.isfinite(self.value) and self.value <= self.bound

    def row(self) -> dict[str, object]:
        """The verdict's line in `report.json`; a value that is not finite becomes null."""
        value = self.value if math.isfinite(self.value) else None
        return {
            "task": self.task,
            "rung": self.rung,
            "dtype": self.dtype,
            "value": value,
            "bound": self.bound,
            "ok": self.ok,
            "where": self.where,
        }


@dataclass(frozen=True)
class Curves:
    """Losses by step of several runs a side, on the same batches.

    The first run of either side starts from the same weights, the others from those weights moved
    by one unit in the last place; torch's last starts from the same ones and is in float64.
    """

    task: str
    flax: tuple[tuple[float, ...], ...]
    torch: tuple[tuple[float, ...], ...]

    def distance(self) -> np.ndarray:
        """From torch's first run to the nearest Flax run, by step: (T,); NaN if any run's loss is.

        The nearest, because in a single run one ReLU that rounds to the other side can throw the
        rest off its course: luck, which does not strike every run.
        """
        return np.abs(np.subtract(self.flax, self.torch[0])).min(axis=0)

    def spread(self) -> np.ndarray:
        """From torch's first run to the farthest of its others, so far, by step: (T,).

        So far, because rounding noise, once grown, does not shrink.
        """
        strayed = np.abs(np.subtract(self.torch, self.torch[0]))
        return np.maximum.accumulate(strayed.max(axis=0))


@dataclass(frozen=True)
class Accuracies:
    """Final metrics by seed, paired, and the interval of the two one-sided tests.

    `metric` is what was measured, and on which split: "test accuracy", "test absolute error".
    """

    task: str
    flax: tuple[float, ...]
    torch: tuple[float, ...]
    margin: float
    interval: tuple[float, float]
    confidence: float
    metric: str = "test accuracy"


@dataclass(frozen=True)
class AuditRow:
    """One injected difference: the rung that caught it and by what factor over its bound.

    `factor` is the measured value over the bound (infinite for a NaN or a shape mismatch), and at
    most 1 where nothing caught it. `expected_rung` is where it had to be caught.
    """

    mutation: str
    topic: str
    pair: str
    expected_rung: str
    caught_by: tuple[str, ...]
    factor: float
    where: str

    @property
    def ok(self) -> bool:
        return self.expected_rung in self.caught_by


@dataclass(frozen=True)
class Report:
    """Everything one run of the ladder found.

    `inapplicable` are the (task, rung) that mean nothing together, as text and a task of images.
    """

    command: str
    environment: dict[str, str]
    verdicts: tuple[Verdict, ...] = ()
    curves: tuple[Curves, ...] = ()
    accuracies: tuple[Accuracies, ...] = ()
    audit: tuple[AuditRow, ...] = ()
    rung_claims: dict[str, str] = field(default_factory=dict)
    inapplicable: frozenset[tuple[str, str]] = frozenset()

    @property
    def ok(self) -> bool:
        return all(v.ok for v in self.verdicts) and all(row.ok for row in self.audit)
