"""The torch-xla engine: torch's numbers from XLA devices. `make test-xla` runs this file."""

# torch_xla has an environment of its own.
# pyright: reportMissingImports=false

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
torch_xla = pytest.importorskip("torch_xla")

from torch import nn  # noqa: E402
from torch_xla.debug import metrics as xla_metrics  # noqa: E402

from jaxmodels.shared.command_line import load_engine  # noqa: E402
from jaxmodels.shared.families.registry import family_of  # noqa: E402
from jaxmodels.shared.hub.folder import save_checkpoint  # noqa: E402
from jaxmodels.shared.lora import LoRAConfig  # noqa: E402
from jaxmodels.shared.processes import Process  # noqa: E402
from parity_tests.tiny_runs import (  # noqa: E402
    DATA,
    SCRIPTS,
    STEPS,
    TASK,
    Stop,
    assert_same_weights,
    call,
    clean_environment,
    history,
    train_tiny,
    with_settings,
)
from parity_tests.tiny_texts import TEXT  # noqa: E402
from parity_tests.tiny_xla import CASES, GRU_TASK, PARTS, SHARED  # noqa: E402
from parity_tests.trajectories import without_dropout  # noqa: E402
from parity_tests.xla_rung import xla_rung, xla_steps  # noqa: E402
from torchref.engines.xla import XLAEngine  # noqa: E402

pytestmark = pytest.mark.xla
DEVICE = torch_xla.device()  # before torch's first backward pass, which else knows no such device


# ---- The numbers


@pytest.mark.parametrize("name", CASES)
def test_three_steps_are_torchs_in_float64(name: str) -> None:
    verdict = xla_rung(*CASES[name])
    assert verdict.ok, f"{verdict.value} at {verdict.where}"
    assert verdict.value < (1e-7 if name == "transformer" else 1e-11)  # GELU's constants
    assert verdict.value > 0  # another order of sums: the two are not one program


def test_a_biased_running_variance_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def biased(_: Any, batches: Any, start: Any) -> Any:
        task = without_dropout(TASK)
        found = xla_steps(task, batches, start)
        monkeypatch.setattr(nn.BatchNorm2d, "forward", _biased_forward)
        other = xla_steps(task, batches, start)
        assert_same_weights(
            {k: v for k, v in found.items() if not k.endswith("running_var")},
            {k: v for k, v in other.items() if not k.endswith("running_var")},
        )
        monkeypatch.undo()
        return other

    verdict = xla_rung(TASK, DATA, xla=biased)
    assert not verdict.ok
    assert verdict.first_divergence.endswith("running_var")


def _biased_forward(self: Any, x: Any) -> Any:
    """torch-xla's own BatchNorm."""
    return torch._batch_norm_impl_index(
        *(x, self.weight, self.bias, self.running_mean, self.running_var),
        *(self.training, self.momentum, self.eps, False),
    )[0]


def test_another_rate_is_caught() -> None:
    def wrong(task: Any, batches: Any, start: Any) -> Any:
        rate = task.optimizer.learning_rate * (1 + 1e-5)
        return xla_steps(with_settings(task, optimizer={"learning_rate": rate}), batches, start)

    verdict = xla_rung(*CASES["transformer"], xla=wrong)
    assert not verdict.ok
    assert verdict.first_divergence.startswith("xla ")


# ---- Recurrent layers and BatchNorm

