"""A task's training step, compiled for a TPU slice from shapes alone, and what is read off it.

>>> facts = compile_step(task, find_topology("v5e:4x4"), {"fsdp": 16})

It is the step that `jaxmodels.engine` runs, with the same table of shardings. No weights are made.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxmodels.engine import abstract_state
from jaxmodels.inspection import count_macs
from jaxmodels.objective import make_objective
from jaxmodels.optim import make_apply, make_optimizer
from jaxmodels.pod_plan.collectives import Collective, find_collectives
from jaxmodels.pod_plan.hlo import parse, walk
from jaxmodels.pod_plan.memory_traffic import hbm_bytes
from jaxmodels.pod_plan.topology import Topology
from jaxmodels.sharding import batch_shardings, make_mesh, replicated, state_shardings
from jaxmodels.shared.data.batches import Batch
from jaxmodels.shared.data.subwords import SubwordDataConfig
from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.meshes import check_devices, check_task
from jaxmodels.shared.tasks import Task
from jaxmodels.train import make_train_step


@dataclass(frozen=True)
class Facts:
    """What the compiled step is and needs; bytes and the compiler's counts are one device's.

    model_flops: a whole step's, of all devices, by the products that the mathematics asks for;
    program_flops counts what is computed again in the backward pass too. cycles: the compiler's
    estimates of its kernels, summed over all runs of each. traffic_bytes: to and from HBM.
    """

    task: str
    topology: str
    mesh: dict[str, int]
    batch_size: int
    tokens_per_row: int
    precision: str
    rematerialised: bool
    num_parameters: int
    parameter_bytes: int
    optimizer_bytes: int
    other_bytes: int
    temporary_bytes: int
    code_bytes: int
    model_flops: int
    program_flops: int
    cycles: int
    traffic_bytes: int
    kernels: int
    collectives: list[Collective] = field(default_factory=list)
    compile_seconds: float = 0.0

    @property
    def total_bytes(self) -> int:
        return (
            self.parameter_bytes
            + self.optimizer_bytes
            + self.other_bytes
            + self.temporary_bytes
            + self.code_bytes
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(content: dict[str, Any]) -> "Facts":
        """The inverse of `to_json`."""
        collectives = [
            Collective(**one | {"axes": tuple(one["axes"]), "group": tuple(one["group"])})
            for one in content["collectives"]
        ]
        values: dict[str, Any] = content | {"collectives": collectives}
        return Facts(**values)


class DoesNotFitError(ValueError):
    """The step needs more of a device's HBM than there is."""

    def __init__(self, needed: float, available: float, what: str):
        super().__init__(
            f"does not fit: needs {needed:.2f} GiB{what} of {available:.2f} GiB a device"
        )
        self.needed = needed
        self.available = available


def batch_shapes(task: Task) -> dict[str, jax.ShapeDtypeStruct]:
    """The entries of a training batch that the step is given, at the task's batch size.

    They are read off the embedded sample; reviews are as wide as the task lets them be.
    """
    one = replace(task, training=replace(task.training, batch_size=1, micro_batches=1))
    family, objective = family_of(task), make_objective(task)
    example: Batch = next(family.training_batches(one, family.load("sample", one)))
    shapes = {}
    for name in (*objective.inputs, objective.target, "reset"):
        if name in example:
            _, *rest = example[name].shape
            if isinstance(task.data, SubwordDataConfig) and rest:
                rest = [task.data.max_length]
            shape = (task.training.batch_size, *rest)
            shapes[name] = jax.ShapeDtypeStruct(shape, example[name].dtype)
    return shapes


