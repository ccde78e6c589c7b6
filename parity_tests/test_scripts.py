"""`scripts/parity.py` and `scripts/benchmark.py` as they are called: files, exit codes, errors."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from jaxmodels.shared.tasks import TASKS
from parity_tests.results import Curves, Verdict

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def run(monkeypatch):
    """Runs a script's main with arguments; returns (exit code, module)."""

    def call(name, *arguments, **replacements):
        spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for key, value in replacements.items():
            setattr(module, key, value)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        return module.main()

    return call


def test_parity_writes_both_reports_and_exits_0(run, tmp_path, capsys):
    code = run("parity", "cifar10-logistic", "--rungs", "weights,forward", "--out", tmp_path)
    assert code == 0
    rows = json.loads((tmp_path / "report.json").read_text())
    assert [(row["rung"], row["dtype"]) for row in rows] == [
        ("weights", "float32"),
        ("forward", "float64"),
        ("forward", "float32"),
    ]
    assert all(
        row.keys() == {"task", "rung", "dtype", "value", "bound", "ok", "where"} for row in rows
    )
    assert all(row["ok"] for row in rows)
    assert "cifar10-logistic" in (tmp_path / "report.html").read_text()
    assert "3 of 3 cells hold" in capsys.readouterr().out


def test_parity_exits_1_when_a_rung_fails(run, tmp_path, capsys):
    def climb(pair, rungs, draws):
        return [Verdict(pair.name, "forward", "float64", 1e-3, 1e-12, "logits", "linear")]

    code = run("parity", "cifar10-logistic", "--rungs", "forward", "--out", tmp_path, climb=climb)
    assert code == 1
    assert "FAILS" in capsys.readouterr().out
    assert json.loads((tmp_path / "report.json").read_text())[0]["ok"] is False


def test_parity_takes_the_curves_length(run, tmp_path):
    run("parity", "cifar10-logistic", "--rungs", "curve", "--steps", "7", "--out", tmp_path)
    assert "7 steps on sample" in (tmp_path / "report.html").read_text()


def test_parity_takes_settings_of_its_tasks(run, tmp_path):
    seen = {}

    def curve_rung(task, data):
        seen[task.name] = task
        verdict = Verdict(task.name, "curve", "float32", 0, 4, "step 0")
        return verdict, Curves(task.name, ((1.0,),), ((1.0,), (1.0,)))

    run(
        *("parity", "cifar10-logistic", "cifar10-simplecnn", "--rungs", "curve", "--out", tmp_path),
        *("--set", "data.crop-padding=2", "--set", "data.validation_fraction=0.25"),
        *("--set", "parity.curve-steps=9", "--set", "optimizer.nesterov=true"),
        curve_rung=curve_rung,
    )
    for name, task in seen.items():
        assert (task.data.crop_padding, task.data.validation_fraction) == (2, 0.25)
        assert (task.parity.curve_steps, task.optimizer.nesterov) == (9, True)
        assert task.model == TASKS[name].model
        assert task.training == TASKS[name].training
    assert list(seen) == ["cifar10-logistic", "cifar10-simplecnn"]


def test_parity_climbs_text_only_with_models_of_text(run, tmp_path, capsys):
    def text_rung(task):
        return [Verdict(task.name, "text", "float64", 0, 0, "smallest margin 1.0e-04")]

    run(
        *("parity", "cifar10-logistic", "shakespeare-gru", "--rungs", "weights,text"),
        *("--out", tmp_path),
        text_rung=text_rung,
        climb=lambda pair, rungs, draws: [Verdict(pair.name, "weights", "float32", 0, 0, "")],
    )
    rows = json.loads((tmp_path / "report.json").read_text())
    assert [(row["task"], row["rung"]) for row in rows] == [
        ("cifar10-logistic", "weights"),
        ("shakespeare-gru", "weights"),
        ("shakespeare-gru", "text"),
    ]
    assert "n/a" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cifar10-vgg"], "task 'cifar10-vgg' is unknown"),
        (["all", "--rungs", "forward,backward"], "--rungs backward: unknown"),
        (["all", "--rungs", "metric", "--seeds", "1"], "--seeds 1 gives no interval"),
        (["cifar10-cnn", "--rungs", "text"], "cifar10-cnn writes no text; expected some of shakes"),
        (["all", "--rungs", "curve", "--steps", "0"], "--steps 0 must be at least 1"),
        (["cifar10-cnn", "--set", "training.batch_size"], "batch_size: expected GROUP.NAME=VALUE"),
        (["cifar10-cnn", "--set", "name.x=1"], "name.x=1: expected GROUP.NAME=VALUE, of the group"),
        (
            ["cifar10-cnn", "imdb-lstm", "--set", "data.max-length=64"],
            "data.max-length is unknown to cifar10-cnn; expected, after data., one of .*crop-paddi",
        ),
        (["imdb-lstm", "--set", "data.max-length=x"], "data.max-length.*'x'"),
        (["imdb-lstm", "--set", "data.max-length=0"], "data.max.length 0 must be at least 1"),
    ],
)
def test_parity_refuses_bad_arguments(run, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        run("parity", *arguments, "--out", tmp_path)
    assert not list(tmp_path.iterdir())


def test_benchmark_times_each_contender(run, tmp_path, capsys):
    run("benchmark", "cifar10-logistic", "--against", "torch", "--repeat", "2", "--out", tmp_path)
    rows = json.loads((tmp_path / "benchmark.json").read_text())["rows"]
    assert [row["contender"] for row in rows] == ["flax", "torch"]
    assert rows[0]["ratio_to_flax"] == 1
    for row in rows:
        assert 0 < row["fastest_seconds"] <= row["median_seconds"] <= row["slowest_seconds"]
    assert "cifar10-logistic" in capsys.readouterr().out


@pytest.mark.slow
def test_benchmark_times_each_op_against_xlas_own_gradient(run, tmp_path):
    run("benchmark", "--ops", "--repeat", "1", "--out", tmp_path)
    rows = json.loads((tmp_path / "benchmark.json").read_text())["rows"]
    assert {row["op"] for row in rows} == {"conv2d", "max_pool", "batch_norm"}
    pools = [row for row in rows if row["op"] == "max_pool"]
    assert all(row["plain"] > 2 * row["ours"] > 0 for row in pools)


def test_benchmark_refuses_an_unknown_contender(run, tmp_path):
    with pytest.raises(ValueError, match="--against 'jit' is unknown"):
        run("benchmark", "--against", "jit", "--out", tmp_path)
