"""scikit-learn's solution of a linear task, which descent must reach.

The loss is half the mean squared error, plus weight_decay / 2 * |w|^2, plus l1 * |w|_1; the offset
is not penalised. `Ridge` minimises 2 N times the first two, N the rows, so that its alpha is
weight_decay * N; the alpha of `Lasso` is l1.

>>> solution = closed_form(TASKS["houses-ridge"], rows=1168)
>>> solution.name, solution.fit(inputs, targets).predict(others)
('Ridge(alpha=58.4)', array([...]))
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmodels.shared.configs import MLPConfig
from jaxmodels.shared.tasks import Task

# Of coordinate descent: the duality gap over the sum of squared targets.
_TOLERANCE = 1e-10
_ITERATIONS = 100_000


@dataclass(frozen=True)
class Solution:
    """An estimator of scikit-learn's, and what it is called."""

    name: str
    estimator: Any

    def fit(self, inputs: np.ndarray, targets: np.ndarray) -> "Solution":
        """inputs: (N, F); targets: (N,); in float64."""
        self.estimator.fit(inputs.astype(np.float64), targets.astype(np.float64))
        return self

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """(N, F) -> (N,) float64."""
        return self.estimator.predict(inputs.astype(np.float64))


def closed_form(task: Task, rows: int) -> Solution | None:
    """The estimator whose solution the task's descent on `rows` training rows tends to.

    None where there is none: a hidden layer, AdamW's decoupled decay, a penalised offset.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    try:
        from sklearn import linear_model
    except ModuleNotFoundError:
        raise ValueError(
            "the closed-form solutions need scikit-learn; pip install 'jaxmodels[sample]'"
        ) from None

    optimizer = task.optimizer
    penalised = optimizer.weight_decay or optimizer.l1
    if not isinstance(task.model, MLPConfig) or task.model.hidden_dims:
        return None
    if penalised and (optimizer.name == "adamw" or optimizer.decay_mask == "all"):
        return None
    decay, l1 = optimizer.weight_decay, optimizer.l1
    options = {"tol": _TOLERANCE, "max_iter": _ITERATIONS}
    if not penalised:
        return Solution("LinearRegression()", linear_model.LinearRegression())
    if not l1:
        alpha = decay * rows
        return Solution(f"Ridge(alpha={alpha:g})", linear_model.Ridge(alpha=alpha))
    if not decay:
        return Solution(f"Lasso(alpha={l1:g})", linear_model.Lasso(alpha=l1, **options))
    alpha, ratio = decay + l1, l1 / (decay + l1)
    return Solution(
        f"ElasticNet(alpha={alpha:g}, l1_ratio={ratio:g})",
        linear_model.ElasticNet(alpha=alpha, l1_ratio=ratio, **options),
    )
