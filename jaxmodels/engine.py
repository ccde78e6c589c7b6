"""The Flax engine of the shared training loop: state on device, checkpoints through orbax.

>>> engine = FlaxEngine(task, folder)
>>> history = fit(task, data, engine, folder, resume=False)
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxmodels import state
from jaxmodels.checkpoint import Checkpoints
from jaxmodels.frozen import freeze_found
from jaxmodels.guards import initial_guard, make_guard
from jaxmodels.lora import add_lora, merge, save_adapter
from jaxmodels.models import CharRNN, create
from jaxmodels.objective import make_objective
from jaxmodels.optim import make_apply, make_optimizer
from jaxmodels.shared.checksums import Position
from jaxmodels.shared.loop import Start
from jaxmodels.shared.tasks import Task
from jaxmodels.shared.weights import to_flax_layout, to_torch_layout
from jaxmodels.throughput import flops, peak_flops
from jaxmodels.train import Carry, State, init_state, make_predict, make_train_step, parameters

_AHEAD = 2  # batches on the device before they are asked for


class FlaxEngine:
    """Trains a task's model; `folder` receives the checkpoints. See `make_model`."""

    state: State

    def __init__(self, task: Task, folder: Path, start: Start | None = None):
        training = task.training
        model = make_model(task, start)
        optimizer = make_optimizer(task.optimizer, task.layers())
        self.model_config = task.model
        self.objective = make_objective(task)
        self.initial_carry = initial_carry(model)
        carry = self.initial_carry(training.batch_size)
        self.graphdef, self.state = init_state(
            model,
            optimizer,
            carry,
            average=training.ema_decay > 0,
            guard=initial_guard(training),
        )
        self.trainable_parameters = sum(v.size for v in self.state["params"].values())
        self.step = make_train_step(
            self.graphdef,
            optimizer,
            self.objective,
            make_apply(task.optimizer),
            micro_batches=training.micro_batches,
            ema_decay=training.ema_decay,
            guard=make_guard(training),
        )
        self.jitted_predict = make_predict(self.graphdef, self.objective.inputs)
        self.dropout_key = jax.random.key(training.seed)
        self.fed: tuple[Any, Any] = (None, None)
        self.flops_of: dict[Any, int] = {}
        self.checkpoints = Checkpoints(folder / "checkpoints", keep=training.keep_checkpoints)

    def feed(self, batches: Iterator[Any]) -> AbstractContextManager[Iterator[Any]]:
        """Sends batches to the device while earlier ones train; `train_step` finds them there."""
        return nullcontext(self._sent_ahead(batches))

    def _sent_ahead(self, batches: Iterator[Any]) -> Iterator[Any]:
        waiting: deque[tuple[Any, Any]] = deque()
        for batch in batches:
            waiting.append((batch, jax.device_put(self._inputs(batch))))
            if len(waiting) > _AHEAD:
                self.fed = waiting.popleft()
                yield self.fed[0]

    def _inputs(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        if batch is self.fed[0]:
            return self.fed[1]
        names = (*self.objective.inputs, self.objective.target, "reset")
        return {name: batch[name] for name in names if name in batch}

    def train_step(self, batch: dict[str, np.ndarray], *, step: int, rate: float) -> dict[str, Any]:
        arguments = (self.state, self._inputs(batch), np.float32(rate), self.dropout_key)
        shapes = tuple(value.shape for value in arguments[1].values())
        if shapes not in self.flops_of:
            self.flops_of[shapes] = flops(self.step, *arguments)
        self.state, metrics = self.step(*arguments)
        return metrics | {"flops": self.flops_of[shapes]}

    @property
    def peak_flops(self) -> float | None:
        return peak_flops()

    @contextmanager
    def traced(self, folder: Path) -> Iterator[None]:
        with jax.profiler.trace(str(folder)):
            yield
            jax.block_until_ready(self.state)

    def predict(self, batch: dict[str, np.ndarray], carry: Any = None) -> tuple[np.ndarray, Any]:
        names = (*self.objective.inputs, "reset", "start")
        inputs = {name: jnp.asarray(batch[name]) for name in names if name in batch}
        if carry is None:
            carry = self.initial_carry(len(batch[self.objective.inputs[0]]))
        outputs, carry = self.jitted_predict(self.state, inputs, carry)
        return np.asarray(outputs), carry or None

    def attentions(self, input_ids: np.ndarray) -> list[np.ndarray]:
        """What each layer's heads look at, (B, H, T, T) float32, for ids (B, T); of a BERT."""
        model: Any = state.merge(self.graphdef, parameters(self.state), self.state["stats"])
        found = model(input_ids, output_attentions=True).attentions
        return [np.asarray(layer, np.float32) for layer in found]

    def weights(self) -> dict[str, np.ndarray]:
        return to_torch_layout(
            {k: np.asarray(v) for k, v in (parameters(self.state) | self.state["stats"]).items()}
        )

    def load_weights(self, tensors: dict[str, np.ndarray]) -> None:
        leaves = self.state["params"] | self.state["stats"]
        new = to_flax_layout(tensors, {name: leaf.shape for name, leaf in leaves.items()})
        for part in {"params", "stats", "average"} & self.state.keys():
            self.state[part] = {name: jnp.array(new[name]) for name in self.state[part]}

    def merge_adapters(self, folder: Path, *, base: str) -> None:
        model = state.merge(self.graphdef, parameters(self.state), self.state["stats"])
        save_adapter(model, self.model_config, folder, base=base)
        merge(model)
        self.graphdef, params, stats = state.split(model)
        self.state = {"params": params, "stats": stats}
        self.jitted_predict = make_predict(self.graphdef, self.objective.inputs)

    def save(self, name: str, position: Position) -> None:
        self.checkpoints.save(name, self.state, position)

    def finish_saving(self) -> None:
        self.checkpoints.finish()

    def restore(self, name: str, step: int | None = None) -> Position:
        self.state, position = self.checkpoints.restore(name, self.state, step)
        return position


def make_model(task: Task, start: Start | None = None) -> nnx.Module:
    """The task's model as it is when its training starts.

    Drawn from the seed, or with what `start` makes of that; then with the task's adapters; then
    frozen where it does not train.
    """
    seed, precision = task.training.seed, task.training.precision
    dtype = jnp.bfloat16 if precision == "bfloat16" else None
    model = create(task.model, seed=seed, dtype=dtype)
    if start is not None:
        leaves = state.read_leaves(model)
        shapes = {name: leaf.shape for name, leaf in leaves.items()}
        state.write_leaves(model, to_flax_layout(start(to_torch_layout(leaves)), shapes))
    if task.lora.rank:
        add_lora(model, task.lora, seed=seed)
    freeze_found(model, task.optimizer.freeze)
    return model


def initial_carry(model: nnx.Module) -> Callable[[int], Carry]:
    """The carry of a number of rows before their first batch; () for a model without one."""
    if isinstance(model, CharRNN):
        return model.initial_states
    return lambda rows: ()
