"""A stream of correlated samples with a linear truth and noise, and its Wiener solution.

Each sample is (x, d): d = w . x + offset + noise. The offset is the weight of a constant input, 1,
so that the correlation matrix is of the extended input (x, 1).

>>> data = make_stream(LMSDataConfig())
>>> data.train.inputs.shape, data.stability_bound  # 2 / lambda_max
((1000, 2), 0.43...)
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class LMSDataConfig:
    """The stream. `power` is each input's variance, `correlation` that between two of them.

    The filter sees `num_samples` in order, one a step, and then the same ones again. An epoch, the
    unit of the history, is `samples_per_epoch` of them.
    """

    dataset: Literal["lms"] = "lms"
    weights: tuple[float, ...] = (2.0, -1.0)
    offset: float = 0.5
    power: float = 3.0
    correlation: float = 0.5
    noise: float = 0.5  # standard deviation
    num_samples: int = 1000
    samples_per_epoch: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        lowest = -1 / (len(self.weights) - 1) if len(self.weights) > 1 else -1.0
        if not self.weights:
            raise ValueError("data.weights must be one or more numbers; try 2 -1")
        if not self.power > 0 or not self.noise >= 0:
            raise ValueError("data.power must be positive and data.noise not negative")
        if not lowest < self.correlation < 1:
            raise ValueError(
                f"data.correlation {self.correlation} must be in ({lowest:g}, 1), or no inputs "
                "have it"
            )
        if self.seed < 0:
            raise ValueError(f"data.seed {self.seed} must not be negative")
        if not 1 <= self.samples_per_epoch <= self.num_samples:
            raise ValueError(
                f"data.samples_per_epoch {self.samples_per_epoch} must be at least 1 and at most "
                f"data.num_samples {self.num_samples}"
            )


@dataclass(frozen=True)
class Samples:
    """inputs: (N, F) float32; targets: (N,) float32."""

    inputs: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class LMSData:
    """Three streams of one truth, and what is known of the first in closed form, float64.

    wiener: (F + 1,), the solution of R w = p for the correlation matrix R = E[z z^T] of the
    extended inputs z = (x, 1) and p = E[z d], the offset last (Haykin, Adaptive Filter Theory).
    lambda_max is R's largest eigenvalue: the filter's mean converges for rates below
    2 / lambda_max alone. Its mean square asks for less: below 2 / (3 trace(R)) it is safe.
    """

    source: str
    train: Samples
    validation: Samples
    test: Samples
    wiener: np.ndarray
    lambda_max: float
    trace: float

    @property
    def stability_bound(self) -> float:
        return 2 / self.lambda_max

    @property
    def safe_rate(self) -> float:
        return 2 / (3 * self.trace)

    def wiener_error(self, samples: Samples) -> float:
        """The mean squared error of the Wiener solution."""
        errors = samples.targets - _extended(samples) @ self.wiener
        return float((errors**2).mean())


def make_stream(config: LMSDataConfig) -> LMSData:
    """The streams that the config and its seed describe."""
    rng = np.random.Generator(np.random.PCG64(config.seed))
    train, validation, test = (_draw(config, rng) for _ in range(3))
    inputs = _extended(train)
    correlation = inputs.T @ inputs / len(train)
    cross = inputs.T @ train.targets.astype(np.float64) / len(train)
    wiener = np.linalg.lstsq(correlation, cross, rcond=None)[0]
    description = (
        f"sample: {config.num_samples:,} synthetic samples of {len(config.weights)} inputs, "
        f"correlation {config.correlation:g}, noise {config.noise:g}"
    )
    largest = float(np.linalg.eigvalsh(correlation)[-1])
    trace = float(np.trace(correlation))
    return LMSData(description, train, validation, test, wiener, largest, trace)


def divergence_note(data: LMSData, rate: float) -> str:
    """What may be said of a filter that diverged at a rate."""
    bound = data.stability_bound
    relation = "above" if rate > bound else "below"
    more = "" if rate > bound else f", but above {data.safe_rate:.3g}, which is safe in mean square"
    return (
        f"The LMS filter diverges: its rate {rate:g} is {relation} the stability bound "
        f"2/lambda_max = {bound:.4g}{more}"
    )


def _draw(config: LMSDataConfig, rng: np.random.Generator) -> Samples:
    count, size = config.num_samples, len(config.weights)
    covariance = np.full((size, size), config.correlation * config.power)
    np.fill_diagonal(covariance, config.power)
    inputs = rng.multivariate_normal(np.zeros(size), covariance, count).astype(np.float32)
    noise = config.noise * rng.normal(size=count)
    targets = inputs @ np.array(config.weights) + config.offset + noise
    return Samples(inputs, targets.astype(np.float32))


def _extended(samples: Samples) -> np.ndarray:
    """The inputs and a constant 1: (N, F + 1) float64."""
    return np.column_stack([samples.inputs, np.ones(len(samples))]).astype(np.float64)
