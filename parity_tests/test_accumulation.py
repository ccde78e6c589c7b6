"""Micro-batches make the step of one batch, and the average of the parameters is its formula."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodels.models
import torchref.models
from jaxmodels import state
from jaxmodels.engine import FlaxEngine, initial_carry
from jaxmodels.objective import make_objective
from jaxmodels.shared.command_line import make_engine
from jaxmodels.shared.configs import CharRNNConfig, ModelConfig
from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.targets import IGNORED
from jaxmodels.shared.tasks import TASKS, Task, TrainingConfig
from jaxmodels.shared.weights import to_torch_layout
from jaxmodels.state import read_leaves
from jaxmodels.train import make_gradients
from parity_tests.tiny_runs import (
    DATA,
    ENGINES,
    STEPS,
    TASK,
    assert_resumes_exactly,
    assert_same_weights,
    assert_torchs_engines_agree,
    compile_once,
    train_tiny,
    with_settings,
)
from torchref.step import compute_gradients
from torchref.weights import load_tensors

__all__ = ["compile_once"]  # a fixture

BATCH = 12
PLAIN = with_settings(model={"batch_norm": False, "dropout_rate": 0.0})
RECURRENT: ModelConfig = CharRNNConfig(
    vocabulary_size=11, embedding_dim=5, hidden_dim=7, num_layers=2, dropout_rate=0.0
)
TEXT = dataclasses.replace(TASKS["shakespeare-lstm"], model=RECURRENT)


def images() -> dict[str, np.ndarray]:
    """Labels that do not count are spread unevenly, so that a mean of means is another."""
    rng = np.random.default_rng(0)
    labels = rng.integers(5, size=BATCH).astype(np.int32)
    labels[[0, 1, 7]] = IGNORED
    return {"image": rng.normal(size=(BATCH, 8, 8, 3)), "label": labels}


def texts() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    tokens, target = rng.integers(11, size=(2, BATCH, 6)).astype(np.int32)
    target[2, 3:] = IGNORED
    return {"tokens": tokens, "targets": target, "reset": np.arange(BATCH) % 3 == 0}


CASES = pytest.mark.parametrize(("task", "batch"), [(PLAIN, images()), (TEXT, texts())])


def with_parts(task: Task, parts: int) -> Task:
    training = TrainingConfig(batch_size=BATCH, micro_batches=parts, label_smoothing=0.1)
    return dataclasses.replace(task, training=training)


def flax_step(task: Task, batch: dict[str, np.ndarray], parts: int) -> dict[str, np.ndarray]:
    """Metrics, gradients and carry in float64, by torch's names."""
    fresh = jaxmodels.models.create(task.model, seed=1)  # in float64 it would be drawn otherwise
    with jax.enable_x64(True):
        model = state.cast(fresh, jnp.dtype("float64"))
        graphdef, params, stats = state.split(model)
        gradients_of = jax.jit(make_gradients(graphdef, make_objective(task), parts))
        carry: Any = jax.tree.map(lambda x: x.astype(float) + 0.3, initial_carry(model)(BATCH))
        inputs = {name: jnp.asarray(value) for name, value in batch.items()}
        (metrics, gradients), _, carry = gradients_of(params, stats, inputs, carry, None)
        leaves = {name: np.asarray(value) for name, value in gradients.items()}
        carried = {f"carry{n}": np.asarray(x) for n, x in enumerate(jax.tree.leaves(carry))}
        return {n: np.asarray(v) for n, v in metrics.items()} | to_torch_layout(leaves) | carried


def torch_step(task: Task, batch: dict[str, np.ndarray], parts: int) -> dict[str, np.ndarray]:
    """The twin of `flax_step`."""
    model = torchref.models.create(task.model).double()
    flax = jaxmodels.models.create(task.model, seed=1)
    leaves = {name: np.array(leaf) for name, leaf in read_leaves(flax).items()}
    load_tensors(model, to_torch_layout(leaves))
    tensors = {name: torch.from_numpy(value) for name, value in batch.items()}
    carry: Any = jax.tree.map(
        lambda x: torch.from_numpy(np.array(x, np.float64)) + 0.3, initial_carry(flax)(BATCH)
    )
    task = with_parts(task, parts)
    metrics, carry = compute_gradients(task, model, tensors, carry or None, step=0, seed=0)
    gradients = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
    carried = {f"carry{n}": x.numpy() for n, x in enumerate(jax.tree.leaves(carry))}
    return {name: value.numpy() for name, value in metrics.items()} | gradients | carried


