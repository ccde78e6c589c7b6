"""Any engine starts from what any other trained, with what was fitted to it."""

from pathlib import Path

import numpy as np
import pytest

from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.hub.tensor_files import open_tensors, read_all
from jaxmodels.shared.run import Run
from jaxmodels.shared.run import start as start_run
from jaxmodels.shared.tasks import TASKS
from parity_tests.tiny_runs import (
    ENGINES,
    assert_same_weights,
    call,
    compile_once,
    refused,
    with_settings,
)

__all__ = ["compile_once"]

# A step of it leaves a float32 weight as it is: what ends is what the training started from.
STANDS_STILL = ("--optimizer.learning-rate", 1e-30, "--epochs", 1)
RIDGE = ("--data.passes", 2)
GRU = (
    *("--model.hidden-dim", 6, "--model.embedding-dim", 5, "--data.sequence-length", 7),
    *("--batch-size", 3, "--training.evaluation-batch-size", 2),
)


def weights(run: Path) -> dict[str, np.ndarray]:
    return read_all(open_tensors(run))


@pytest.fixture(scope="module")
def ridge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of torch, on other rows than the task's own."""
    folder = tmp_path_factory.mktemp("ridge")
    flags = ("--epochs", 1, "--data.split-seed", 5, *RIDGE, "--out", folder)
    code, _, errors = call("train", "houses-ridge", "--engine", "torch", *flags)
    assert code == 0, errors
    return folder


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_goes_on_from_torchs_weights(engine: str, ridge: Path, tmp_path: Path) -> None:
    flags = ("--engine", engine, *RIDGE, *STANDS_STILL, "--out", tmp_path)
    code, _, errors = call("train", "houses-ridge", *flags, "--pretrained", ridge)
    assert code == 0, errors
    assert_same_weights(weights(tmp_path), weights(ridge))
    name = "preparation.json"
    assert (tmp_path / name).read_bytes() == (ridge / name).read_bytes()


def test_a_run_goes_on_from_flax_weights_and_characters(tmp_path: Path) -> None:
    paths = {}
    for name, text in (("first", "how he would abandon us, low"), ("second", "we had a wood")):
        paths[name] = tmp_path / f"{name}.txt"
        paths[name].write_text(" ".join([text] * 60))
    flags = ("--source", paths["first"], "--engine", "flax", "--epochs", 1, *GRU)
    code, _, errors = call("train", "shakespeare-gru", *flags, "--out", tmp_path / "start")
    assert code == 0, errors
    flags = ("--source", paths["second"], "--pretrained", tmp_path / "start", *STANDS_STILL)
    flags = (*flags, "--engine", "torch", "--out", tmp_path / "run")
    code, _, errors = call("train", "shakespeare-gru", *flags, *GRU[4:])
    assert code == 0, errors
    assert_same_weights(weights(tmp_path / "run"), weights(tmp_path / "start"))
    name = "characters.json"
    assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "start" / name).read_bytes()
    # A start that is resumed has its own files, and needs those it came from no more.
    (tmp_path / "start").rename(tmp_path / "elsewhere")
    code, _, errors = call("train", "shakespeare-gru", *flags, *GRU[4:], "--resume")
    assert code == 0, errors


@pytest.mark.parametrize(
    ("name", "change", "file"),
    [
        ("cifar10-cnn", {"validation_fraction": 0.5}, "normalisation.json"),
        ("imdb-lstm", {"validation_fraction": 0.5}, "vocabulary.json"),
        ("prices-lstm", {"test_fraction": 0.5}, "scalers.json"),
        ("houses-mlp", {"split_seed": 9}, "preparation.json"),
    ],
)
def test_what_was_fitted_comes_with_the_weights(
    name: str, change: dict[str, float], file: str, tmp_path: Path
) -> None:
    task = TASKS[name]
    family = family_of(task)
    fitted = family.fitted_files(family.load("sample", task))
    start_run(tmp_path, Run(task, "torch", "sample"), resume=False, fitted=fitted)
    other = with_settings(task, data=change)
    anew = family.fitted_files(family.load("sample", other))
    goes_on = with_settings(other, training={"pretrained": str(tmp_path)})
    assert family.fitted_files(family.load("sample", goes_on))[file] == fitted[file]
    assert anew[file] != fitted[file]


def test_what_is_no_run_of_the_model_is_refused(ridge: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "run")
    found = refused("train", "prices-lstm", "--pretrained", ridge, *out)
    assert "--pretrained for prices-lstm expects the run of a" in found
    found = refused("train", "houses-ridge", "--pretrained", ridge, "--model.num-features", 8, *out)
    assert f"--model.num-features 8 contradicts {ridge / 'config.json'}, which has" in found
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("config.json", "model.safetensors"):
        (copy / name).write_bytes((ridge / name).read_bytes())
    found = refused("train", "houses-ridge", "--pretrained", copy, *out)
    assert f"{copy} is no run: it has no run.json" in found
    (copy / "run.json").write_text("{}")
    found = refused("train", "houses-ridge", "--pretrained", copy, *out)
    assert "preparation.json" in found
