"""The Flax engine of the shared training loop: state on device, checkpoints through orbax.

>>> engine = FlaxEngine(task, folder)
>>> history = fit(task, data, engine, folder, resume=False)
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxmodels.checkpoint import Checkpoints
from jaxmodels.models import CharRNN, create
from jaxmodels.objective import make_objective
from jaxmodels.optim import make_optimizer
from jaxmodels.shared.checksums import Position
from jaxmodels.shared.tasks import Task
from jaxmodels.shared.weights import to_flax_layout, to_torch_layout
from jaxmodels.train import Carry, init_state, make_predict, make_train_step


class FlaxEngine:
    """Trains a task's model; `folder` receives the checkpoints."""

    def __init__(self, task: Task, folder: Path):
        training = task.training
        dtype = jnp.bfloat16 if training.precision == "bfloat16" else None
        model = create(task.model, seed=training.seed, dtype=dtype)
        optimizer = make_optimizer(task.optimizer)
        self.objective = make_objective(task)
        self.initial_carry = initial_carry(model)
        carry = self.initial_carry(training.batch_size)
        graphdef, self.state = init_state(model, optimizer, carry)
        self.step = make_train_step(graphdef, optimizer, self.objective)
        self.jitted_predict = make_predict(graphdef, self.objective.inputs)
        self.dropout_key = jax.random.key(training.seed)
        self.checkpoints = Checkpoints(folder / "checkpoints")

    def train_step(self, batch: dict[str, np.ndarray], *, step: int, rate: float) -> dict[str, Any]:
        names = (*self.objective.inputs, self.objective.target, "reset")
        inputs = {name: batch[name] for name in names if name in batch}
        self.state, metrics = self.step(self.state, inputs, np.float32(rate), self.dropout_key)
        return metrics

    def predict(self, batch: dict[str, np.ndarray], carry: Any = None) -> tuple[np.ndarray, Any]:
        names = (*self.objective.inputs, "reset", "start")
        inputs = {name: jnp.asarray(batch[name]) for name in names if name in batch}
        if carry is None:
            carry = self.initial_carry(len(batch[self.objective.inputs[0]]))
        outputs, carry = self.jitted_predict(self.state, inputs, carry)
        return np.asarray(outputs), carry or None

    def weights(self) -> dict[str, np.ndarray]:
        return to_torch_layout(
            {k: np.asarray(v) for k, v in (self.state["params"] | self.state["stats"]).items()}
        )

    def load_weights(self, tensors: dict[str, np.ndarray]) -> None:
        leaves = self.state["params"] | self.state["stats"]
        new = to_flax_layout(tensors, {name: leaf.shape for name, leaf in leaves.items()})
        for part in ("params", "stats"):
            self.state[part] = {name: jnp.asarray(new[name]) for name in self.state[part]}

    def save(self, name: str, position: Position) -> None:
        self.checkpoints.save(name, self.state, position)

    def restore(self, name: str) -> Position:
        self.state, position = self.checkpoints.restore(name, self.state)
        return position


def initial_carry(model: nnx.Module) -> Callable[[int], Carry]:
    """The carry of a number of rows before their first batch; () for a model without one."""
    if isinstance(model, CharRNN):
        return model.initial_states
    return lambda rows: ()
