"""What a training step sends between devices, counted in its compiled program."""

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodels.train
from jaxmodels.collectives import Collective, collectives, count, host_transfers
from jaxmodels.engine import FlaxEngine
from jaxmodels.sharding import make_mesh, parameter_shardings, place_batch
from jaxmodels.shared.tasks import TASKS
from parity_tests.mesh_rung import random_batch, small_task
from parity_tests.trajectories import without_dropout


def mesh_of(sizes):
    return make_mesh(sizes, jax.devices()[: prod(sizes.values())])


def compiled(sizes) -> tuple[Any, str]:
    """An engine on the mesh, and its step's program as text."""
    task = without_dropout(small_task(TASKS["shakespeare-transformer"]))
    task = replace(task, model=replace(task.model, num_layers=1))
    engine: Any = FlaxEngine(task, Path(), mesh=mesh_of(sizes))
    batch = {name: random_batch(task)[name] for name in ("tokens", "targets")}
    args = engine.state, place_batch(batch, engine.mesh), np.float32(0.1), engine.dropout_key
    text = engine.step.lower(*args).compile().as_text()
    return engine, text


def found(engine: Any, text: str) -> list[Collective]:
    return collectives(text, engine.mesh)


def arrays(found: list[Collective], kind: str) -> list[tuple[int, ...]]:
    return sorted(shape for one in found if one.kind == kind for _, shape in one.arrays)


def cut_shapes(engine: Any, axis: str) -> dict[str, tuple[int, ...]]:
    params = engine.state["params"]
    places = parameter_shardings(params, engine.mesh)
    return {name: leaf.shape for name, leaf in params.items() if axis in places[name].spec}


def test_data_parallel_steps_sum_all_gradients_at_once():
    engine, text = compiled({"data": 4})
    sums = found(engine, text)
    assert {(one.kind, one.axes) for one in sums} == {("all-reduce", ("data",))}
    large = [one for one in sums if one.bytes > 64]  # not of the loss and what it is a mean over
    assert len(large) == 1
    shapes = sorted(leaf.shape for leaf in engine.state["params"].values())
    together = prod_of(arrays(large, "all-reduce"))
    assert together >= prod_of(shapes)
    assert host_transfers(text) == []


def prod_of(shapes) -> int:
    return sum(prod(shape) for shape in shapes)


def test_fsdp_gathers_each_cut_parameter_once_and_nothing_else(monkeypatch):
    engine, text = compiled({"fsdp": 4})
    sent = found(engine, text)
    assert {one.axes for one in sent} == {("fsdp",)}
    assert {one.kind for one in sent} <= {"all-gather", "all-reduce", "reduce-scatter"}
    cut = sorted(cut_shapes(engine, "fsdp").values())
    assert arrays(sent, "all-gather") == cut
    # On a CPU XLA has no pass that makes a sum and its cut one reduce-scatter: the gradients are
    # summed whole, and each device takes its part.
    assert arrays(sent, "reduce-scatter") == []
    sums = arrays(sent, "all-reduce")
    either_way = [tuple(sorted(shape)) for shape in sums]  # or transposed
    shapes = cut_shapes(engine, "fsdp").items()
    kernels = [tuple(sorted(shape)) for name, shape in shapes if name.endswith("kernel")]
    assert len(kernels) == 4
    assert all(either_way.count(shape) >= kernels.count(shape) for shape in kernels)
    parameters = sum(leaf.size for leaf in engine.state["params"].values())
    assert prod_of(sums) < 1.2 * parameters  # and no activations
    assert host_transfers(text) == []
    # The control: left to itself, the compiler sends activations.
    monkeypatch.setattr(jaxmodels.train, "gather_where_read", lambda model, mesh: model)
    engine, text = compiled({"fsdp": 4})
    assert arrays(found(engine, text), "all-gather") != cut


def test_tensor_parallel_steps_gather_no_parameter():
    engine, text = compiled({"tensor": 4})
    sent = found(engine, text)
    cut = set(cut_shapes(engine, "tensor").values())
    assert len(cut) > 4
    assert not cut & {*arrays(sent, "all-gather"), *arrays(sent, "all-reduce")}
    # What is summed and sent are activations, (B, T, ...), and the gradients of what is whole.
    whole = {leaf.shape for leaf in engine.state["params"].values()} - cut
    sums = arrays(sent, "all-reduce")
    assert all(shape in whole or shape[:1] == (16,) or not shape for shape in sums)
    assert host_transfers(text) == []


def test_a_callback_is_seen():
    def step(x):
        jax.debug.callback(print, x)
        return x

    text = jax.jit(step).lower(jnp.ones(2)).compile().as_text()
    assert text
    assert len(host_transfers(text)) == 1


LINES = [
    ("replica_groups=[4,2]<=[8]", ("tensor",)),
    ("replica_groups=[4,2]<=[4,2]T(1,0)", ("fsdp",)),
    ("replica_groups={{0,3},{1,2},{4,7},{5,6}}", ("?",)),
    ("replica_groups=[2,4]<=[4,2]T(1,0)", ("data", "fsdp")),
    ("replica_groups=[4,2]<=[2,4]T(1,0)", ("data",)),
    ("replica_groups={{0,2},{1,3},{4,6},{5,7}}", ("fsdp",)),
    ("replica_groups={}", ("data", "fsdp", "tensor")),
    ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}", ("data", "fsdp")),
    (
        "replica_groups=mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_0'}",
        ("tensor",),
    ),
]


@pytest.mark.parametrize(("groups", "axes"), LINES)
def test_the_axes_of_groups_are_found(groups, axes):
    mesh = mesh_of({"data": 2, "fsdp": 2, "tensor": 2})
    line = f"  %a.1 = f32[3,4]{{1,0}} all-reduce(%x), channel_id=1, {groups}, to_apply=%add"
    (one,) = collectives(f"%body.2 (x: f32[3,4]) -> f32[3,4] {{\n{line}\n{line}\n}}", mesh)
    assert (one.axes, one.bytes, one.channel, one.computation) == (axes, 48, 1, "body.2")
    assert count([one]) == {("all-reduce", axes): 1}


def test_permutations_scatters_and_asynchronous_gathers_are_read():
    mesh = mesh_of({"data": 2, "fsdp": 4})
    text = """
      %p = bf16[2,3]{1,0} collective-permute(%x), channel_id=1, source_target_pairs={{0,1},{5,4}}
      ROOT %s = (f32[2]{0}, s32[]) reduce-scatter(%x, %y), channel_id=2, replica_groups=[2,4]<=[8]
      %g = (f32[2]{0}, f32[8]{0}) all-gather-start(%x), channel_id=3, replica_groups=[2,4]<=[8]
      %done = f32[8]{0} all-gather-done(%g)
    """
    permute, scatter, gather = collectives(text, mesh)
    assert (permute.axes, permute.bytes) == (("fsdp",), 12)
    assert (scatter.kind, scatter.axes, scatter.group_size) == ("reduce-scatter", ("fsdp",), 4)
    assert scatter.bytes == 4 * (8 + 4)
    assert gather.arrays == (("f32", (8,)),)


def test_groups_that_cannot_be_read_are_told():
    line = "%a = f32[] all-reduce(%x), channel_id=1, replica_groups=what, to_apply=%add"
    with pytest.raises(ValueError, match=r"groups cannot be read: .*what"):
        collectives(line, mesh_of({"data": 8}))
