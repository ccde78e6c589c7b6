"""Training keeps its promises on every engine: files, weights, exact resume, early stopping."""

import csv
import dataclasses
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")
torch = pytest.importorskip("torch")
pytest.importorskip("lightning")
event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")

import jaxmodels  # noqa: E402
import torchref  # noqa: E402
from jaxmodels.shared.command_line import load_engine  # noqa: E402
from jaxmodels.shared.families.registry import family_of  # noqa: E402
from jaxmodels.shared.hub.folder import open_checkpoint  # noqa: E402
from jaxmodels.shared.hub.tensor_files import read_all  # noqa: E402
from jaxmodels.shared.loop import evaluate, validate  # noqa: E402
from jaxmodels.shared.run import Recorder  # noqa: E402
from jaxmodels.shared.tensorboard import tags  # noqa: E402
from parity_tests.tiny_runs import (  # noqa: E402
    DATA,
    ENGINES,
    EPOCHS,
    SGD,
    STEPS,
    TASK,
    assert_resumes_exactly,
    assert_same_weights,
    assert_torchs_engines_agree,
    call,
    compile_once,
    history,
    train_tiny,
    with_settings,
)

__all__ = ["compile_once"]  # a fixture

SMALL = (
    *("--model.channels", 4, 6, "--model.hidden-dims", 16, 12, "--model.kernel-size", 3),
    *("--epochs", 2, "--batch-size", 32, "optimizer.learning_rate=0.005"),
)
PLOTS = (
    *("curves", "confusion_matrix", "per_class_accuracy"),
    *("sample_predictions", "worst_misclassifications"),
)


