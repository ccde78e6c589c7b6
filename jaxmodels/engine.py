"""The Flax engine of the shared training loop: state on device, checkpoints through orbax.

>>> engine = FlaxEngine(task, folder)
>>> history = fit(task, data, engine, folder, resume=False)
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from jaxmodels import state
from jaxmodels.checkpoint import Checkpoints
from jaxmodels.feeding import sent_ahead
from jaxmodels.frozen import freeze_found
from jaxmodels.guards import initial_guard, make_guard
from jaxmodels.lora import add_lora, merge, save_adapter
from jaxmodels.models import CharRNN, create
from jaxmodels.objective import make_objective
from jaxmodels.optim import make_apply, make_optimizer
from jaxmodels.sharding import (
    fill_rows,
    make_mesh,
    own_row_parts,
    place,
    place_batch,
    spread_batch,
    state_shardings,
    to_host,
)
from jaxmodels.shared.checksums import Position
from jaxmodels.shared.data.counters import Host
from jaxmodels.shared.loop import Start
from jaxmodels.shared.meshes import check_task, choose_mesh, parse_mesh, row_parts, shown
from jaxmodels.shared.tasks import Task
from jaxmodels.shared.weights import to_flax_layout, to_torch_layout
from jaxmodels.state import read_shapes
from jaxmodels.throughput import flops, peak_flops
from jaxmodels.train import Carry, State, init_state, make_predict, make_train_step, parameters


class FlaxEngine:
    """Trains a task's model, on one device or on a mesh of them; `folder` receives the checkpoints.

    See `make_model`.
    """

    state: State

    def __init__(
        self, task: Task, folder: Path, start: Start | None = None, *, mesh: Mesh | None = None
    ):
        training = task.training
        optimizer = make_optimizer(task.optimizer, task.layers())
        self.model_config = task.model
        self.objective = make_objective(task)
        self.mesh = mesh
        self.initial_carry = initial_carry(nnx.eval_shape(lambda: make_model(task)))
        self.graphdef, self.state = make_state(task, optimizer, start, mesh)
        self.trainable_parameters = sum(v.size for v in self.state["params"].values())
        self.step = make_train_step(
            self.graphdef,
            optimizer,
            self.objective,
            make_apply(task.optimizer),
            micro_batches=training.micro_batches,
            ema_decay=training.ema_decay,
            guard=make_guard(training),
            mesh=mesh,
        )
        self.jitted_predict = make_predict(self.graphdef, self.objective.inputs, mesh)
        self.dropout_key = jax.random.key(training.seed)
        self.fed: tuple[Any, Any] = (None, None)
        self.flops_of: dict[Any, int] = {}
        self.checkpoints = Checkpoints(folder / "checkpoints", keep=training.keep_checkpoints)

    @property
    def share(self) -> tuple[Host, int]:
        return (0, 1) if self.mesh is None else own_row_parts(self.mesh)

    @contextmanager
    def feed(self, batches: Iterator[Any]) -> Iterator[Iterator[Any]]:
        """Sends batches to the device while earlier ones train; `train_step` finds them there."""
        with sent_ahead(batches, self._sent) as pairs:

            def fed() -> Iterator[Any]:
                for self.fed in pairs:
                    yield self.fed[0]

            yield fed()

    def _sent(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        names = (*self.objective.inputs, self.objective.target, "reset")
        inputs = {name: batch[name] for name in names if name in batch}
        return jax.device_put(inputs) if self.mesh is None else place_batch(inputs, self.mesh)

    def train_step(self, batch: dict[str, np.ndarray], *, step: int, rate: float) -> dict[str, Any]:
        inputs = self.fed[1] if batch is self.fed[0] else self._sent(batch)
        arguments = (self.state, inputs, np.float32(rate), self.dropout_key)
        shapes = tuple(value.shape for value in inputs.values())
        if shapes not in self.flops_of:
            self.flops_of[shapes] = flops(self.step, *arguments)
        self.state, metrics = self.step(*arguments)
        return metrics | {"flops": self.flops_of[shapes]}

    @property
    def devices(self) -> int:
        return 1 if self.mesh is None else self.mesh.size

    @property
    def peak_flops(self) -> float | None:
        peak = peak_flops()
        return peak and peak * self.devices

    @contextmanager
    def traced(self, folder: Path) -> Iterator[None]:
        with jax.profiler.trace(str(folder)):
            yield
            jax.block_until_ready(self.state)

    def predict(self, batch: dict[str, np.ndarray], carry: Any = None) -> tuple[np.ndarray, Any]:
        names = (*self.objective.inputs, "reset", "start")
        inputs: Any = {name: batch[name] for name in names if name in batch}
        rows = len(inputs[self.objective.inputs[0]])
        if carry is None:
            carry = self.initial_carry(rows)
        if self.mesh is not None:
            if not carry and "start" not in inputs:  # what is carried has as many rows
                inputs = fill_rows(inputs, row_parts(self.mesh.shape))
            inputs = spread_batch(inputs, self.mesh)
        outputs, carry = self.jitted_predict(self.state, inputs, carry)
        return np.asarray(outputs)[:rows], carry or None

    def attentions(self, input_ids: np.ndarray) -> list[np.ndarray]:
        """What each layer's heads look at, (B, H, T, T) float32, for ids (B, T); of a BERT."""
        model: Any = state.merge(self.graphdef, parameters(self.state), self.state["stats"])
        found = model(input_ids, output_attentions=True).attentions
        return [np.asarray(layer, np.float32) for layer in found]

    def alone(self) -> "FlaxEngine":
        if jax.process_count() == 1:
            return self
        found = copy.copy(self)
        leaves = {"params": parameters(self.state), "stats": self.state["stats"]}
        found.mesh, found.state = (
            None,
            jax.tree.map(lambda leaf: jnp.asarray(to_host(leaf)), leaves),
        )
        found.jitted_predict = make_predict(self.graphdef, self.objective.inputs)
        return found

    def weights(self) -> dict[str, np.ndarray]:
        leaves = parameters(self.state) | self.state["stats"]
        return to_torch_layout({name: to_host(leaf) for name, leaf in leaves.items()})

    def load_weights(self, tensors: dict[str, np.ndarray]) -> None:
        leaves = self.state["params"] | self.state["stats"]
        new = to_flax_layout(tensors, {name: leaf.shape for name, leaf in leaves.items()})
        for part in {"params", "stats", "average"} & self.state.keys():
            self.state[part] = {
                name: place(new[name], self.mesh and leaf.sharding)
                for name, leaf in self.state[part].items()
            }

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


