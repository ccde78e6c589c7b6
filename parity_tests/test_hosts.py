"""Several processes of the Flax engine make one process's curve, and end together."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")

from jaxmodels.shared.company import LOST
from jaxmodels.shared.families.registry import family_of
from parity_tests.tiny_runs import (
    BATCH,
    DATA,
    SCRIPTS,
    STEPS,
    TASK,
    clean_environment,
    history,
)
from parity_tests.tiny_texts import REVIEW_TASK, REVIEWS, TEXT, TEXT_TASK

pytestmark = pytest.mark.multiprocess
LAUNCH = (sys.executable, SCRIPTS / "launch_local.py")
SILENCE = 3  # seconds
TRAIN = (SCRIPTS / "train.py", "houses-ridge", "--engine", "flax")


# ---- Rows of batches


@pytest.mark.parametrize(
    ("task", "data"), [(TASK, DATA), (REVIEW_TASK, REVIEWS), (TEXT_TASK, TEXT)]
)
def test_hosts_together_have_each_batch(task: Any, data: Any) -> None:
    family = family_of(task)
    whole = family.training_batches(task, data, 3)
    halves = [family.training_batches(task, data, 3, host=host, num_hosts=2) for host in range(2)]
    apart = family.training_batches(task, data, 3, host=(0, 3), num_hosts=4)
    for _ in range(4):
        batch, *own, ends = next(whole), *map(next, halves), next(apart)
        for name, value in batch.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in own]), value)
            quarters = np.split(value, 4)
            np.testing.assert_array_equal(np.concatenate([quarters[0], quarters[3]]), ends[name])
    if task is TASK:
        with pytest.raises(ValueError, match=r"batch_size 12 must divide by num_hosts 5; try 10"):
            family.training_batches(task, data, host=0, num_hosts=5)
    assert BATCH == 12


# ---- One process's curve


def train(processes: int, *cases: object, dtype: str) -> None:
    """Trains the worker's cases, on two devices a process, or on the only device of one."""
    flags = ("-n", processes, "--devices-per-process", processes)
    worker = SCRIPTS.parent / "parity_tests" / "hosts_worker.py"
    done = subprocess.run(
        [str(part) for part in (*LAUNCH, *flags, "--", worker, *cases)],
        env=environment() | {"JAX_ENABLE_X64": str(int(dtype == "float64"))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module", params=["float64", pytest.param("float32", marks=pytest.mark.slow)])
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, float]:
    """The folders of one process and of two, and how near they must be.

    One case is cut in the middle of an epoch by two processes, taken up by one, cut again, and
    ended by two.
    """
    folder, dtype = tmp_path_factory.mktemp(request.param), request.param
    one, two = folder / "one", folder / "two"
    train(2, two / "images", two / "text", f"{two / 'images-cut'}:{STEPS + 3}", dtype=dtype)
    train(1, one / "images", one / "text", f"{two / 'images-cut'}:{2 * STEPS + 1}", dtype=dtype)
    train(2, two / "images-cut", dtype=dtype)
    return one, two, 1e-12 if dtype == "float64" else 2e-4


@pytest.mark.parametrize("case", ["images", "text", "images-cut"])
def test_two_processes_make_the_curve_of_one(case: str, trained: tuple[Path, Path, float]) -> None:
    """Losses, validations, weights, and outputs for a split that no batch divides."""
    one, two, bound = trained
    whole = case.removesuffix("-cut")
    for left, right in zip(history(two / case), history(one / whole), strict=True):
        assert left == pytest.approx(right, rel=10 * bound)
    expected = dict(np.load(f"{one / whole}.0.npz"))
    for index in (0, 1):  # both know the result
        found = dict(np.load(f"{two / case}.{index}.npz"))
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            apart = np.linalg.norm(found[name] - value) / (np.linalg.norm(value) or 1)
            assert apart < 10 * bound, (name, apart)
    assert ("outputs" in expected) == (whole == "images")


def test_the_curves_are_those_of_a_training(trained: tuple[Path, Path, float]) -> None:
    """The control: another epoch's figures are far away."""
    one, two, bound = trained
    first, *_, last = history(one / "images")
    assert abs(last["train_loss"] - first["train_loss"]) > 1e3 * bound
    assert [row["epoch"] for row in history(two / "images-cut")] == [1, 2, 3]


# ---- How trainings of several processes end


def environment(**limits: float) -> dict[str, str]:
    given = {f"JAXMODELS_{name.upper()}_SECONDS": str(value) for name, value in limits.items()}
    names = ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")
    clean = {name: value for name, value in clean_environment().items() if name not in names}
    return clean | {"OMP_NUM_THREADS": "1"} | given


@contextmanager
def launched(*command: object, **limits: float) -> Iterator[subprocess.Popen[str]]:
    launcher = subprocess.Popen(
        [str(part) for part in (*LAUNCH, "-n", 2, "--", *command)],
        env=environment(**limits),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield launcher
    finally:
        if launcher.poll() is None:
            for pid in children(launcher):
                os.kill(pid, signal.SIGKILL)
            launcher.kill()


def children(launcher: subprocess.Popen[str]) -> list[int]:
    """The processes, in their order."""
    listed = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    ranks = {}
    for pid in map(int, listed):
        variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
        rank = next(v for v in variables if v.startswith("RANK="))
        ranks[int(rank.removeprefix("RANK="))] = pid
    return [ranks[index] for index in sorted(ranks)]


def wait_for_epoch(launcher: subprocess.Popen[str], epoch: int) -> None:
    assert launcher.stdout
    for line in launcher.stdout:
        if re.match(rf"epoch +{epoch}/", line):
            return
    raise AssertionError(launcher.communicate()[1])


def said(errors: str) -> list[str]:
    """What was written, but for gloo's own lines."""
    return [line for line in errors.splitlines() if "[Gloo]" not in line]


@pytest.mark.parametrize(
    ("number", "index", "why"),
    [
        (signal.SIGKILL, 0, "process 0 of 2 has ended: killed, or its own output tells why"),
        (signal.SIGKILL, 1, "process 1 of 2 has ended: killed, or its own output tells why"),
        (
            signal.SIGSTOP,
            1,
            f"nothing was heard of process 1 of 2 for {SILENCE} s (stopped, or cut",
        ),
    ],
)
def test_a_training_ends_when_a_process_is_lost(
    number: int, index: int, why: str, tmp_path: Path
) -> None:
    with launched(*TRAIN, "--epochs", 4000, "--out", tmp_path / "run", silence=SILENCE) as launcher:
        wait_for_epoch(launcher, 3)
        os.kill(children(launcher)[index], number)
        began = time.monotonic()
        _, errors = launcher.communicate(timeout=SILENCE + 20)
        assert time.monotonic() - began < SILENCE + 8  # 5 of them the launcher's
    (line,) = said(errors)  # no stack, and no word of sockets
    assert line.startswith(f"[{1 - index}] error: {why}")
    assert launcher.returncode in (LOST, 128 + signal.SIGKILL)


def test_processes_with_other_settings_are_refused(tmp_path: Path) -> None:
    """As on hosts that were started by hand."""
    (tmp_path / "script.py").write_text(
        "import os, runpy, sys\n"
        f"sys.argv = ['train.py', *{[str(part) for part in TRAIN[1:]]!r}, '--epochs', '2',"
        f" '--out', {str(tmp_path / 'run')!r}, '--seed', os.environ['RANK']]\n"
        f"runpy.run_path({str(TRAIN[0])!r}, run_name='__main__')\n"
    )
    with launched(tmp_path / "script.py") as launcher:
        _, errors = launcher.communicate(timeout=60)
    assert launcher.returncode == 2
    why = "process 1 of 2 was started otherwise than process 0: task.training.seed is 1 there"
    assert sorted(line.partition(why)[0] for line in said(errors)) == ["[0] error: ", "[1] error: "]
    assert not (tmp_path / "run").exists()


def test_a_process_without_the_others_is_refused(tmp_path: Path) -> None:
    address = {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1", "RANK": "1", "WORLD_SIZE": "2"}
    for told, why in (
        ({"RANK": "1", "WORLD_SIZE": "2"}, "finds no coordinator of the 2 processes"),
        (address, "process 0 of 2 did not start within 1 s: at 127.0.0.1:2 Connection refused"),
    ):
        done = subprocess.run(
            [sys.executable, *map(str, TRAIN), "--out", tmp_path / "run"],
            env=environment(start=1) | told,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, len(said(done.stderr))) == (2, 1)
        assert why in done.stderr


def test_sigterm_saves_one_checkpoint_of_all_processes(tmp_path: Path) -> None:
    out = ("--out", tmp_path / "run")
    with launched(*TRAIN, "--epochs", 60, *out) as launcher:
        wait_for_epoch(launcher, 3)
        os.kill(children(launcher)[1], signal.SIGTERM)  # a pod's hosts are not told at once
        _, errors = launcher.communicate(timeout=40)
    assert launcher.returncode == 128 + signal.SIGTERM
    lines = said(errors)
    assert len(lines) == 2
    assert len({line.partition("SIGTERM: saved step")[2] for line in lines}) == 1
    step = int(re.findall(r"saved step ([\d,]+)", errors)[0].replace(",", ""))
    assert (tmp_path / "run" / "checkpoints" / "last" / str(step)).is_dir()
