"""Several processes train what one does with as many micro-batches more, and leave one run."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("lightning")

from jaxmodels.shared.processes import (  # noqa: E402
    Process,
    check_divides,
    main_process_prints,
    this_process,
)
from jaxmodels.shared.run import Recorder  # noqa: E402
from jaxmodels.shared.training import choose_trainer  # noqa: E402
from parity_tests.tiny_runs import (  # noqa: E402
    DATA,
    SCRIPTS,
    SGD,
    TASK,
    assert_same_weights,
    call,
    clean_environment,
    history,
    train_tiny,
    with_settings,
)
from parity_tests.tiny_texts import TEXT, TEXT_TASK  # noqa: E402
from torchref.engines.accelerate import AccelerateEngine  # noqa: E402
from torchref.engines.lightning import LitTask  # noqa: E402
from torchref.engines.lightning_run import CheckedFiles, fit_lightning  # noqa: E402
from torchref.engines.plain import make_model, to_tensors  # noqa: E402
from torchref.step import compute_gradients  # noqa: E402

# Dropout is on: a part draws the same masks whichever process has it. SGD, for Adam's division by
# the smallest gradients would blow rounding up.
PLAIN = replace(
    with_settings(
        model={"batch_norm": False}, training={"micro_batches": 2, "ema_decay": 0.8, "epochs": 2}
    ),
    optimizer=replace(SGD, clip_norm=1.0),
)
CARRY = replace(
    with_settings(TEXT_TASK, training={"micro_batches": 2, "checkpoint_every_steps": 2}),
    optimizer=SGD,
)
NORMED = with_settings(training={"epochs": 2, "early_stopping_patience": 1})
CASES: dict[str, tuple[Any, Any]] = {
    "plain": (PLAIN, DATA),
    "carry": (CARRY, TEXT),
    "batch-norm": (NORMED, DATA),
}
LIT_CASES = {  # which are saved at the ends of epochs
    name: (with_settings(task, training={"checkpoint_every_steps": 0}), data)
    for name, (task, data) in CASES.items()
}
ENGINES = {"accelerate": CASES, "lightning": LIT_CASES}
ROUNDING = 1e-5  # of a tensor's norm, over two or three epochs


def distance(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> float:
    """The largest relative difference of any tensor, by its norm."""
    assert left.keys() == right.keys()
    return max(
        float(np.linalg.norm(left[name] - right[name]) / np.linalg.norm(right[name]))
        for name in left
    )


# ---- What needs no second process


def test_the_environment_tells_which_process_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert this_process() == Process(0, 1, 0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert this_process() == Process(3, 4, 1, 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert this_process() == Process(3, 4, 1, 2)
    assert not this_process().is_main
    for rank in ("4", "-1", "first"):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(ValueError, match=f"RANK='{rank}', WORLD_SIZE='4'.*expected numbers"):
            this_process()


def test_only_the_main_process_prints_and_writes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for index in (0, 1):
        monkeypatch.setenv("RANK", str(index))
        monkeypatch.setenv("WORLD_SIZE", "2")
        with main_process_prints():
            print(f"process {index}")
        recorder = Recorder(tmp_path / str(index), patience=0)
        (tmp_path / str(index)).mkdir()
        recorder.rewind(0)
        recorder.append({"epoch": 1, "validation_loss": 1.0})
        recorder.close()
        assert recorder.improved
    assert capsys.readouterr().out == "process 0\n"
    assert (tmp_path / "0" / "history.jsonl").exists()
    assert not list((tmp_path / "1").iterdir())


def test_what_several_processes_cannot_train_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(ValueError, match=r"--engine torch trains in one process.* one of 5"):
        choose_trainer("torch", TASK, tmp_path)
    for engine in ENGINES:
        with pytest.raises(ValueError, match=r"batch_size 12 must divide by 5 processes .*try 10"):
            choose_trainer(engine, TASK, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"devices=2, and this is one of 5 processes; start as m"):
        fit_lightning(TASK, DATA, tmp_path, resume=False, devices=2)
    check_divides(12, 2, Process(0, 3))
    code, _, errors = call("tune", "cifar10-logistic", "--out", tmp_path / "study")
    assert (code, errors.count("\n")) == (2, 1)
    assert "a search runs in one process, and this is one of 5" in errors


def test_a_launcher_that_starts_one_of_two_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As `accelerate launch --cpu --num_processes 2` leaves the environment."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    AccelerateEngine(TASK, tmp_path)  # of --num_processes 1
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(ValueError, match="accelerate launch --multi_gpu"):
        AccelerateEngine(TASK, tmp_path)


def test_processes_gradients_and_metrics_sum_to_the_batchs() -> None:
    found = []
    rng = np.random.default_rng(0)
    images = rng.normal(size=(12, 8, 8, 3)).astype(np.float32)
    labels = rng.integers(5, size=12)
    labels[:3] = -100  # which do not count: the processes' shares differ
    batch = to_tensors({"image": images, "label": labels})
    for processes, parts in ((1, 4), (2, 2)):
        task = with_settings(PLAIN, training={"micro_batches": parts})
        model = make_model(task)  # whose gradients both processes add to
        sums: dict[str, Any] = {}
        for process in range(processes):
            metrics, _ = compute_gradients(
                task, model, batch, step=1, seed=0, process=process, processes=processes
            )
            sums = {name: sums.get(name, 0) + value for name, value in metrics.items()}
        gradients = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
        found.append(gradients | {name: value.numpy() for name, value in sums.items()})
    assert distance(*found) < ROUNDING


def test_a_checkpoint_of_more_processes_is_refused(tmp_path: Path) -> None:
    engine = AccelerateEngine(TASK, tmp_path)
    engine.process = Process(0, 2)
    engine.save("last", {"step": 3, "epoch": 0})
    with pytest.raises(ValueError, match=r"checkpoint .*last/3 is of 2 processes, .* one of 1; st"):
        AccelerateEngine(TASK, tmp_path).restore("last")


def test_a_lightning_checkpoint_of_fewer_processes_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    train_tiny("lightning", tmp_path, with_settings(training={"epochs": 1}))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"last.ckpt is of 1 processes, .* one of 2; start 1"):
        CheckedFiles(LitTask(TASK)).load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")


# ---- Two of them

WORKER = """
import sys
from pathlib import Path
import numpy as np
from jaxmodels.shared.processes import this_process
from parity_tests.test_processes import ENGINES
from parity_tests.tiny_runs import STEPS, Stop, train_tiny

