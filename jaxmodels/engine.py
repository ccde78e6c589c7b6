"""The Flax engine of the shared training loop: state on device, checkpoints through orbax.

>>> engine = FlaxEngine(task, folder)
>>> history = fit(task, data, engine, folder, resume=False)
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.checkpoint import Checkpoints
from jaxmodels.losses import cross_entropy
from jaxmodels.models import create
from jaxmodels.optim import make_optimizer
from jaxmodels.shared.checksums import Position
from jaxmodels.shared.tasks import Task
from jaxmodels.shared.weights import to_flax_layout, to_torch_layout
from jaxmodels.train import init_state, make_predict, make_train_step


class FlaxEngine:
    """Trains a task's model; `folder` receives the checkpoints."""

    def __init__(self, task: Task, folder: Path):
        training = task.training
        dtype = jnp.bfloat16 if training.precision == "bfloat16" else None
        model = create(task.model, seed=training.seed, dtype=dtype)
        optimizer = make_optimizer(task.optimizer)
        loss = partial(cross_entropy, label_smoothing=training.label_smoothing)
        graphdef, self.state = init_state(model, optimizer)
        self.step = make_train_step(graphdef, optimizer, loss=loss)
        self.predict = make_predict(graphdef)
        self.dropout_key = jax.random.key(training.seed)
        self.checkpoints = Checkpoints(folder / "checkpoints")

    def train_step(self, batch: dict[str, np.ndarray], *, step: int, rate: float) -> dict[str, Any]:
        inputs = {name: batch[name] for name in ("image", "label")}
        self.state, metrics = self.step(self.state, inputs, np.float32(rate), self.dropout_key)
        return metrics

    def logits(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(self.predict(self.state, jnp.asarray(images)))

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