@pytest.fixture(scope="module", params=ENGINES)
def finished(request: Any, tmp_path_factory: Any) -> tuple[str, Path]:
    """(engine, folder) of a small run on the sample through scripts/train.py."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    arguments = ("cifar10-simplecnn", "--engine", request.param, "--out", folder, *SMALL)
    code, _, errors = call("train", *arguments)
    assert (code, errors) == (0, "")
    return request.param, folder


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """tag -> [(step, value)] of the event file: length, checksum, event, checksum a record."""
    (file,) = (folder / "tensorboard").iterdir()
    content, found = file.read_bytes(), {}
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = event_pb2.Event.FromString(content[12 : 12 + length])
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
        content = content[16 + length :]
    return found


def test_run_leaves_every_promised_file(finished: tuple[str, Path]) -> None:
    engine, folder = finished
    rows, metrics = history(folder), json.loads((folder / "metrics.json").read_text())
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[1]["train_loss"] < rows[0]["train_loss"]
    assert metrics["engine"] == engine
    assert json.loads((folder / "run.json").read_text())["engine"] == engine
    assert (folder / "model.safetensors").stat().st_mode == (folder / "run.json").stat().st_mode
    assert sorted(file.stem for file in (folder / "plots").glob("*.png")) == sorted(PLOTS)
    predictions = list(csv.DictReader((folder / "predictions.csv").open()))
    right = [row["label"] == row["prediction"] for row in predictions]
    assert len(right) == metrics["test_examples"] == 359
    assert sum(right) / len(right) == pytest.approx(metrics["test_accuracy"])
    found = scalars(folder)
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert found.keys() == set(tags(lines[0]).values())
    assert {"train/loss", "validation/accuracy", "learning_rate"} < found.keys()
    for name, tag in tags(lines[0]).items():
        assert found[tag] == [(r["epoch"], pytest.approx(r[name], rel=1e-6)) for r in lines]


def test_final_weights_load_into_every_engine(finished: tuple[str, Path]) -> None:
    _, folder = finished
    logits = {}
    for name in ("flax", "torch", "accelerate"):
        run, engine = load_engine(folder, name)
        data = family_of(run.task).load("sample", run.task, folder)
        logits[name] = evaluate(run.task, data, "test", engine.predict).outputs
        assert_same_weights(engine.weights(), read_all(open_checkpoint(folder).stored))
        loss = validate(run.task, data, engine.predict)["validation_loss"]
        assert loss == pytest.approx(history(folder)[-1]["validation_loss"], rel=1e-5)
    np.testing.assert_allclose(logits["flax"], logits["torch"], rtol=1e-4, atol=1e-5)
    images = np.random.default_rng(0).normal(size=(7, 32, 32, 3)).astype(np.float32)
    flax = np.asarray(jaxmodels.from_pretrained(folder)(images))  # type: ignore[operator]
    twin = torchref.from_pretrained(folder)
    assert not twin.training
    np.testing.assert_allclose(
        flax, twin(torch.from_numpy(images)).detach().numpy(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("library", [jaxmodels, torchref], ids=["flax", "torch"])
def test_saved_model_loads_in_the_other_framework(library: Any, tmp_path: Path) -> None:
    library.save_pretrained(library.create(TASK.model, seed=7), TASK.model, tmp_path)
    other: Any = torchref if library is jaxmodels else jaxmodels
    other.save_pretrained(other.from_pretrained(tmp_path), TASK.model, tmp_path / "again")
    first, second = (read_all(open_checkpoint(d).stored) for d in (tmp_path, tmp_path / "again"))
    assert_same_weights(first, second)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_torchs_engines_are_one_bit_for_bit(precision: str, tmp_path: Path) -> None:
    task = with_settings(training={"epochs": 2, "precision": precision})
    assert_torchs_engines_agree(tmp_path, task)


# engine, optimizer, checkpoint every N steps, where it stops
RESUMES = [
    *((engine, "sgd", 0, STEPS) for engine in ENGINES),  # at an epoch's end
    *((engine, "adamw", 2, STEPS + 3) for engine in ENGINES[:2]),  # within one
    ("lightning", "adamw", 0, 2 * STEPS + 1),
    ("accelerate", "adamw", 2, STEPS + 3),
]


@pytest.mark.parametrize(("engine", "optimizer", "every", "stop_at"), RESUMES)
def test_resumed_run_equals_the_uninterrupted_one(
    engine: str, optimizer: str, every: int, stop_at: int, tmp_path: Path
) -> None:
    task = with_settings(training={"checkpoint_every_steps": every})
    if optimizer == "sgd":
        task = dataclasses.replace(task, optimizer=SGD)
    assert_resumes_exactly(engine, tmp_path, task, stop_at=stop_at)
    assert [row["epoch"] for row in history(tmp_path / "parts")] == list(range(1, EPOCHS + 1))
    losses = scalars(tmp_path / "parts")["train/loss"]
    assert [step for step, _ in losses] == list(range(1, EPOCHS + 1))


@pytest.mark.parametrize("engine", ["torch"])
def test_equality_of_runs_can_fail(engine: str, tmp_path: Path) -> None:
    """The negative control of the one above: another dropout rate or seed is another run."""
    base, _ = train_tiny(engine, tmp_path / "base")
    for name, task in (
        ("dropout", with_settings(model={"dropout_rate": 0.31})),
        ("seed", with_settings(training={"seed": 1})),
    ):
        other, _ = train_tiny(engine, tmp_path / name, task)
        with pytest.raises(AssertionError):
            assert_same_weights(base.weights(), other.weights())
        assert history(tmp_path / name) != history(tmp_path / "base")


@pytest.mark.parametrize("engine", ENGINES)
def test_early_stopping_ends_with_the_best_weights(engine: str, tmp_path: Path) -> None:
    # After a quarter of the budget the rate rises a hundredfold and spoils what was learnt.
    task = with_settings(
        dataclasses.replace(TASK, optimizer=SGD),
        optimizer={"clip_norm": 1.0},
        schedule={"name": "step", "milestones": (0.25,), "decay_factor": 100.0},
        training={"epochs": 8, "early_stopping_patience": 2},
    )
    trained, recorder = train_tiny(engine, tmp_path, task)
    assert recorder.best is not None
    best, last = recorder.best["epoch"], recorder.rows[-1]["epoch"]
    assert last == best + 2 < 8
    found = validate(task, DATA, trained.predict)
    assert found["validation_loss"] == recorder.best["validation_loss"]
    assert found["validation_loss"] != recorder.rows[-1]["validation_loss"]


def test_patience_counts_from_the_best_epoch(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, patience=2)
    seen = []
    for epoch, loss in enumerate([3.0, 2.0, 2.5, 1.0, 1.0, 1.5], start=1):
        recorder.append({"epoch": epoch, "validation_loss": loss})
        seen.append((recorder.improved, recorder.should_stop))
    stops = [False, False, False, False, False, True]
    assert seen == list(zip([True, True, False, True, False, False], stops, strict=True))


@pytest.mark.parametrize("engine", ENGINES)
def test_bfloat16_keeps_float32_parameters(engine: str, tmp_path: Path) -> None:
    logits, weights = {}, None
    for precision in ("float32", "bfloat16"):
        task = with_settings(training={"precision": precision, "epochs": 1})
        trained, recorder = train_tiny(engine, tmp_path / precision, task)
        assert all(value.dtype == np.float32 for value in trained.weights().values())
        assert math.isfinite(recorder.rows[0]["train_loss"])
        weights = weights or trained.weights()
        trained.load_weights(weights)  # the same for both, so that only the arithmetic differs
        logits[precision] = evaluate(task, DATA, "test", trained.predict).outputs
        assert logits[precision].dtype == np.float32
    error = np.abs(logits["bfloat16"] - logits["float32"]).max()
    scale = np.abs(logits["float32"]).max()
    assert 2**-14 < error / scale < 2**-4  # 8 bits of mantissa, a few layers deep
