"""Metrics of forecasts in numpy: errors, direction, skill and its significance, intervals.

Every array has one entry a forecast, all of one horizon; `None` stands for what is not defined.

>>> mean_absolute_error(np.array([1.0, 2.0]), np.array([2.0, 2.0]))
0.5
"""

import numpy as np
from scipy.special import stdtr


def mean_absolute_error(actual: np.ndarray, forecast: np.ndarray) -> float:
    """In the unit of the series. Both (N,)."""
    return float(np.abs(actual - forecast).mean())


def root_mean_squared_error(actual: np.ndarray, forecast: np.ndarray) -> float:
    """In the unit of the series. Both (N,)."""
    return float(np.sqrt(np.square(actual - forecast).mean()))


def symmetric_percentage_error(actual: np.ndarray, forecast: np.ndarray) -> float:
    """sMAPE, 0 to 200 percent: the error over the mean of the two sizes. Both (N,).

    Makridakis 1993, "Accuracy measures: theoretical and practical concerns". 0 where both are 0.
    """
    error, size = np.abs(actual - forecast), (np.abs(actual) + np.abs(forecast)) / 2
    return float(100 * np.divide(error, size, out=np.zeros(len(error)), where=size > 0).mean())


def scaled_error(
    actual: np.ndarray, forecast: np.ndarray, history: np.ndarray, *, season: int = 1
) -> float | None:
    """MASE: the mean absolute error over that of one-season-ago forecasts within `history` (n,).

    Hyndman & Koehler 2006, "Another look at measures of forecast accuracy". `history` comes before
    the forecasts. None if it is shorter than a season or never moved.
    """
    moves = np.abs(history[season:] - history[:-season])
    if not moves.any():
        return None
    return mean_absolute_error(actual, forecast) / float(moves.mean())


def directional_accuracy(
    actual: np.ndarray, forecast: np.ndarray, origin: np.ndarray
) -> float | None:
    """The share of forecasts on the right side of the origin's value. All (N,).

    A forecast of no move, or a value that did not move, has no direction and is left out; None if
    that leaves nothing, as with the random walk.
    """
    moved, foretold = np.sign(actual - origin), np.sign(forecast - origin)
    counted = (moved != 0) & (foretold != 0)
    return float((moved == foretold)[counted].mean()) if counted.any() else None


def skill(actual: np.ndarray, forecast: np.ndarray, reference: np.ndarray) -> float | None:
    """1 - MAE / MAE of the reference: 0 is no better, 1 perfect, below 0 worse. All (N,)."""
    reference_error = mean_absolute_error(actual, reference)
    return 1 - mean_absolute_error(actual, forecast) / reference_error if reference_error else None


def diebold_mariano(
    actual: np.ndarray,
    forecast: np.ndarray,
    reference: np.ndarray,
    *,
    horizon: int = 1,
    power: int = 1,
) -> tuple[float, float] | None:
    """(statistic, two-sided p-value) of "both are equally accurate"; below 0 favours `forecast`.

    Diebold & Mariano 1995, "Comparing predictive accuracy", on the loss |error| ** power, with the
    small-sample correction and Student's t of Harvey, Leybourne & Newbold 1997, "Testing the
    equality of prediction mean squared errors". All arrays (N,), in order of time; `horizon` counts
    in forecasts: h-step forecasts overlap h - 1 others if there is one a step.

    None if there are not more than 1 and `horizon` forecasts, or if the losses never differ.
    """
    differences = np.abs(actual - forecast) ** power - np.abs(actual - reference) ** power
    count = len(differences)
    if count <= max(1, horizon):
        return None
    mean = differences.mean()
    centred = differences - mean
    covariances = np.array(
        [(centred[lag:] * centred[: count - lag]).sum() / count for lag in range(horizon)]
    )
    variance = covariances[0] + 2 * covariances[1:].sum()
    if variance <= 0:  # the paper's estimate may be; Bartlett's weights (Newey & West 1987) may not
        variance = covariances[0] + 2 * (1 - np.arange(1, horizon) / horizon) @ covariances[1:]
    if variance <= 0:
        return None
    correction = (count + 1 - 2 * horizon + horizon * (horizon - 1) / count) / count
    statistic = float(mean / np.sqrt(variance / count) * np.sqrt(correction))
    return statistic, float(2 * stdtr(count - 1, -abs(statistic)))


def interval_coverage(actual: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> float:
    """The share of values within [lower, upper]. All (N,)."""
    return float(((lower <= actual) & (actual <= upper)).mean())


def pinball_loss(actual: np.ndarray, forecasts: np.ndarray, quantiles: np.ndarray) -> float:
    """The mean of `quantile_losses`."""
    return float(quantile_losses(actual, forecasts, quantiles).mean())


def quantile_losses(actual: np.ndarray, forecasts: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """actual (...), forecasts (..., Q), quantiles (Q,) in (0, 1) -> (..., Q).

    Koenker & Bassett 1978, "Regression quantiles".
    """
    short = actual[..., None] - forecasts
    return np.maximum(quantiles * short, (quantiles - 1) * short)
