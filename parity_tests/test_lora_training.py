"""Runs that train adapters: exact resume, merged weights, peft's files, the table of runs."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch

import jaxmodels
import jaxmodels.lora
import torchref
import torchref.lora
from jaxmodels.shared.command_line import load_engine
from jaxmodels.shared.configs import BERTConfig
from jaxmodels.shared.hub.folder import open_checkpoint, read_config
from jaxmodels.shared.lora import LoRAConfig
from jaxmodels.shared.tasks import OptimizerConfig
from parity_tests.hub_pairs import load_hub_model
from parity_tests.tiny_bert import FLAGS, checkpoint, train
from parity_tests.tiny_runs import (
    ENGINES,
    TASK,
    assert_resumes_exactly,
    assert_same_weights,
    call,
    compile_once,
    history,
    train_tiny,
    with_settings,
)
from parity_tests.tiny_texts import review_file
from torchref.engines.plain import TorchEngine

__all__ = ["compile_once"]  # a fixture

ADAPTED = (
    *("--lora.rank", 3, "--lora.alpha", 7, "--lora.dropout-rate", 0.2),
    *("--lora.targets", r"attention\.(query|value)$", "linear1$"),
    *("--optimizer.learning-rate", 0.03),
)
IDS = np.random.default_rng(0).integers(1, 20, size=(5, 8))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoint `base` and a run with adapters of each engine."""
    folder = tmp_path_factory.mktemp("lora")
    source, base = review_file(folder / "reviews.csv"), checkpoint(folder / "base")
    for engine in ENGINES:
        train(source, folder / engine, "--engine", engine, "--pretrained", base, *ADAPTED)
    return folder


def logits(model: Any) -> np.ndarray:
    if isinstance(model, torch.nn.Module):
        return model.eval()(torch.from_numpy(IDS)).logits.detach().numpy()
    return np.asarray(model(jnp.asarray(IDS)).logits)


@pytest.mark.parametrize("engine", ENGINES)
def test_merged_weights_are_the_base_with_its_adapter_and_with_pefts(
    engine: str, runs: Path
) -> None:
    merged = logits(torchref.from_pretrained(runs / engine))
    base = runs / "base"
    config = read_config(json.loads((base / "config.json").read_text()))
    plain = logits(torchref.from_pretrained(base))
    for library in (jaxmodels, torchref):
        model = library.from_pretrained(base)
        found = logits(library.lora.load_adapter(model, config, runs / engine))  # type: ignore[attr-defined]
        np.testing.assert_allclose(found, merged, rtol=1e-4, atol=1e-5)
    theirs = peft.PeftModel.from_pretrained(load_hub_model(base), runs / engine).eval()
    found = theirs(input_ids=torch.from_numpy(IDS)).logits.detach().numpy()
    np.testing.assert_allclose(found, merged, rtol=1e-4, atol=1e-5)
    assert np.abs(plain - merged).max() > 1e-2  # or all of this would say nothing
    content = json.loads((runs / engine / "adapter_config.json").read_text())
    assert content["base_model_name_or_path"] == str(base)
    assert content["modules_to_save"] == ["bert.pooler.dense", "classifier"]


@pytest.mark.parametrize("engine", ENGINES[:2])
def test_any_engine_evaluates_the_merged_run(engine: str, runs: Path) -> None:
    expected = json.loads((runs / "flax" / "metrics.json").read_text())["test_loss"]
    out = runs / f"evaluated-{engine}"
    code, _, errors = call("evaluate", runs / "flax", "--engine", engine, "--out", out)
    assert (code, errors) == (0, "")
    found = json.loads((out / "metrics.json").read_text())["test_loss"]
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("engine", ENGINES[2:])
def test_torchs_engines_train_adapters_alike(engine: str, runs: Path) -> None:
    assert history(runs / "torch") == history(runs / engine)
    weights = [load_engine(runs / name, "torch")[1].weights() for name in ("torch", engine)]
    assert_same_weights(*weights)


def test_the_base_of_a_run_is_not_a_bit_other(runs: Path) -> None:
    weights = load_engine(runs / "flax", "torch")[1].weights()
    base, _ = (c := open_checkpoint(runs / "base")).match({k: v.shape for k, v in weights.items()})
    moved = {name for name, value in c.read(base) if not np.array_equal(value, weights[name])}
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in moved} == {
        *("query", "value", "linear1", "pooler", "classifier")
    }
    assert not [name for name in moved if name.endswith("linear1.bias")]


