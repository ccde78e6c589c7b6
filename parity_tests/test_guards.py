"""Steps whose loss is no number, or leaps, are left out or stop the training, alike in both."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("torch")

import jaxmodels.shared.guards as guards
from jaxmodels.shared.data.batches import Batch
from jaxmodels.shared.families import images
from jaxmodels.shared.run import NonFiniteLossError
from jaxmodels.shared.training import choose_trainer
from parity_tests.tiny_runs import (
    SGD,
    STEPS,
    TASK,
    assert_resumes_exactly,
    assert_same_weights,
    compile_once,
    history,
    train_tiny,
    with_settings,
)

__all__ = ["compile_once"]  # a fixture

ENGINES = ("flax", "torch")
SKIP = with_settings(training={"on_nonfinite": "skip", "ema_decay": 0.9})
LEAP = with_settings(  # no dropout: both have the same losses; no BatchNorm: it would hide a scale
    dataclasses.replace(TASK, optimizer=dataclasses.replace(SGD, learning_rate=0.01)),
    model={"dropout_rate": 0.0, "batch_norm": False},
    training={"spike_factor": 3.0, "epochs": 9},
)


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """step -> what the images of its batch are multiplied by."""
    factors: dict[int, float] = {}
    original = images.training_batches

    def batches(task: Any, data: Any, start_step: int = 0, **hosts: Any) -> Iterator[Batch]:
        for step, batch in enumerate(original(task, data, start_step, **hosts), start_step):
            factor = np.float32(factors.get(step, 1.0))
            with np.errstate(invalid="ignore"):
                pixels = batch["image"] * factor
            yield batch | {"image": pixels}

    monkeypatch.setattr(images, "training_batches", batches)
    return factors


def skipped_of(folder: Path) -> list[int]:
    return [row["train_skipped_steps"] for row in history(folder)]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_skipped_step_changes_nothing(
    engine: str, spoilt: dict[int, float], tmp_path: Path
) -> None:
    """The weights, statistics, slots and average are of a training that never met the batch."""
    task = with_settings(SKIP, training={"epochs": 1, "checkpoint_every_steps": 1})
    last = STEPS - 1
    spoilt[last] = float("nan")
    with_it, _ = train_tiny(engine, tmp_path / "with", task)
    resumed, _ = train_tiny(engine, tmp_path / "with", task, resume=True, from_step=last)
    assert skipped_of(tmp_path / "with") == [1]
    spoilt.clear()
    without, _ = train_tiny(engine, tmp_path / "without", task)
    assert not np.allclose(without.weights()["linear3.weight"], with_it.weights()["linear3.weight"])
    without.restore("last", last)  # as it was before the step
    assert_same_weights(with_it.weights(), without.weights())
    assert_same_weights(with_it.weights(), resumed.weights())


def test_both_frameworks_skip_the_same_steps(
    spoilt: dict[int, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[int]] = {}
    add = guards.Sums.add

    def noted(self: Any, training: Any, step: int, *rest: Any) -> Any:
        if int(rest[-1]["skipped"]):
            seen[engine].append(step)
        return add(self, training, step, *rest)

    monkeypatch.setattr(guards.Sums, "add", noted)
    spoilt |= {3: float("inf"), 33: 100.0, 36: float("nan"), 37: 100.0}
    task = with_settings(LEAP, training={"on_nonfinite": "skip"})
    for engine in ENGINES:
        seen[engine] = []
        train_tiny(engine, tmp_path / engine, task)
    assert seen["flax"] == seen["torch"] == [3, 33, 36, 37]
    assert skipped_of(tmp_path / "flax") == skipped_of(tmp_path / "torch")
    assert skipped_of(tmp_path / "flax") == [1, 0, 0, 0, 0, 0, 1, 2, 0]
    rows = [history(tmp_path / engine) for engine in ENGINES]
    for flax, torch in zip(*rows, strict=True):
        assert np.isfinite(flax["train_loss"])
        assert torch["train_loss"] > 0


@pytest.mark.parametrize("engine", ENGINES)
def test_too_many_in_a_row_stop_the_training(
    engine: str, spoilt: dict[int, float], tmp_path: Path
) -> None:
    """In a row over an epoch's end, and over a resume."""
    spoilt |= dict.fromkeys(range(STEPS - 1, STEPS + 3), float("nan"))
    task = with_settings(SKIP, training={"max_skipped_in_a_row": 3, "checkpoint_every_steps": 2})
    for resume in (False, True):
        with pytest.raises(NonFiniteLossError, match=r"step 7 .* 4 steps in a row .* allows 3; "):
            train_tiny(engine, tmp_path / "few", task, resume=resume)
    enough = with_settings(task, training={"max_skipped_in_a_row": 4})
    train_tiny(engine, tmp_path / "enough", enough)
    assert skipped_of(tmp_path / "enough") == [1, 3, 0]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_leap_can_stop_the_training(
    engine: str, spoilt: dict[int, float], tmp_path: Path
) -> None:
    spoilt[33] = 100.0
    task = with_settings(LEAP, training={"on_spike": "stop"})
    with pytest.raises(
        NonFiniteLossError, match=r"at step 33 \(epoch 7\), over 3 times the median"
    ):
        train_tiny(engine, tmp_path, task)
    assert len(history(tmp_path)) == 6


@pytest.mark.parametrize("engine", ENGINES)
def test_a_guarded_run_resumes_exactly(
    engine: str, spoilt: dict[int, float], tmp_path: Path
) -> None:
    spoilt |= {3: float("nan"), 35: 100.0}
    task = with_settings(LEAP, training={"on_nonfinite": "skip", "checkpoint_every_steps": 2})
    assert_resumes_exactly(engine, tmp_path, task, stop_at=34)
    assert skipped_of(tmp_path / "parts") == [1, 0, 0, 0, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("engine", ["lightning", "accelerate", "xla"])
def test_engines_without_guards_refuse_them(engine: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"not for --engine {engine}; take flax or torch"):
        choose_trainer(engine, SKIP, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spike_factor": 0.5}, "spike_factor 0.5 must be above 1, or 0"),
        ({"on_nonfinite": "go"}, "on_nonfinite 'go' must be stop or skip"),
        ({"on_spike": "go"}, "on_spike 'go' must be stop or skip"),
        ({"max_skipped_in_a_row": -1}, "max_skipped_in_a_row -1 must not be negative"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_settings(training=change)
