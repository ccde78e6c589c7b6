"""A pretrained ResNet on other images: resized, normalised as it was trained, with a new head."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import jaxmodels
from jaxmodels.shared.configs import ImageNetResNetConfig
from jaxmodels.shared.hub.folder import open_checkpoint
from jaxmodels.shared.hub.tensor_files import read_all
from jaxmodels.shared.tasks import TASKS
from parity_tests.tiny_runs import call, compile_once

__all__ = ["compile_once"]  # a fixture

CONFIG = ImageNetResNetConfig(
    image_size=20,
    num_classes=7,
    embedding_channels=4,
    stage_channels=(4, 6),
    depths=(1, 1),
    block="basic",
)
MEAN, STD = [0.48, 0.46, 0.41], [0.23, 0.22, 0.24]
TASK = "cifar10-transfer-resnet18"
SMALL = ("--data.resize-to", 16, "--model.image-size", 16, "--epochs", 1, "--batch-size", 128)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ResNet of seven classes in the Hub's layout."""
    folder = tmp_path_factory.mktemp("resnet") / "hub"
    jaxmodels.save_pretrained(jaxmodels.create(CONFIG, seed=3), CONFIG, folder)
    content = {"image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return folder


def stored(folder: Path) -> dict[str, np.ndarray]:
    return read_all(open_checkpoint(folder).stored)


@pytest.mark.parametrize("engine", ["flax", "torch"])
def test_a_frozen_body_stays_and_a_new_head_learns(
    engine: str, checkpoint: Path, tmp_path: Path
) -> None:
    flags = ("--engine", engine, "--pretrained", checkpoint, "--out", tmp_path / "run", *SMALL)
    frozen = ("--optimizer.freeze", r"^(stem|blocks)\.", "--training.precision", "bfloat16")
    code, output, errors = call("train", TASK, *flags, *frozen)
    assert code == 0, errors
    assert "linear" in output  # the head, drawn anew
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    model = run["task"]["model"]
    assert (model["num_classes"], model["image_size"], model["depths"]) == (10, 16, [1, 1])
    fitted = json.loads((tmp_path / "run" / "normalisation.json").read_text())
    np.testing.assert_allclose(fitted["mean"], MEAN, rtol=1e-6)
    np.testing.assert_allclose(fitted["std"], STD, rtol=1e-6)
    before, after = stored(checkpoint), stored(tmp_path / "run")
    head = {name for name in after if name.startswith("classifier")}
    assert len(head) == 2
    assert all(np.array_equal(after[name], before[name]) for name in after.keys() - head)
    assert after["classifier.1.weight"].shape == (10, 6)


def test_the_task_is_the_hubs_resnet_18() -> None:
    """11,689,512 parameters with a thousand classes (He et al. 2016 by torchvision's count)."""
    import jax
    from flax import nnx

    config = TASKS[TASK].model
    assert isinstance(config, ImageNetResNetConfig)
    config = dataclasses.replace(config, num_classes=1000)
    model = nnx.eval_shape(lambda: jaxmodels.create(config))
    params = nnx.state(model, nnx.Param)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 11_689_512


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"image_mean": [0.5], "image_std": [0.2]}, "expected image_mean and image_std of 3 chan"),
        ({"image_std": STD}, "is malformed"),
    ],
)
def test_a_bad_preprocessor_is_named(
    content: dict[str, list[float]], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((checkpoint / name).read_bytes())
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    code, _, errors = call("train", TASK, "--pretrained", folder, "--out", tmp_path / "r", *SMALL)
    assert code == 2
    assert f"{folder}/preprocessor_config.json" in errors
    assert message in errors


def test_a_task_of_another_model_takes_no_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    code, _, errors = call("train", "cifar10-cnn", "--pretrained", checkpoint, "--out", tmp_path)
    assert code == 2
    assert "--pretrained for cifar10-cnn expects the run of a CNN" in errors
