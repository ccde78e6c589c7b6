"""Seeded, stratified splits of rows by their labels."""

from collections.abc import Sequence

import numpy as np


def stratified_split(
    labels: np.ndarray, fractions: Sequence[float], *, seed: int
) -> tuple[np.ndarray, ...]:
    """labels: (N,) -> the rows of each part, (N_i,) int64 ascending: disjoint, and together all.

    A part has its fraction of N to within one row, and its share of every class to within one row
    a class. `fractions` must add up to 1.
    """
    assert np.isclose(sum(fractions), 1), fractions
    generator = np.random.Generator(np.random.PCG64(seed))
    # Every class is shuffled and laid out evenly along [0, 1]; the whole line is then cut at once.
    # Cutting class by class would round each for itself, and could leave a small part empty.
    position = np.empty(len(labels))
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        position[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    order = np.argsort(position, kind="stable")
    ends = np.rint(np.cumsum(fractions) * len(labels)).astype(int)
    return tuple(np.sort(part) for part in np.split(order, ends[:-1]))
