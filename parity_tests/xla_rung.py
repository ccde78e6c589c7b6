"""The rung `engines` for torch-xla: plain torch's trajectory in float64.

XLA adds up in another order than torch, so that the bits differ. In float64 little else may: but
torch-xla keeps the constants of GELU, and the epsilons of norms, in float32, whence the bound.
"""

import importlib.util
from dataclasses import replace
from typing import Any

import numpy as np

from jaxmodels.shared.tasks import Task
from parity_tests.ladder import BOUNDS, module_norms, relative_error
from parity_tests.results import LeafError, Verdict
from parity_tests.trajectories import (
    Float64TorchEngine,
    TrainSteps,
    stored_batches,
    train_steps,
    without_dropout,
)
from torchref.engines.plain import make_model
from torchref.weights import read_tensors


def xla_installed() -> bool:
    return importlib.util.find_spec("torch_xla") is not None


def without_xla(verdict: Verdict) -> Verdict:
    """The verdict of the other engines, which says that this one was not compared."""
    return replace(verdict, note=f"{verdict.note}; without xla: torch_xla is not installed here")


def xla_steps(task: Task, batches: list[Any], start: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the engine ends with, in float64."""
    from torchref.engines.xla import XLAEngine

    class Float64XLAEngine(Float64TorchEngine, XLAEngine):
        pass

    return train_steps(Float64XLAEngine)(task, batches, start)


def xla_rung(task: Task, data: Any, *, xla: TrainSteps = xla_steps, steps: int = 3) -> Verdict:
    """Trains both from the same start on the same batches; the largest error of any tensor.

    Dropout is off, for XLA draws other masks.
    """
    task = without_dropout(task)
    start = read_tensors(make_model(task))
    batches = list(stored_batches(task, data, range(steps)))
    found = xla(task, batches, start)  # first, for torch finds XLA's devices before its first step
    truth = train_steps(Float64TorchEngine)(task, batches, start)
    norms = module_norms(truth)
    leaves = [
        LeafError(f"xla {name}", relative_error(found[name], value, norms[name.rpartition(".")[0]]))
        for name, value in truth.items()
    ]
    bound = BOUNDS["engines", "float64"]
    worst = max(leaves, key=lambda leaf: leaf.value)
    return Verdict(
        task.name,
        "engines",
        "float64",
        worst.value,
        bound,
        worst.name,
        next((leaf.name for leaf in leaves if not leaf.value <= bound), ""),
        note=f"{steps} steps of torch-xla, beside torch",
        leaves=tuple(leaves),
    )