def compile_step(
    task: Task,
    topology: Topology,
    mesh_sizes: Mapping[str, int],
    *,
    batch: Mapping[str, jax.ShapeDtypeStruct] | None = None,
    compiler_options: Mapping[str, str] | None = None,
) -> Facts:
    """Compiles the task's step for the slice and reads off what it needs.

    Raises:
        ValueError: the mesh does not fit the slice or the task, or the compiler knows no such
            option.
        DoesNotFitError: the compiler finds no way to fit it into HBM.
    """
    check_devices(mesh_sizes, len(topology.devices))
    check_task(mesh_sizes, task)
    batch = batch_shapes(task) if batch is None else batch
    mesh = make_mesh(mesh_sizes, topology.devices)
    step, state, shapes = lower_arguments(task, batch, mesh)
    start = time.perf_counter()
    try:
        compiled = step.lower(*shapes).compile(dict(compiler_options or {}))
    except jax.errors.JaxRuntimeError as error:
        if compiler_options and "option" in str(error):
            raise ValueError(f"--xla: {str(error).splitlines()[0]}") from None
        raise out_of_memory(error) or error from None
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    program = parse(compiled.as_text())
    sizes = {part: device_bytes(value) for part, value in state.items()}
    first = next(iter(batch.values()))
    is_tokens = first.ndim == 2 and jnp.issubdtype(first.dtype, jnp.integer)
    return Facts(
        task=task.name,
        topology=topology.name,
        mesh=dict(mesh_sizes),
        batch_size=task.training.batch_size,
        tokens_per_row=first.shape[1] if is_tokens else 0,
        precision=task.training.precision,
        rematerialised=getattr(task.model, "gradient_checkpointing", False),
        num_parameters=sum(prod(leaf.shape) for leaf in state["params"].values()),
        parameter_bytes=sizes["params"],
        optimizer_bytes=sizes["optimizer"],
        other_bytes=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        - sizes["params"]
        - sizes["optimizer"],
        temporary_bytes=memory.temp_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        model_flops=count_flops(task, batch, rematerialised=False),
        program_flops=count_flops(task, batch, rematerialised=True),
        cycles=sum(i.cycles * times for _, i, times in walk(program)),
        traffic_bytes=hbm_bytes(program),
        kernels=sum(times for _, i, times in walk(program) if i.cycles),
        collectives=find_collectives(program, mesh_sizes),
        compile_seconds=seconds,
    )


def lower_arguments(
    task: Task, batch: Mapping[str, jax.ShapeDtypeStruct], mesh: Mesh | None
) -> tuple[Any, Any, tuple[Any, ...]]:
    """(the jitted step, the state's shapes, those of all arguments) with their places."""
    optimizer = make_optimizer(task.optimizer, task.layers())
    graphdef, state = abstract_state(task, optimizer)
    key: Any = jax.eval_shape(lambda: jax.random.key(0))
    rate: Any = jax.ShapeDtypeStruct((), jnp.float32)
    places: Any = batch
    if mesh is not None:
        state = jax.tree.map(_placed, state, state_shardings(state, mesh))
        places = jax.tree.map(_placed, dict(batch), batch_shardings(batch, mesh))
        rate, key = (_placed(value, replicated(mesh)) for value in (rate, key))
    step = make_train_step(
        graphdef,
        optimizer,
        make_objective(task),
        make_apply(task.optimizer),
        micro_batches=task.training.micro_batches,
        ema_decay=task.training.ema_decay,
        mesh=mesh,
    )
    return step, state, (state, dict(places), rate, key)


def count_flops(
    task: Task, batch: Mapping[str, jax.ShapeDtypeStruct], *, rematerialised: bool
) -> int:
    """Two for each multiply-accumulate of a whole step's products and convolutions.

    They are counted in the traced program, a loop's as often as it turns; the compiler's own count
    takes a loop's body once. `rematerialised` counts what a task with gradient checkpointing
    computes twice, twice.
    """
    if not rematerialised and getattr(task.model, "gradient_checkpointing", False):
        task = replace(task, model=replace(task.model, gradient_checkpointing=False))  # type: ignore[call-arg]
    step, _, arguments = lower_arguments(task, batch, None)
    return 2 * count_macs(jax.make_jaxpr(step)(*arguments).jaxpr)


def _placed(value: Any, sharding: Any) -> Any:
    return jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)


def device_bytes(tree: Any) -> int:
    """What one device holds of a tree of shapes; of those without a place, all."""
    return sum(
        prod(leaf.sharding.shard_shape(leaf.shape) if leaf.sharding else leaf.shape)
        * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def out_of_memory(error: Exception) -> DoesNotFitError | None:
    """What the compiler says of HBM, in GiB: "... (49.80G) exceeds available HBM (15.75G)"."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text:
        return None
    if match := re.search(r"\(([\d.]+)G\) exceeds available HBM \(([\d.]+)G\)", text):
        return DoesNotFitError(float(match[1]), float(match[2]), " for activations alone")
    if match := re.search(r"Used ([\d.]+)G of ([\d.]+)G hbm", text):
        return DoesNotFitError(float(match[1]), float(match[2]), "")
    return None