LAYERS = {
    "lstm": (nn.LSTM, {"batch_first": True}),
    "deep": (nn.LSTM, {"num_layers": 2, "bidirectional": True, "bias": False}),
    "gru": (nn.modules.rnn.GRU, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_recurrent_layer_is_torchs(name: str) -> None:
    kind, options = LAYERS[name]
    torch.manual_seed(0)
    layer = kind(5, 7, dtype=torch.float64, **options)
    x = torch.randn(3, 11, 5, dtype=torch.float64)
    found = []
    for device in ("cpu", DEVICE):
        own = kind(5, 7, dtype=torch.float64, device=device, **options)
        own.load_state_dict(layer.state_dict())
        inputs = x.clone().to(device).requires_grad_()
        with torch.no_grad():  # a prediction first, whose trace must not be the training's
            own(inputs.detach())
        outputs, states = own(inputs)
        parts = [outputs, *(states if isinstance(states, tuple) else [states])]
        torch.stack([(part**3).sum() for part in parts]).sum().backward()
        parts += [inputs.grad, *(p.grad for p in own.parameters())]
        found.append([part.detach().cpu() for part in parts])
    for of_torch, of_xla in zip(*found, strict=True):
        assert (of_xla - of_torch).norm() < 1e-12 * of_torch.norm()


def test_a_projection_is_refused() -> None:
    layer = nn.LSTM(5, 7, proj_size=3).to(DEVICE)
    with pytest.raises(NotImplementedError, match="proj_size"):
        layer(torch.ones(2, 3, 5, device=DEVICE))


def test_an_lstm_of_256_steps_compiles_in_seconds() -> None:
    """torch-xla's own takes 13 seconds at 16 steps, and 113 at 64."""
    layer = nn.LSTM(64, 128, batch_first=True).to(DEVICE)
    x = torch.randn(32, 256, 64).to(DEVICE)
    torch_xla.sync()
    before, started = xla_metrics.metric_data("CompileTime"), time.perf_counter()
    layer(x)[0].square().mean().backward()
    torch_xla.sync(wait=True)
    seconds, after = time.perf_counter() - started, xla_metrics.metric_data("CompileTime")
    assert after[0] > before[0]
    assert seconds < 10


def test_a_batch_norm_that_evaluates_leaves_its_statistics() -> None:
    norm: Any = nn.BatchNorm1d(3).to(DEVICE).eval()
    norm(torch.randn(5, 3).to(DEVICE))
    assert norm.running_var.cpu().tolist() == [1, 1, 1]


# ---- The step


def compiled() -> int:
    found = xla_metrics.metric_data("CompileTime")
    return found[0] if found else 0


def test_a_step_is_compiled_twice_and_run_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(count: int) -> list[int]:
        engine = XLAEngine(TASK, tmp_path)
        batches = family_of(TASK).training_batches(TASK, DATA)
        counts = []
        for step in range(count):
            engine.train_step(next(batches), step=step, rate=0.01 / (step + 1))
            counts.append(pending(engine))
        return counts

    def pending(engine: XLAEngine) -> int:
        text = torch_xla._XLAC._get_xla_tensors_text([*engine.model.parameters()])
        return text.count("aten::")

    train(2)
    before = compiled()
    assert train(5) == [0] * 5
    assert compiled() == before
    monkeypatch.setattr(torch_xla, "sync", lambda: None)  # the control: a step that is forgotten
    counts = train(2)
    assert counts[1] > counts[0] > 0


def test_dropout_is_of_the_step_and_the_seed(tmp_path: Path) -> None:
    batch = next(family_of(TASK).training_batches(TASK, DATA))

    def loss(step: int, seed: int) -> float:
        task = with_settings(training={"seed": seed})
        engine = XLAEngine(task, tmp_path)
        engine.load_weights(weights)
        return float(engine.train_step(batch, step=step, rate=0.0)["loss"])

    weights = XLAEngine(TASK, tmp_path).weights()
    losses = [loss(2, 0), loss(2, 0), loss(3, 0), loss(2, 1)]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_batches_arrive_in_order_and_failures_with_them(tmp_path: Path) -> None:
    engine = XLAEngine(TASK, tmp_path)
    given = [{"image": np.full((2, 3), n, np.float32)} for n in range(7)]

    def failing() -> Iterator[Any]:
        yield from given
        raise OSError("the disk is gone")

    with engine.feed(failing()) as fed:
        for n in range(len(given)):
            batch = next(fed)
            assert np.unique(batch["image"]).tolist() == [n]
            assert engine.on_device(batch) is engine.fed[1]
            assert engine.fed[1]["image"].cpu().unique().tolist() == [n]
        with pytest.raises(OSError, match="the disk is gone"):
            next(fed)
    with engine.feed(iter(given * 100)) as fed:  # closes with most of them unread
        next(fed)


def test_gradient_checkpointing_is_refused(tmp_path: Path) -> None:
    task = with_settings(CASES["transformer"][0], model={"gradient_checkpointing": True})
    with pytest.raises(ValueError, match=r"--model.gradient-checkpointing: not with --engine xla"):
        XLAEngine(task, tmp_path)


def test_bfloat16_is_of_the_products_alone(tmp_path: Path) -> None:
    task, data = GRU_TASK, TEXT
    batch = next(family_of(task).evaluation_batches(task, data, "test"))
    outputs = []
    for precision in ("float32", "bfloat16"):
        engine = XLAEngine(with_settings(task, training={"precision": precision}), tmp_path)
        outputs.append(engine.predict(batch)[0])
        engine.train_step(batch, step=0, rate=0.1)
        assert {value.dtype for value in engine.weights().values()} == {np.dtype(np.float32)}
    assert 0 < np.abs(outputs[0] - outputs[1]).max() < 0.05


def test_adapters_train_and_fold_into_the_model(tmp_path: Path) -> None:
    task, data = CASES["transformer"]
    engine, _ = train_tiny("xla", tmp_path, replace(task, lora=LoRAConfig(rank=2)), data=data)
    batch = next(family_of(task).evaluation_batches(task, data, "test"))
    before, _ = engine.predict(batch)
    engine.merge_adapters(tmp_path, base="x")
    assert (tmp_path / "adapter_model.safetensors").exists()
    np.testing.assert_allclose(engine.predict(batch)[0], before, atol=1e-5)


# ---- Checkpoints


@pytest.mark.parametrize(
    ("task", "data", "every", "stop_at"),
    [
        (with_settings(training={"ema_decay": 0.8, "epochs": 2}), DATA, 0, STEPS + 2),
        (with_settings(GRU_TASK, training={"epochs": 2}), TEXT, 2, STEPS + 3),
    ],
    ids=["cnn", "gru"],
)
def test_a_resumed_run_is_the_uninterrupted_one(
    task: Any, data: Any, every: int, stop_at: int, tmp_path: Path
) -> None:
    task = with_settings(task, training={"checkpoint_every_steps": every})
    whole, _ = train_tiny("xla", tmp_path / "whole", task, data=data)
    with pytest.raises(Stop):
        train_tiny("xla", tmp_path / "cut", task, data=data, stop_at=stop_at)
    resumed, _ = train_tiny("xla", tmp_path / "cut", task, data=data, resume=True)
    assert_same_weights(whole.weights(), resumed.weights())
    assert history(tmp_path / "whole") == history(tmp_path / "cut")


def test_any_engine_loads_what_it_leaves(tmp_path: Path) -> None:
    engine, _ = train_tiny("xla", tmp_path, with_settings(training={"epochs": 1}))
    save_checkpoint(tmp_path, TASK.model, engine.weights())
    batch = next(family_of(TASK).evaluation_batches(TASK, DATA, "test"))
    expected, _ = engine.predict(batch)
    for name in ("torch", "xla"):
        run, other = load_engine(tmp_path, name)
        assert run.engine == "xla"
        np.testing.assert_allclose(other.predict(batch)[0], expected, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_of_more_processes_is_refused(tmp_path: Path) -> None:
    engine = XLAEngine(TASK, tmp_path)
    engine.process = Process(0, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributed, "barrier", lambda: None)
        engine.save("last", {"step": 3, "epoch": 0})
    with pytest.raises(ValueError, match=r"checkpoint .*last is of 2 processes, .* one of 1; st"):
        XLAEngine(TASK, tmp_path).restore("last")


# ---- Several devices, several processes, and the script

WORKER = """
import sys
from pathlib import Path
import numpy as np
import torch_xla
from jaxmodels.shared.processes import this_process
from parity_tests.tiny_xla import PARTS, SHARED
from parity_tests.tiny_runs import train_tiny

for name in sys.argv[2:]:
    task, data = (PARTS | SHARED)[name]
    folder = Path(sys.argv[1]) / name
    engine, _ = train_tiny("xla", folder, task, data=data)
    rows = engine.sharding.mesh.size() if engine.sharding else 0
    np.savez(folder / f"{this_process().index}.npz", devices=rows, **engine.weights())
"""


def run_python(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, arguments)]
    environment = clean_environment() | {"PJRT_DEVICE": "CPU", "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def distance(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """The largest relative difference of any tensor, by its norm."""
    return max(
        float(np.linalg.norm(found[name] - value) / np.linalg.norm(value))
        for name, value in expected.items()
    )


def test_two_devices_of_a_process_are_one(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    done = run_python(tmp_path / "worker.py", tmp_path / "two", *SHARED, CPU_NUM_DEVICES="2")
    assert done.returncode == 0, done.stderr[-3000:]
    for name, (task, data) in SHARED.items():
        one, _ = train_tiny("xla", tmp_path / "one" / name, task, data=data)
        found = dict(np.load(tmp_path / "two" / name / "0.npz"))
        assert found["devices"] == 2
        assert distance(found, one.weights()) < 1e-5


@pytest.mark.multiprocess
def test_two_processes_are_one_with_twice_the_micro_batches(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    launch += ["-m", "torchref.engines.xla_launch"]
    done = run_python(*launch, tmp_path / "worker.py", tmp_path / "two", *PARTS)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, (task, data) in PARTS.items():
        first, second = (dict(np.load(tmp_path / "two" / name / f"{n}.npz")) for n in (0, 1))
        assert_same_weights(first, second)
        twice = with_settings(task, training={"micro_batches": 4})
        one, _ = train_tiny("xla", tmp_path / "one" / name, twice, data=data)
        assert distance(first, one.weights()) < 1e-5
    task, data = PARTS["carry"]
    other, _ = train_tiny("xla", tmp_path / "other", task, data=data)
    found = dict(np.load(tmp_path / "two" / "carry" / "0.npz"))
    assert distance(found, other.weights()) > 1e-3  # the control: other masks


def test_the_script_trains_and_resumes(tmp_path: Path) -> None:
    train = ("train", "cifar10-logistic", "--engine", "xla", "--out", tmp_path)
    code, out, errors = call(*train, "--epochs", 1)
    assert code == 0, errors
    assert f"run: {tmp_path}" in out
    assert json.loads((tmp_path / "run.json").read_text())["engine"] == "xla"


def test_the_launcher_passes_on_arguments_and_exit_code() -> None:
    done = run_python("-m", "torchref.engines.xla_launch", SCRIPTS / "train.py", "no-such-task")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: task 'no-such-task' is unknown")
