"""A user's mistake or a failing machine is one clear line, exit code 2, and loses nothing saved."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jax")
torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from jaxmodels.shared.configs import TextClassifierConfig, to_json  # noqa: E402
from parity_tests.tiny_runs import (  # noqa: E402
    ENGINES,
    STEPS,
    Stop,
    call,
    compile_once,
    refused,
    train_tiny,
)

__all__ = ["compile_once"]  # a fixture

SMALL = ("--model.channels", 4, 6, "--model.hidden-dims", 16, 12)


# What is wrong, and words that the line about it must contain.
ARGUMENTS = {
    "task": (["cifar10-vit"], ["'cifar10-vit'", "cifar10-resnet20"]),
    "engine": (["--engine", "jax"], ["--engine", "'jax'", "lightning"]),
    "flag": (["--optimzer.l1", 1], ["--optimzer.l1", "--optimizer.l1"]),
    "number": (["--optimizer.learning-rate", "fast"], ["--optimizer.learning-rate", "'fast'"]),
    "range": (["optimizer.learning_rate=-1"], ["--optimizer.learning-rate -1.0", "positive"]),
    "choice": (["--training.precision", "float16"], ["--training.precision", "bfloat16"]),
    "epochs": (["--epochs", 0], ["epochs 0", "at least 1"]),
    "value": (["--batch-size"], ["--batch-size"]),
    "model": (["model.image_size=30"], ["--model.image-size 30", "try 28"]),
    "size": (["model.image_size=28"], ["image_size 32", "--model.image-size 32"]),
    "classes": (["model.num_classes=7"], ["num_classes 10", "--model.num-classes 10"]),
    "batch": (["--batch-size", 5000], ["5000", "1294"]),
    "source": (["--source", "no/such/folder"], ["no/such/folder", "does not exist"]),
    "lightning": (
        ["--engine", "lightning", "training.checkpoint_every_steps=3"],
        ["--training.checkpoint-every-steps 3", "--engine torch"],
    ),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_wrong_argument_is_named(case: str, tmp_path: Path) -> None:
    given, words = ARGUMENTS[case]
    task = [] if case == "task" else ["cifar10-simplecnn"]
    out = tmp_path / "run"
    message = refused("train", *task, *given, *([] if case == "value" else ["--out", out]))
    for word in words:
        assert word in message
    assert message.count("\n") == 1
    assert not out.exists()  # so that the corrected command can use it


def test_overrides_are_taken_in_every_spelling(tmp_path: Path) -> None:
    for number, override in enumerate(
        (["--optimizer.l1", "0.25"], ["--optimizer.l1=0.25"], ["optimizer.l1=0.25"])
    ):
        out = tmp_path / str(number)
        # Stopped by the data, after the settings were taken: a model for 28x28 images.
        message = refused("train", "cifar10-simplecnn", *override, "model.image_size=28")
        assert "image_size" in message
        assert not out.exists()


def test_empty_source_folder_is_named(tmp_path: Path) -> None:
    message = refused("train", "cifar10-logistic", "--source", tmp_path, "--out", tmp_path / "run")
    assert f"{tmp_path} is an empty folder" in message


def test_help_lists_tasks_and_settings() -> None:
    code, text, _ = call("train", "--help")
    assert code == 0
    assert "cifar10-resnet20" in text
    code, text, _ = call("train", "cifar10-simplecnn", "--help")
    assert code == 0
    for flag in ("--model.channels", "--data.flip", "--optimizer.l1", "--schedule.name"):
        assert flag in text
    for junk in ("--name", "--description", "--parity", "subcommand", "{None}"):
        assert junk not in text


@pytest.fixture(scope="module")
def finished(tmp_path_factory: Any) -> Path:
    """A finished run of plain torch on the sample; tests copy it before they harm it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    arguments = ("--engine", "torch", "--epochs", 1, "--out", folder, *SMALL)
    assert call("train", "cifar10-simplecnn", *arguments)[0] == 0
    return folder