def distance(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> float:
    """The largest relative difference of any entry."""
    assert left.keys() == right.keys()
    assert float(left["metric"]) == pytest.approx(float(right["metric"]), rel=1e-6)  # float32
    return max(
        float(np.linalg.norm(left[name] - right[name]) / np.linalg.norm(right[name]))
        for name in left.keys() - {"metric"}
    )


@CASES
def test_micro_batches_make_the_step_of_one_batch(task: Task, batch: Any) -> None:
    task = with_parts(task, 1)
    whole = flax_step(task, batch, 1)
    for step, parts in ((flax_step, 4), (torch_step, 1), (torch_step, 4)):
        assert distance(step(task, batch, parts), whole) < 1e-12


@pytest.mark.parametrize("step", [flax_step, torch_step])
def test_a_mean_of_means_would_be_another_step(step: Any) -> None:
    """The control: each half alone, and their plain mean."""
    task, batch = with_parts(PLAIN, 1), images()
    half = BATCH // 2
    halves = [{n: v[rows] for n, v in batch.items()} for rows in (slice(half), slice(half, None))]
    first, second = (step(task, part, 1) for part in halves)
    whole = step(task, batch, 1)
    mean = {name: (first[name] + second[name]) / 2 for name in first}
    assert distance(mean | {"metric": whole["metric"]}, whole) > 1e-2


def live_parameters(engine: Any) -> dict[str, np.ndarray]:
    """The parameters that the next step starts from, in torch's names and layout."""
    if isinstance(engine, FlaxEngine):
        leaves = {name: np.asarray(leaf) for name, leaf in engine.state["params"].items()}
        return to_torch_layout(leaves)
    return {name: p.detach().numpy().copy() for name, p in engine.model.named_parameters()}


@pytest.mark.parametrize("name", ENGINES[:2])
def test_the_average_is_its_formula_and_is_what_is_evaluated(name: Any, tmp_path: Path) -> None:
    decay, task = 0.9, with_settings(training={"ema_decay": 0.9})
    engine: Any = make_engine(name, task, tmp_path)
    expected = now = live_parameters(engine)
    batches = family_of(task).training_batches(task, DATA)
    for step in range(3):
        engine.train_step(next(batches), step=step, rate=0.01)
        now = live_parameters(engine)
        expected = {leaf: old + (1 - decay) * (now[leaf] - old) for leaf, old in expected.items()}
    found = engine.weights()
    for leaf, value in expected.items():
        np.testing.assert_allclose(found[leaf], value, rtol=1e-5, atol=1e-7, err_msg=leaf)
        assert np.abs(now[leaf] - value).max() > 1e-4  # the control: it is not the newest
    other: Any = make_engine(name, TASK, tmp_path)
    other.load_weights(found)
    batch = next(family_of(task).evaluation_batches(task, DATA, "test"))
    np.testing.assert_array_equal(engine.predict(batch)[0], other.predict(batch)[0])


BOTH = with_settings(training={"micro_batches": 3, "ema_decay": 0.8})


def test_torchs_engines_are_one_bit_for_bit(tmp_path: Path) -> None:
    plain = assert_torchs_engines_agree(tmp_path, BOTH)
    one_batch, _ = train_tiny("torch", tmp_path / "one", with_settings())
    with pytest.raises(AssertionError):  # the control
        assert_same_weights(plain, one_batch.weights())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_resumed_run_equals_the_uninterrupted_one(engine: str, tmp_path: Path) -> None:
    assert_resumes_exactly(engine, tmp_path, BOTH, stop_at=STEPS + 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"micro_batches": 5}, "micro_batches 5 must divide training.batch_size 12; try 1"),
        ({"micro_batches": 8}, "micro_batches 8 must divide training.batch_size 12; try 4"),
        ({"micro_batches": 0}, "micro_batches 0 must be at least 1"),
        ({"ema_decay": 1.0}, r"ema_decay 1.0 must be in \[0, 1\)"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_settings(training=change)
