"""Checkpoints are taken up on another mesh, and the training goes on as if nothing had changed."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.checkpoint import Checkpoints
from jaxmodels.engine import FlaxEngine
from jaxmodels.sharding import make_mesh
from jaxmodels.shared.loop import fit
from parity_tests.tiny_runs import (
    DATA,
    SGD,
    TASK,
    Stop,
    assert_same_weights,
    compile_once,
    history,
    with_settings,
)

__all__ = ["compile_once"]  # a fixture

BATCH, STEPS = 16, 3  # of 63 rows
LEARNT = with_settings(
    dataclasses.replace(TASK, optimizer=SGD),
    training={"epochs": 4, "batch_size": BATCH, "evaluation_batch_size": 24},
)
EIGHT = {"data": 2, "fsdp": 2, "tensor": 2}
MESHES = (EIGHT, {"fsdp": 2}, {}, {"data": 4, "fsdp": 2})


def mesh_of(sizes: dict[str, int]) -> Any:
    return make_mesh(sizes, jax.devices()[: np.prod(list(sizes.values()))]) if sizes else None


def test_a_state_is_laid_out_as_the_new_mesh_has_it(tmp_path: Path) -> None:
    leaf = jax.random.normal(jax.random.key(0), (16, 24))
    places = [
        jax.NamedSharding(mesh_of(EIGHT), jax.P("fsdp", "tensor")),
        jax.NamedSharding(mesh_of({"fsdp": 4}), jax.P(None, "fsdp")),
        jax.sharding.SingleDeviceSharding(jax.devices()[3]),
        jax.NamedSharding(mesh_of({"data": 8}), jax.P()),
    ]
    state = {"kernel": jax.device_put(leaf, places[0])}
    Checkpoints(tmp_path).save("last", state, {"step": 1})
    for step, place in enumerate(places[1:], 1):
        checkpoints = Checkpoints(tmp_path)
        like = {"kernel": jax.device_put(jnp.zeros_like(leaf), place)}
        checkpoints.finish()
        state, _ = checkpoints.restore("last", like)
        assert state["kernel"].sharding == place
        np.testing.assert_array_equal(state["kernel"], leaf)
        checkpoints.save("last", state, {"step": step + 1})
        checkpoints.finish()


def train(
    folder: Path, sizes: dict[str, int], *, resume: bool = False, stop_at: int | None = None
) -> FlaxEngine:
    """In float64; stopped before a step."""
    folder.mkdir(exist_ok=True)
    engine = FlaxEngine(LEARNT, folder, mesh=mesh_of(sizes))

    def wide(leaf: jax.Array) -> jax.Array:
        kind = jnp.float64 if leaf.dtype == jnp.float32 else leaf.dtype
        return jax.device_put(leaf.astype(kind), leaf.sharding)

    engine.state = jax.tree.map(wide, engine.state)
    step_of = engine.train_step

    def stopping_step(batch: Any, *, step: int, rate: float) -> Any:
        if step == stop_at:
            raise Stop
        return step_of(batch, step=step, rate=rate)

    engine.train_step = stopping_step  # type: ignore[method-assign]
    fit(LEARNT, DATA, engine, folder, resume=resume)
    return engine


@pytest.mark.slow
def test_a_training_goes_on_over_8_2_1_and_8_devices(tmp_path: Path) -> None:
    with jax.enable_x64(True):
        whole = train(tmp_path / "whole", EIGHT)
        for number, sizes in enumerate(MESHES[:-1]):
            with pytest.raises(Stop):
                train(tmp_path / "parts", sizes, resume=number > 0, stop_at=(number + 1) * STEPS)
        parts = train(tmp_path / "parts", MESHES[-1], resume=True)
        expected, found = whole.weights(), parts.weights()
        for name, value in expected.items():
            assert value.dtype == np.float64 or value.ndim == 0
            error = np.linalg.norm(found[name] - value) / max(np.linalg.norm(value), 1e-30)
            assert error < 1e-12, name
        assert (
            json.loads((tmp_path / "whole" / "history.jsonl").read_text().splitlines()[0])[
                "images_per_device_per_second"
            ]
            > 0
        )
        rows = zip(history(tmp_path / "whole"), history(tmp_path / "parts"), strict=True)
        assert all(left == pytest.approx(right, rel=1e-6) for left, right in rows)
        parts.restore("last", 3 * STEPS)
        before = parts.weights()["linear3.weight"]
        assert np.linalg.norm(before - expected["linear3.weight"]) > 1e-4  # the control


@pytest.mark.slow
def test_on_the_same_mesh_a_training_goes_on_bit_for_bit(tmp_path: Path) -> None:
    with jax.enable_x64(True):
        whole = train(tmp_path / "whole", EIGHT)
        with pytest.raises(Stop):
            train(tmp_path / "parts", EIGHT, stop_at=STEPS + 1)
        parts = train(tmp_path / "parts", EIGHT, resume=True)
        assert_same_weights(whole.weights(), parts.weights())
        assert history(tmp_path / "whole") == history(tmp_path / "parts")