@pytest.fixture
def harmed(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def test_folder_of_another_run_is_kept(finished: Path) -> None:
    before = sorted((file, file.stat().st_mtime_ns) for file in finished.rglob("*"))
    message = refused("train", "cifar10-logistic", "--out", finished)
    assert f"{finished} already holds a run" in message
    assert "--resume" in message
    assert before == sorted((file, file.stat().st_mtime_ns) for file in finished.rglob("*"))


def test_resume_lists_changed_settings(finished: Path) -> None:
    arguments = ("--engine", "torch", "--out", finished, "--resume", "--epochs", 2, *SMALL)
    message = refused("train", "cifar10-simplecnn", *arguments, "optimizer.l1=0.5")
    assert "task.training.epochs: 1 -> 2" in message
    assert "task.optimizer.l1: 0.0 -> 0.5" in message
    assert "momentum" not in message  # only what changed


def test_resume_of_nothing_says_so(tmp_path: Path) -> None:
    message = refused("train", "cifar10-logistic", "--out", tmp_path / "none", "--resume")
    assert f"{tmp_path / 'none'} holds no run" in message


@pytest.mark.parametrize("engine", ENGINES)
def test_resume_without_a_checkpoint_says_so(engine: str, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train_tiny(engine, tmp_path, stop_at=STEPS + 1)
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(ValueError, match="resume from; start again without --resume"):
        train_tiny(engine, tmp_path, resume=True)


def test_output_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = refused("train", "cifar10-logistic", "--out", tmp_path / "file")
    assert f"{tmp_path / 'file'} is a file" in message


def _write(name: str, content: str) -> Any:
    return lambda folder: (folder / name).write_text(content)


def _edit(name: str, *path: str, value: object) -> Any:
    def edit(folder: Path) -> None:
        content = inner = json.loads((folder / name).read_text())
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        (folder / name).write_text(json.dumps(content))

    return edit


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


HARMS = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ["not finished", "--resume"]),
    "truncated weights": (_truncate, ["model.safetensors", "not a whole safetensors file"]),
    "config is no JSON": (_write("config.json", "{"), ["config.json", "not JSON"]),
    "run is no JSON": (_write("run.json", "[1,"), ["run.json", "not JSON"]),
    "run is a list": (_write("run.json", "[1]"), ["run.json", "expected the fields"]),
    "config field": (_edit("config.json", "depht", value=3), ["config.json", "['depht']"]),
    "run field": (_edit("run.json", "task", "depht", value=3), ["run.json", "run.task"]),
    "run type": (
        _edit("run.json", "task", "training", "epochs", value="ten"),
        ["run.json", "training.epochs", "'ten'"],
    ),
    "model of another kind": (
        _edit("run.json", "task", "model", value=to_json(TextClassifierConfig())),
        ["run.json", "TextClassifier is no model for cifar10"],
    ),
    "another config": (
        _edit("config.json", "kernel_size", value=3),
        ["config.json and run.json describe different models"],
    ),
}


@pytest.mark.parametrize("case", HARMS)
def test_harmed_run_is_refused(case: str, harmed: Path) -> None:
    harm, words = HARMS[case]
    harm(harmed)
    for script, extra in (("evaluate", ()), ("predict", ("image.png",))):
        message = refused(script, harmed, *extra)
        for word in (str(harmed), *words):
            assert word in message


@pytest.mark.parametrize("engine", ["flax", "torch"])
def test_weights_of_another_model_are_listed(engine: str, harmed: Path) -> None:
    for name in ("config.json", "run.json"):
        where = ("channels",) if name == "config.json" else ("task", "model", "channels")
        _edit(name, *where, value=[4, 7])(harmed)
    message = refused("evaluate", harmed, "--engine", engine)
    assert "! block2.conv.weight has shape (6, 4, 5, 5), expected (7, 4, 5, 5)" in message
    assert "! linear1.weight has shape (16, 384), expected (16, 448)" in message


def test_missing_run_is_named(tmp_path: Path) -> None:
    assert "run.json is missing" in refused("evaluate", tmp_path)


def test_corrupt_image_is_named(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    message = refused("predict", finished, tmp_path / "cat.png")
    assert f"{tmp_path / 'cat.png'}: the image cannot be decoded" in message
    assert "dog.png does not exist" in refused("predict", finished, tmp_path / "dog.png")


def test_nan_loss_is_one_line_from_the_script(tmp_path: Path) -> None:
    message = refused(
        *("train", "cifar10-simplecnn", "--engine", "torch", "--out", tmp_path / "run", *SMALL),
        *("--optimizer.learning-rate", "1e30", "schedule.name=constant"),
        *("schedule.warmup_fraction=0", "optimizer.name=sgd"),
    )
    assert message.count("\n") == 1
    assert "step 1 (epoch 1, batch 1 of 10, training rows" in message
