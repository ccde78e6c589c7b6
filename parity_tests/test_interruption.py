"""SIGTERM and Ctrl-C save what was reached and end the process, wherever the training stands."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jax")
pytest.importorskip("torch")

from jaxmodels.engine import FlaxEngine
from jaxmodels.shared.checksums import saved_steps
from jaxmodels.shared.interruption import (
    Interrupted,
    grace_seconds,
    heeded_signals,
)
from parity_tests.tiny_runs import (
    STEPS,
    assert_same_weights,
    compile_once,
    environment_that_compiles_once,
    history,
    train_tiny,
)
from torchref.engines.plain import TorchEngine

__all__ = ["compile_once"]  # a fixture

PLACES = {  # where it stands: the step that is saved, and its epoch
    "step": (STEPS + 2, 2),
    "evaluation": (2 * STEPS, 2),
    "save": (2 * STEPS, 3),
    "compilation": (STEPS + 2, 2),
}


def acting_at(place: str, engine: str, patch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Makes the engine act once, in its second epoch."""
    kind = FlaxEngine if engine == "flax" else TorchEngine
    train_step, predict, save = kind.train_step, kind.predict, kind.save
    predictions, saves = count(1), count(1)

    def acting_step(self: Any, batch: Any, *, step: int, rate: float) -> Any:
        metrics = train_step(self, batch, step=step, rate=rate)
        if place in ("step", "compilation") and step == STEPS + 1:
            act()
        return metrics

    def acting_predict(self: Any, batch: Any, carry: Any = None) -> Any:
        outputs = predict(self, batch, carry)
        if place == "evaluation" and next(predictions) == 5:  # an epoch has a probe and 2 batches
            act()
        return outputs

    def acting_save(self: Any, name: str, position: Any) -> None:
        due = place == "save" and name == "last" and position["step"] == 2 * STEPS
        if due and next(saves) == 1:  # it is saved once more before the training is left
            act()
        save(self, name, position)

    for name, value in (("train_step", acting_step), ("predict", acting_predict)):
        patch.setattr(kind, name, value)
    patch.setattr(kind, "save", acting_save)


# Says that it is there, and stays until the signal has come, or compiles.
WORKER = """
import os, signal, sys, time
from pathlib import Path
import jax, jax.numpy as jnp, pytest
from jaxmodels.shared.command_line import run_script
from parity_tests.test_interruption import acting_at
from parity_tests.tiny_runs import train_tiny

place, engine, folder = sys.argv[1:]

def wait():
    come = []
    for number in (signal.SIGTERM, signal.SIGINT):
        note = signal.getsignal(number)
        signal.signal(number, lambda *given, note=note: (come.append(note(*given))))
    print("here", flush=True)
    while not come:
        time.sleep(0.01)

def compile_for_long():
    def deep(x):
        for n in range(600):
            x = jnp.sin(x) @ jnp.cos(x + n + os.getpid())
        return x
    lowered = jax.jit(deep).lower(jnp.ones((3, 3)))
    print("here", flush=True)
    lowered.compile()

acting_at(place, engine, pytest.MonkeyPatch(), compile_for_long if place == "compilation" else wait)
run_script(lambda: train_tiny(engine, Path(folder)) and None)
"""


def interrupted(
    place: str, engine: str, folder: Path, number: int, *, grace: float = 60
) -> tuple[int, str, float]:
    """(exit code, what it complained of, seconds from the signal to the end)."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, place, engine, str(folder)],
        env=environment_that_compiles_once() | {"JAXMODELS_GRACE_SECONDS": str(grace)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert any(line == "here\n" for line in process.stdout), process.communicate()
    process.send_signal(number)
    sent = time.monotonic()
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors, time.monotonic() - sent


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, list]]:
    found: dict[str, tuple[Any, list]] = {}

    def train(engine: str) -> tuple[Any, list]:
        if engine not in found:
            folder = tmp_path_factory.mktemp(engine)
            trained, _ = train_tiny(engine, folder)
            found[engine] = trained.weights(), history(folder)
        return found[engine]

    return train


def assert_goes_on(engine: str, folder: Path, place: str, whole: Any) -> None:
    assert saved_steps(folder / "checkpoints" / "last")[-1] == PLACES[place][0]
    resumed, _ = train_tiny(engine, folder, resume=True)
    weights, rows = whole(engine)
    assert_same_weights(weights, resumed.weights())
    assert history(folder) == rows


def told(place: str, number: signal.Signals) -> str:
    step, epoch = PLACES[place]
    return f"{number.name}: saved step {step}, in epoch {epoch}; continue with --resume"


@pytest.mark.parametrize("place", ["step", "evaluation", "save"])
@pytest.mark.parametrize("engine", ["flax", "torch"])
def test_a_signal_saves_and_leaves(
    engine: str, place: str, tmp_path: Path, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, by a signal to itself."""
    whole(engine)  # trained before the engine is changed
    with monkeypatch.context() as patch:
        acting_at(place, engine, patch, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Interrupted) as caught:
            train_tiny(engine, tmp_path)
    assert str(caught.value) == told(place, signal.SIGTERM)
    assert caught.value.exit_code == 143
    assert_goes_on(engine, tmp_path, place, whole)


SIGNALS = [
    ("torch", "step", signal.SIGTERM),
    *(pytest.param("flax", p, signal.SIGTERM, marks=pytest.mark.slow) for p in PLACES),
    pytest.param("flax", "evaluation", signal.SIGINT, marks=pytest.mark.slow),
    pytest.param("torch", "evaluation", signal.SIGTERM, marks=pytest.mark.slow),
    pytest.param("torch", "save", signal.SIGTERM, marks=pytest.mark.slow),
]


@pytest.mark.multiprocess
@pytest.mark.parametrize(("engine", "place", "number"), SIGNALS)
def test_a_signal_ends_the_process(
    engine: str, place: str, number: signal.Signals, tmp_path: Path, whole: Any
) -> None:
    code, errors, seconds = interrupted(place, engine, tmp_path, number)
    assert (code, errors) == (128 + number, told(place, number) + "\n")
    assert place != "compilation" or seconds > 0.5, "the compilation was too short to tell"
    assert_goes_on(engine, tmp_path, place, whole)


@pytest.mark.multiprocess
def test_a_long_compilation_is_not_waited_for(tmp_path: Path, whole: Any) -> None:
    code, errors, seconds = interrupted("compilation", "flax", tmp_path, signal.SIGTERM, grace=0.3)
    assert code == 143, errors
    expected = rf"SIGTERM: .* not back from .* after 0.3 s .*{tmp_path} from .* with --resume\n"
    assert re.fullmatch(expected, errors)
    assert seconds < 3
    assert saved_steps(tmp_path / "checkpoints" / "last") == [STEPS]
    resumed, _ = train_tiny("flax", tmp_path, resume=True)
    assert_same_weights(whole("flax")[0], resumed.weights())


def test_handlers_are_as_they_were(tmp_path: Path) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with heeded_signals(tmp_path) as signals:
        signal.raise_signal(signal.SIGTERM)
        assert signals.asked == signal.SIGTERM
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_second_interrupt_is_obeyed_at_once(tmp_path: Path) -> None:
    with heeded_signals(tmp_path):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("given", ["soon", "0", "-1", "nan"])
def test_a_grace_time_that_is_none_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXMODELS_GRACE_SECONDS", given)
    with pytest.raises(ValueError, match=f"JAXMODELS_GRACE_SECONDS='{given}'; expected seconds"):
        grace_seconds()