def test_flags_of_adapters_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for flags, message in (
        (("--lora.alpha", 3), "--lora settings are without effect at --lora.rank 0"),
        (("--lora.rank", 2, "--lora.targets", "key_value$"), "'key_value$' is found in no linear"),
        (("--lora.rank", -2), "--lora.rank is -2, expected an integer of 0 (off) or more"),
        (("--optimizer.freeze", "conv"), "optimizer.freeze: 'conv' is found in no parameter's"),
        (("--optimizer.freeze", "."), "optimizer.freeze . leaves nothing to train"),
        (("--optimizer.layer-decay", 0), "--optimizer.layer-decay 0.0 must be in (0, 1]"),
    ):
        source = review_file(tmp_path / "reviews.csv")
        out = tmp_path / "run"
        code, _, errors = call("train", *FLAGS, "--source", source, "--out", out, *flags)
        assert code == 2
        assert message in errors
        assert not out.exists()


# Both layers' settings at once: adapters, a layer in full, the rest frozen.
TINY = with_settings(
    lora=LoRAConfig(4, 6.0, 0.3, ("^linear1$",), ("^linear2$", "^block2.norm$")).__dict__,
    optimizer={"freeze": (r"^linear2\.bias$",)},
)


@pytest.mark.parametrize("engine", ENGINES)
def test_resumed_adapters_are_the_uninterrupted_ones(engine: str, tmp_path: Path) -> None:
    weights = assert_resumes_exactly(engine, tmp_path, TINY, stop_at=7).weights()
    fresh = TorchEngine(TINY, tmp_path).weights()
    if engine != "flax":  # which draws other fresh weights
        moved = {k for k, v in weights.items() if not np.array_equal(v, fresh[k])}
        assert moved == {
            *("linear1.lora_a", "linear1.lora_b", "linear2.weight", "block2.norm.weight"),
            *(f"block2.norm.{leaf}" for leaf in ("bias", "running_mean", "running_var")),
        }


@pytest.mark.parametrize("library", ENGINES[:2])
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_optimizer_holds_nothing_of_the_base(library: str, name: str, tmp_path: Path) -> None:
    def slot_bytes(folder: str, task: Any) -> int:
        engine, _ = train_tiny(library, tmp_path / folder, task)
        if library == "flax":
            slots = jax.tree.leaves(engine.state["optimizer"])
            return sum(leaf.nbytes for leaf in slots if leaf.ndim)
        slots = [v for state in engine.optimizer.state.values() for v in state.values()]
        return sum(v.nbytes for v in slots if torch.is_tensor(v) and v.ndim)

    optimizer = OptimizerConfig(name=name, learning_rate=0.01).__dict__  # type: ignore[arg-type]
    settings = {"training": {"epochs": 1}, "optimizer": optimizer}
    lora = LoRAConfig(4, targets=("^linear1$",), modules_to_save=("^linear3$",)).__dict__
    slots = 2 if name == "adamw" else 1
    features, hidden, last, classes = 24, 16, 11, 5  # 6 channels of 2x2 pixels
    trained = 4 * (features + hidden) + (last + 1) * classes
    assert slot_bytes("lora", with_settings(lora=lora, **settings)) == 4 * slots * trained
    full = sum(p.numel() for p in torchref.create(TASK.model).parameters())
    assert slot_bytes("full", with_settings(**settings)) == 4 * slots * full  # the negative control


def test_runs_are_compared_in_a_table(runs: Path, tmp_path: Path) -> None:
    folders = [runs / "flax", runs / "torch"]
    code, output, errors = call("compare_runs", *folders, "--out", tmp_path / "table.md")
    assert (code, errors) == (0, "")
    assert (tmp_path / "table.md").read_text() == output
    header, rule, *rows = [line.strip("|\n ").split(" | ") for line in output.splitlines()]
    assert len({len(line) for line in (header, rule, *rows)}) == 1
    metrics = json.loads((runs / "flax" / "metrics.json").read_text())
    first = dict(zip(header, rows[0], strict=True))
    model = torchref.from_pretrained(runs / "flax")
    assert first["parameters"] == f"{sum(p.numel() for p in model.parameters()):,}"
    config = model.config
    assert isinstance(config, BERTConfig)
    width = config.hidden_dim
    adapters = config.num_layers * 3 * (4 * width + width + config.mlp_dim)
    head = (width + 1) * (width + config.num_classes)
    assert first["trainable"] == f"{adapters + head:,}"
    assert first["LoRA rank"] == "3"
    assert first["test loss"] == f"{metrics['test_loss']:.4f}"
    assert first["validation loss"] == f"{history(runs / 'flax')[-1]['validation_loss']:.4f}"
    assert 100 < int(first["peak memory"].replace(",", "").removesuffix(" MiB")) < 100_000
    assert {"test accuracy", "validation accuracy"} <= first.keys()
    assert [dict(zip(header, row, strict=True))["engine"] for row in rows] == ["flax", "torch"]
    code, _, errors = call("compare_runs", runs / "base")
    assert code == 2
    assert "run.json is missing" in errors
