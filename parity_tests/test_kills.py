"""kill -9 at random moments, many times in a row: the run goes on from its last commit, exactly.

JAXMODELS_KILLS=50 pytest -s -m slow parity_tests/test_kills.py    # 6 without the variable
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("jax")
pytest.importorskip("torch")

from jaxmodels.shared.checksums import saved_steps
from parity_tests.tiny_runs import (
    STEPS,
    assert_same_weights,
    compile_once,
    environment_that_compiles_once,
    history,
    train_tiny,
    with_settings,
)

__all__ = ["compile_once"]  # a fixture

KILLS = int(os.environ.get("JAXMODELS_KILLS", "6"))
EVERY = 2  # steps between checkpoints
TASK = with_settings(
    training={"epochs": 10 + 3 * KILLS, "checkpoint_every_steps": EVERY, "batch_size": 12}
)

# Writes down each step before it is made.
WORKER = """
import os, sys
from pathlib import Path
from jaxmodels.shared.command_line import run_script
from parity_tests import test_kills
from parity_tests.tiny_runs import train_tiny

engine, folder = sys.argv[1:]
log = os.open(folder + ".steps", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
if engine == "flax":
    from jaxmodels.engine import FlaxEngine as kind
else:
    from torchref.engines.plain import TorchEngine as kind
train_step = kind.train_step

def logged_step(self, batch, *, step, rate):
    os.write(log, f"{step}\\n".encode())
    return train_step(self, batch, step=step, rate=rate)

kind.train_step = logged_step
run = Path(folder)
run_script(lambda: train_tiny(engine, run, test_kills.TASK, resume=run.exists()) and None)
"""


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("engine", ["flax", "torch"])
def test_kills_lose_no_more_than_the_steps_since_the_last_commit(
    engine: str, tmp_path: Path
) -> None:
    chance, folder, log = random.Random(0), tmp_path / "run", tmp_path / "run.steps"
    last = folder / "checkpoints" / "last"
    lost, reached, kills = [], 0, 0
    while True:
        already = steps_in(log)
        process = start(engine, folder)
        if kills < KILLS and killed(process, log, len(already), chance):
            kills += 1
        code = process.wait()
        made = steps_in(log)[len(already) :]
        if made:  # it went on from the newest commit, and that is never an older one
            assert made == list(range(made[0], made[0] + len(made)))
            assert made[0] == reached
        assert code in (0, -signal.SIGKILL), process.stderr and process.stderr.read()
        committed = max(saved_steps(last), default=0)
        assert committed >= reached
        if made:
            lost.append(made[-1] + 1 - committed)
        reached = committed
        if code == 0:
            break
    # One checkpoint is being written and another is due, at most.
    assert kills == KILLS
    assert max(lost) <= 3 * EVERY
    print(f"{engine}: {kills} kills, steps lost at most {max(lost)}, mean {sum(lost) / kills:.2f}")
    resumed, _ = train_tiny(engine, folder, TASK, resume=True)
    whole, _ = train_tiny(engine, tmp_path / "whole", TASK)
    assert_same_weights(whole.weights(), resumed.weights())
    assert history(folder) == history(tmp_path / "whole")
    assert len(history(folder)) * STEPS == reached


def start(engine: str, folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, engine, str(folder)],
        env=environment_that_compiles_once() | {"JAXMODELS_KILLS": str(KILLS)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def killed(process: subprocess.Popen, log: Path, already: int, chance: random.Random) -> bool:
    """Kills the process, mostly within its first dozen steps, once in ten while it starts."""
    if chance.random() < 0.1:
        time.sleep(2 * chance.random())
    else:
        enough = already + chance.randint(1, 12)
        while process.poll() is None and len(steps_in(log)) < enough:
            time.sleep(0.005)
        time.sleep(0.05 * chance.random())
    process.kill()
    return process.wait() == -signal.SIGKILL


def steps_in(log: Path) -> list[int]:
    """The steps that were begun, in all processes."""
    return list(map(int, log.read_text().split())) if log.exists() else []
