"""Houses as numbers: what is missing filled in, words graded or spread out, skew taken off, scaled.

Everything is fitted on the training split and applied to any other:

>>> preparation = fit(train, skew_limit=0.75, whiten=False)
>>> preparation(test).shape, len(preparation.names)
((292, 237), 237)
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmodels.shared.data.house_columns import NOMINAL, NONE, NUMERIC, ORDINAL
from jaxmodels.shared.data.house_tables import HouseTable


@dataclass(frozen=True)
class Preparation:
    """What was fitted. F features in the order of `names`, float64.

    fills: what a missing value of a column becomes: the median of a numeric one, the most frequent
    word of the others. logged: the numeric columns that become log(1 + x). levels: the words of
    each nominal column, a feature each. mean, scale: (F,). basis: (F, R), or None. target_mean: of
    the log price.
    """

    fills: Mapping[str, float | str]
    logged: tuple[str, ...]
    levels: Mapping[str, tuple[str, ...]]
    mean: np.ndarray
    scale: np.ndarray
    basis: np.ndarray | None
    target_mean: float

    @property
    def names(self) -> list[str]:
        """The features' names: a column's, or for a nominal one column=word."""
        return _names(self.levels)

    def __call__(self, table: HouseTable) -> np.ndarray:
        """(N, F) float32, or (N, R) in the basis."""
        values = (_columns(table, self.fills, self.logged, self.levels) - self.mean) / self.scale
        return (values if self.basis is None else values @ self.basis).astype(np.float32)

    def targets(self, table: HouseTable) -> np.ndarray:
        """The log of each price, less the mean of the training split's: (N,) float32."""
        assert table.prices is not None
        return (np.log(table.prices) - self.target_mean).astype(np.float32)

    def to_prices(self, outputs: np.ndarray) -> np.ndarray:
        """Outputs of a model (N,) -> dollars (N,) float64."""
        return np.exp(outputs.astype(np.float64) + self.target_mean)

    def unknown(self, table: HouseTable) -> dict[str, int]:
        """How often each column=word occurs that the training split has not: it is all zeros."""
        counts: dict[str, int] = {}
        for name, levels in self.levels.items():
            for word in table.words[name]:
                if word is not None and word not in levels:
                    counts[f"{name}={word}"] = counts.get(f"{name}={word}", 0) + 1
        return counts


def fit(table: HouseTable, *, skew_limit: float, whiten: bool) -> Preparation:
    """Fits on the training split, which has prices.

    A numeric column is logged where |skew| exceeds `skew_limit`, unless the log has a larger one,
    as of some areas that can be 0. Features get mean 0 and standard deviation 1; a constant one
    becomes 0. With `whiten`, they are rotated to their principal axes and each of those gets
    deviation 1: the same linear functions of a house, but uncorrelated.
    """
    assert table.prices is not None
    fills: dict[str, Any] = {name: _median(values) for name, values in table.numbers.items()}
    fills |= {name: _most_frequent(values) for name, values in table.words.items()}
    filled = {name: _fill(table.numbers[name], fills[name]) for name in NUMERIC}
    logged = tuple(name for name in NUMERIC if _wants_log(filled[name], skew_limit))
    levels = {
        name: tuple(sorted({fills[name] if w is None else w for w in table.words[name]}))
        for name in NOMINAL
    }
    columns = _columns(table, fills, logged, levels)
    mean, deviation = columns.mean(axis=0), columns.std(axis=0)
    scale = np.where(deviation > 0, deviation, 1.0)
    basis = _white_basis((columns - mean) / scale) if whiten else None
    return Preparation(
        fills, logged, levels, mean, scale, basis, float(np.log(table.prices).mean())
    )


def skewness(values: np.ndarray) -> float:
    """The third standardised moment; 0 of a constant."""
    centred = values - values.mean()
    deviation = np.sqrt((centred**2).mean())
    return float((centred**3).mean() / deviation**3) if deviation else 0.0


def to_json(preparation: Preparation) -> dict[str, Any]:
    content = dataclasses.asdict(preparation)
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in content.items()}


def from_json(content: Any) -> Preparation:
    """The inverse of `to_json`.

    Raises:
        KeyError, TypeError, ValueError: the content is malformed.
    """
    levels = {name: tuple(content["levels"][name]) for name in NOMINAL}
    basis = content["basis"]
    preparation = Preparation(
        {name: content["fills"][name] for name in (*NUMERIC, *ORDINAL, *NOMINAL)},
        tuple(content["logged"]),
        levels,
        np.array(content["mean"], np.float64),
        np.array(content["scale"], np.float64),
        None if basis is None else np.array(basis, np.float64),
        float(content["target_mean"]),
    )
    shapes = [preparation.mean.shape, preparation.scale.shape]
    shapes += [] if preparation.basis is None else [preparation.basis.shape[:1]]
    if set(shapes) != {(len(preparation.names),)}:
        raise ValueError(f"{len(preparation.names)} features, but arrays of {shapes}")
    return preparation


def _names(levels: Mapping[str, tuple[str, ...]]) -> list[str]:
    return [*NUMERIC, *ORDINAL, *(f"{name}={word}" for name in NOMINAL for word in levels[name])]


def _columns(
    table: HouseTable,
    fills: Mapping[str, Any],
    logged: tuple[str, ...],
    levels: Mapping[str, tuple[str, ...]],
) -> np.ndarray:
    """(N, F) float64, not scaled."""
    columns = []
    for name in NUMERIC:
        values = _fill(table.numbers[name], fills[name])
        columns.append(np.log1p(values) if name in logged else values)
    for name, order in ORDINAL.items():
        grades = {NONE: 0} | {word: grade for grade, word in enumerate(order, 1)}
        words = table.words[name]
        columns.append([float(grades[fills[name] if w is None else w]) for w in words])
    for name in NOMINAL:
        words = [fills[name] if word is None else word for word in table.words[name]]
        columns += [[float(word == level) for word in words] for level in levels[name]]
    return np.stack([np.asarray(column, np.float64) for column in columns], axis=1)


def _wants_log(values: np.ndarray, limit: float) -> bool:
    skew = abs(skewness(values))
    return skew > limit and abs(skewness(np.log1p(values))) < skew


def _white_basis(features: np.ndarray) -> np.ndarray:
    """(N, F) -> (F, R), R the rank: of the training split, features @ basis are uncorrelated.

    One-hot features of a column add up to 1, so that some axes have no extent; those are left out.
    """
    _, extents, axes = np.linalg.svd(features, full_matrices=False)
    kept = extents > extents[0] * max(features.shape) * np.finfo(np.float64).eps
    return axes[kept].T * (len(features) ** 0.5 / extents[kept])


def _fill(values: np.ndarray, value: Any) -> np.ndarray:
    return np.where(np.isnan(values), value, values)


def _median(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else 0.0


def _most_frequent(words: np.ndarray) -> str:
    """The first in the alphabet of those that occur most; "none" where nothing is known."""
    known, counts = np.unique([word for word in words if word is not None], return_counts=True)
    return str(known[counts.argmax()]) if len(known) else NONE