folder, engine_name, rank = Path(sys.argv[1]), sys.argv[2], this_process().index
cases = ENGINES[engine_name]

def train(name, task, data, **options):
    engine, _ = train_tiny(engine_name, folder / name, task, data=data, **options)
    np.savez(folder / f"{name}{rank}.npz", **engine.weights())

for name, case in cases.items():
    train(name, *case)
try:
    train("cut", *cases["carry"], stop_at=STEPS + 3)
except Stop:
    train("cut", *cases["carry"], resume=True)
"""
ACCELERATE_LAUNCH = (
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2),
    *("--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no"),
    *("--main_process_port", 0),
)
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)


OWN = """
import sys
import lightning
import numpy as np
from parity_tests.test_processes import LIT_CASES
from torchref.engines.lightning import LitTask, TaskDataModule
from torchref.weights import read_tensors

task, data = LIT_CASES["plain"]
trainer = lightning.Trainer(
    accelerator="cpu",
    devices=2,
    strategy="ddp",
    max_epochs=task.training.epochs,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
)
module = LitTask(task)
trainer.fit(module, TaskDataModule(task, data))
with module.average.in_place():
    np.savez(f"{sys.argv[1]}/own{trainer.global_rank}.npz", **read_tensors(module.model))
"""
Trained = Callable[[str], Path]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """engine -> a folder with each case trained by two processes, and the weights of each."""

    @cache
    def train(engine: str) -> Path:
        folder = tmp_path_factory.mktemp(engine)
        (folder / "worker.py").write_text(WORKER)
        done = run_python(*TORCHRUN, folder / "worker.py", folder, engine)
        assert done.returncode == 0, done.stderr[-3000:]
        return folder

    return train


def run_python(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, arguments)]
    environment = clean_environment() | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def weights(folder: Path, name: str, rank: int = 0) -> dict[str, np.ndarray]:
    return dict(np.load(folder / f"{name}{rank}.npz"))


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["plain", "carry"])
def test_two_processes_are_one_with_twice_the_micro_batches(
    name: str, engine: str, two: Trained, tmp_path: Path
) -> None:
    folder = two(engine)
    task, data = ENGINES[engine][name]
    twice = with_settings(task, training={"micro_batches": 2 * task.training.micro_batches})
    found = weights(folder, name)
    one, _ = train_tiny(engine, tmp_path / "one", twice, data=data)
    assert distance(found, one.weights()) < ROUNDING
    for left, right in zip(history(folder / name), history(tmp_path / "one"), strict=True):
        assert left == pytest.approx(right, rel=1e-4)
    other, _ = train_tiny(engine, tmp_path / "other", task, data=data)
    assert distance(found, other.weights()) > 100 * ROUNDING  # the control: other masks


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CASES)
def test_all_processes_end_with_the_same_weights(name: str, engine: str, two: Trained) -> None:
    folder = two(engine)
    assert_same_weights(weights(folder, name), weights(folder, name, 1))


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_trainer_of_ones_own_trains_the_same_in_two_processes(
    two: Trained, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    done = run_python(tmp_path / "own.py", tmp_path)  # which starts the other itself
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        assert_same_weights(weights(tmp_path, "own", rank), weights(two("lightning"), "plain"))


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("engine", ENGINES)
def test_two_processes_resume_exactly(engine: str, two: Trained) -> None:
    folder = two(engine)
    assert history(folder / "cut") == history(folder / "carry")
    for rank in (0, 1):
        assert_same_weights(weights(folder, "cut", rank), weights(folder, "carry"))
    task, data = ENGINES[engine]["carry"]
    with pytest.raises(ValueError, match="is of 2 processes, and this is one of 1; start 2"):
        train_tiny(engine, folder / "cut", task, resume=True, data=data)


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_the_same_bits_on_every_engine(name: str, two: Trained) -> None:
    """BatchNorm too, which no one process can be compared with."""
    found, expected = two("lightning"), two("accelerate")
    assert_same_weights(weights(found, name), weights(expected, name))
    assert history(found / name) == history(expected / name)


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("launch", "engine"), [(ACCELERATE_LAUNCH, "accelerate"), (TORCHRUN, "lightning")]
)
def test_a_launcher_leaves_one_run_and_one_message(
    launch: tuple[object, ...], engine: str, tmp_path: Path
) -> None:
    train = [SCRIPTS / "train.py", "cifar10-logistic", "--engine", engine, "--epochs", 2]
    done = run_python(*launch, *train, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("epoch 2/2") == done.stdout.count(f"run: {tmp_path / 'two'}") == 1
    alone = run_python(*train, "--training.micro-batches", 2, "--out", tmp_path / "one")
    assert alone.returncode == 0, alone.stderr[-3000:]
    two, one = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ["two", "one"]
    )
    assert two["test_loss"] == pytest.approx(one["test_loss"], rel=1e-5)
    again = run_python(*launch, *train, "--out", tmp_path / "two")
    assert again.returncode != 0
    assert f"error: {tmp_path / 'two'} already holds a run" in again.stderr