def make_state(
    task: Task,
    optimizer: optax.GradientTransformation,
    start: Start | None = None,
    mesh: Mesh | None = None,
) -> tuple[nnx.GraphDef, State]:
    """The task's model, as `init_state` has it, when its training starts.

    On a mesh each device draws its own part of it; `start` makes of all weights on the host what is
    then placed leaf by leaf. The bits are those of one device.
    """
    if mesh is None:
        return _init_state(task, optimizer, make_model(task, start))
    graphdef, abstract = abstract_state(task, optimizer)
    shardings = state_shardings(abstract, mesh)
    draw = jax.jit(
        lambda: _init_state(task, optimizer, make_model(task))[1], out_shardings=shardings
    )
    drawn = draw()
    if start is not None:
        leaves = drawn["params"] | drawn["stats"]
        names = read_shapes(nnx.eval_shape(lambda: create(task.model)))  # without adapters
        fresh = {name: to_host(leaves[name]) for name in names}
        tensors = to_flax_layout(start(to_torch_layout(fresh)), names)
        for part in ("params", "stats", "average"):
            for name in drawn.get(part, {}).keys() & names.keys():
                drawn[part][name] = place(tensors[name], leaves[name].sharding)
    return graphdef, drawn


def abstract_state(
    task: Task, optimizer: optax.GradientTransformation
) -> tuple[nnx.GraphDef, State]:
    """What `make_state` gives, of shapes and dtypes alone: no device has to hold it."""
    graphdefs = []

    def draw() -> State:
        graphdef, drawn = _init_state(task, optimizer, make_model(task))
        graphdefs.append(graphdef)
        return drawn

    abstract = jax.eval_shape(draw)
    return graphdefs[0], abstract


def _init_state(
    task: Task, optimizer: optax.GradientTransformation, model: nnx.Module
) -> tuple[nnx.GraphDef, State]:
    training = task.training
    return init_state(
        model,
        optimizer,
        initial_carry(model)(training.batch_size),
        average=training.ema_decay > 0,
        guard=initial_guard(training),
    )


def open_mesh(text: str, task: Task, *, trains: bool = True) -> Mesh:
    """The mesh of all devices that `--mesh` asks for; what `auto` chose is printed.

    Raises:
        ValueError: the mesh is malformed, or does not fit the devices or the task.
    """
    devices = jax.devices()
    if text != "auto":
        sizes = parse_mesh(text)
    else:
        drawn = abstract_state(task, make_optimizer(task.optimizer, task.layers()))[1]
        leaves = jax.tree.leaves((drawn, drawn["params"]))  # the gradients too
        sizes, why = choose_mesh(
            task,
            num_devices=len(devices),
            state_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in leaves),
            memory_bytes=(devices[0].memory_stats() or {}).get("bytes_limit", 16 * 2**30),
        )
        print(f"--mesh auto: {shown(sizes)} ({why})")
    mesh = make_mesh(sizes, devices)
    check_task(sizes, task, trains=trains)
    return mesh


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
