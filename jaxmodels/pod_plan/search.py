"""Meshes, batch sizes and rematerialisation for a task on a slice: the best of those that fit.

>>> found = search(task, topology, limit=6)
>>> found.ranked[0].facts.mesh

A compilation takes seconds to minutes. So what cannot fit by its state alone is left out, the rest
is put in order by arithmetic, and only the first few are compiled; where one does not fit, neither
does a larger batch of the same kind, which is not tried.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import jax

from jaxmodels.pod_plan.program import (
    DoesNotFitError,
    Facts,
    batch_shapes,
    compile_step,
    count_flops,
    device_bytes,
    lower_arguments,
)
from jaxmodels.pod_plan.roofline import Estimate, estimate
from jaxmodels.pod_plan.topology import Topology
from jaxmodels.sharding import make_mesh
from jaxmodels.shared.meshes import check_task, shown
from jaxmodels.shared.tasks import Task

_ROWS_A_PART = (1, 4, 16, 64)  # of a batch, in each part into which the mesh cuts it


@dataclass(frozen=True)
class Candidate:
    """`state_bytes`: of parameters, optimizer and gradients on one chip. seconds: by arithmetic."""

    task: Task
    mesh: dict[str, int]
    state_bytes: int
    seconds: float

    @property
    def samples_per_second(self) -> float:
        return self.task.training.batch_size / self.seconds

    @property
    def rematerialised(self) -> bool:
        return getattr(self.task.model, "gradient_checkpointing", False)

    def __str__(self) -> str:
        remat = ", remat" if self.rematerialised else ""
        return f"{shown(self.mesh)}, batch {self.task.training.batch_size:,}{remat}"


@dataclass(frozen=True)
class Result:
    candidate: Candidate
    facts: Facts
    estimate: Estimate


@dataclass(frozen=True)
class Found:
    """`ranked`: by samples/s, the most first. `refused`: what was compiled and did not fit."""

    ranked: Sequence[Result]
    refused: Sequence[tuple[Candidate, str]]
    considered: int
    pruned: int


def search(
    task: Task,
    topology: Topology,
    *,
    limit: int = 6,
    fixed_batch: bool = False,
    compiler_options: Mapping[str, str] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Found:
    """Compiles the `limit` most promising candidates; `fixed_batch` keeps the task's batch size."""
    every = list(candidates(task, topology, fixed_batch=fixed_batch))
    fitting = [c for c in every if c.state_bytes < topology.chip.usable_hbm]
    fitting.sort(key=lambda c: (-c.samples_per_second, c.rematerialised, c.state_bytes))
    results: list[Result] = []
    refused: list[tuple[Candidate, str]] = []
    for candidate in fitting:
        if len(results) + len(refused) == limit:
            break
        if any(_is_larger(candidate, other) for other, _ in refused):
            continue
        try:
            facts = compile_step(
                candidate.task, topology, candidate.mesh, compiler_options=compiler_options
            )
        except DoesNotFitError as error:
            refused.append((candidate, str(error)))
            report(f"{candidate}: {error}")
            continue
        results.append(Result(candidate, facts, estimate(facts, topology)))
        report(f"{candidate}: {results[-1].estimate.samples_per_second:,.0f} samples/s")
    results.sort(key=lambda result: -result.estimate.samples_per_second)
    return Found(results, refused, len(every), len(every) - len(fitting))


def candidates(task: Task, topology: Topology, *, fixed_batch: bool) -> Iterator[Candidate]:
    """All combinations that divide evenly."""
    devices, chip = len(topology.devices), topology.chip
    remats = (False, True) if hasattr(task.model, "gradient_checkpointing") else (False,)
    one = _with(task, batch_size=1, rematerialised=False)
    shapes = batch_shapes(one)
    flops = {
        remat: count_flops(
            _with(task, batch_size=1, rematerialised=remat), shapes, rematerialised=True
        )
        for remat in remats
    }
    for sizes in _meshes(task, devices):
        state, parameters = _state_bytes(one, shapes, sizes, topology)
        parts = sizes["data"] * sizes["fsdp"]
        own = task.training.batch_size
        batches = {own} if fixed_batch else {parts * rows for rows in _ROWS_A_PART} | {own}
        for batch_size in sorted(batches):
            for remat in remats:
                varied = _with(task, batch_size=batch_size, rematerialised=remat)
                mesh = {axis: n for axis, n in sizes.items() if n > 1} or {"data": 1}
                try:
                    check_task(mesh, varied)
                except ValueError:
                    continue
                arithmetic = flops[remat] * batch_size / devices / chip.peak_flops
                sent = _sent_bytes(varied, sizes, parameters, shapes)
                links = 2 * chip.dimensions * chip.link_bandwidth
                yield Candidate(varied, mesh, state, max(arithmetic, sent / links))


def _meshes(task: Task, devices: int) -> Iterator[dict[str, int]]:
    heads = getattr(task.model, "num_heads", 1)
    for tensor in _divisors(devices):
        if heads % tensor:
            continue
        for fsdp in _divisors(devices // tensor):
            yield {"data": devices // tensor // fsdp, "fsdp": fsdp, "tensor": tensor}


def _state_bytes(
    task: Task, shapes: Any, sizes: dict[str, int], topology: Topology
) -> tuple[int, int]:
    """(parameters, optimizer and gradients on one chip; all parameters), in bytes."""
    _, state, _ = lower_arguments(task, shapes, make_mesh(sizes, topology.devices))
    own = device_bytes(state) + device_bytes(state["params"])
    whole = sum(prod(p.shape) * p.dtype.itemsize for p in state["params"].values())
    return own, whole


def _sent_bytes(task: Task, sizes: dict[str, int], parameters: int, shapes: Any) -> float:
    """What a chip sends in a step: its gradients' sums, fsdp's parameters, tensor's activations."""
    own = parameters / sizes["tensor"]
    sent = 3 * own if sizes["fsdp"] > 1 else 0.0
    sent += 2 * own / sizes["fsdp"] if sizes["data"] > 1 else 0.0
    if sizes["tensor"] > 1:
        model: Any = task.model
        rows = task.training.batch_size / sizes["data"] / sizes["fsdp"]
        length = max(prod(shape.shape[1:2]) for shape in jax.tree.leaves(shapes))
        itemsize = 2 if task.training.precision == "bfloat16" else 4
        # Two sums a block forward and two backward, each there and back.
        sent += 8 * model.num_layers * rows * length * model.hidden_dim * itemsize
    return sent


def _with(task: Task, *, batch_size: int, rematerialised: bool) -> Task:
    model = task.model
    if hasattr(model, "gradient_checkpointing"):
        model = replace(model, gradient_checkpointing=rematerialised)  # type: ignore[call-arg]
    micro = 1 if batch_size % task.training.micro_batches else task.training.micro_batches
    training = replace(task.training, batch_size=batch_size, micro_batches=micro)
    return replace(task, model=model, training=training)


def _is_larger(candidate: Candidate, other: Candidate) -> bool:
    """Whether it needs at least what the other one does, and is of the same kind."""
    return (
        candidate.mesh == other.mesh
        and candidate.rematerialised <= other.rematerialised
        and candidate.task.training.batch_size >= other.task.training.batch_size
    )


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
