"""The labels of a classification data set, checked where they enter."""

from typing import Any

import numpy as np


def check_labels(labels: Any, *, num_classes: int, where: str) -> np.ndarray:
    """labels: N integers in [0, num_classes) -> (N,) int32.

    Raises:
        ValueError: the first label that is not such an integer, with its row.
    """
    array = np.asarray(labels)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        row = next((i for i, label in enumerate(labels) if type(label) is not int), 0)
        if len(labels) == 0:
            return np.zeros(0, np.int32)
        raise ValueError(
            f"{where} row {row}: label {labels[row]!r} is not an integer; expected 0 to "
            f"{num_classes - 1} ({num_classes} classes); mend or remove the row"
        )
    outside = np.flatnonzero((array < 0) | (array >= num_classes))
    if outside.size:
        row = int(outside[0])
        raise ValueError(
            f"{where} row {row}: label {array[row]} is out of range; expected 0 to "
            f"{num_classes - 1} ({num_classes} classes); mend or remove the row"
        )
    return array.astype(np.int32)
