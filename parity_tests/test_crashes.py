"""A crash loses nothing saved: damaged checkpoints, a NaN loss, a full disk, kill -9, Ctrl-C."""

import contextlib
import resource
import signal
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")
torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from jaxmodels.shared.run import NonFiniteLossError  # noqa: E402
from parity_tests.tiny_runs import (  # noqa: E402
    ENGINES,
    EPOCHS,
    STEPS,
    TASK,
    Stop,
    assert_same_weights,
    clean_environment,
    compile_once,
    history,
    train_tiny,
    with_settings,
)

__all__ = ["compile_once"]  # a fixture

SUFFIX = {"torch": "last/{}.safetensors", "lightning": "last.ckpt"}


def largest_file(folder: Path, engine: str, step: int = STEPS) -> Path:
    """The file with the last checkpoint's tensors."""
    if engine in SUFFIX:
        return folder / "checkpoints" / SUFFIX[engine].format(step)
    # orbax merges the files of its processes into state/d, and leaves the merged ones behind.
    pattern = "state/d/*" if engine == "flax" else "*"
    files = [file for file in (folder / f"checkpoints/last/{step}").glob(pattern) if file.is_file()]
    return max(files, key=lambda file: file.stat().st_size)


def places_of_values(path: Path) -> np.ndarray:
    """Where in the file a byte means something: between its parts a zip file is padded."""
    if not zipfile.is_zipfile(path):
        return np.arange(path.stat().st_size)
    content, places = path.read_bytes(), []
    with zipfile.ZipFile(path) as file:
        for part in file.infolist():  # a local header is 30 bytes, a name and a field of padding
            lengths = content[part.header_offset + 26 : part.header_offset + 30]
            start = part.header_offset + 30 + sum(struct.unpack("<HH", lengths))
            places.append(np.arange(start, start + part.compress_size))
    return np.concatenate(places)


@pytest.mark.parametrize("engine", ENGINES)
def test_flipped_byte_in_a_checkpoint_is_refused(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []  # what threads would print on their own
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    with pytest.raises(Stop):
        train_tiny(engine, tmp_path, stop_at=STEPS + 1)
    path = largest_file(tmp_path, engine)
    content = path.read_bytes()
    places = places_of_values(path)
    for position in places[np.linspace(len(places) // 8, len(places) * 7 // 8, 3).astype(int)]:
        changed = bytearray(content)
        changed[position] ^= 0x10
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"checkpoint .*last.* is damaged"):
            train_tiny(engine, tmp_path, resume=True)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"checkpoint .*last.* is damaged"):
        train_tiny(engine, tmp_path, resume=True)
    path.write_bytes(content)  # the mend works
    train_tiny(engine, tmp_path, resume=True)
    assert len(history(tmp_path)) == EPOCHS
    assert not seen


def forge_run(folder: Path, task: Any) -> None:
    """Makes run.json claim another task, as if a checkpoint had been copied into its folder."""
    from jaxmodels.shared.files import write_json
    from jaxmodels.shared.run import load, to_json

    run = load(folder)
    write_json(folder / "run.json", to_json(type(run)(**{**run.__dict__, "task": task})))


@pytest.mark.parametrize("engine", ENGINES)
def test_checkpoint_of_another_model_is_listed(engine: str, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train_tiny(engine, tmp_path, stop_at=STEPS + 1)
    other = with_settings(model={"hidden_dims": (16, 13)})
    forge_run(tmp_path, other)
    with pytest.raises(ValueError, match="tensors do not match") as caught:
        train_tiny(engine, tmp_path, other, resume=True)
    shapes = "(16, 11), expected (16, 13)" if engine == "flax" else "(11, 16), expected (13, 16)"
    assert "checkpoints/last" in str(caught.value)
    assert "linear2" in str(caught.value)
    assert f"has shape {shapes}" in str(caught.value)


@pytest.mark.parametrize("engine", ["flax", "torch"])
def test_checkpoint_of_another_type_is_refused(engine: str, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train_tiny(engine, tmp_path, stop_at=STEPS + 1)
    from jaxmodels.shared.command_line import make_engine

    restored: Any = make_engine(engine, TASK, tmp_path)  # type: ignore[arg-type]
    if engine == "flax":
        kernels = restored.state["params"]
        kernels["linear3.kernel"] = kernels["linear3.kernel"].astype("bfloat16")
    else:
        restored.model.linear3.to(torch.float64)
    with pytest.raises(ValueError, match=r"linear3\.\w+ is float32, expected (bfloat16|float64)"):
        restored.restore("last")


SPOILT = with_settings(  # an epoch of training, then a rate of 1e30
    optimizer={"name": "sgd", "learning_rate": 0.01, "clip_norm": 0.0},
    schedule={"name": "step", "milestones": (0.4,), "decay_factor": 1e32},
)


@pytest.mark.parametrize("engine", ENGINES)
def test_nan_loss_stops_and_keeps_the_last_good_checkpoint(engine: str, tmp_path: Path) -> None:
    messages = []
    for resume in (False, True):  # the checkpoint is good: it trains on to the same point
        with pytest.raises(NonFiniteLossError) as caught:
            train_tiny(engine, tmp_path, SPOILT, resume=resume)
        messages.append(str(caught.value))
        assert [row["epoch"] for row in history(tmp_path)] == [1]
    assert messages[0] == messages[1]
    assert f"step {STEPS + 2} (epoch 2, batch 2 of {STEPS}, training rows" in messages[0]
    assert "checkpoints before it are kept" in messages[0]
    assert "--optimizer.learning-rate" in messages[0]


@pytest.mark.parametrize("engine", ["flax", "torch"])
def test_broken_model_is_not_saved(engine: str, tmp_path: Path) -> None:
    """The loss that is known when a checkpoint is due is older than the update it would save."""
    task = with_settings(SPOILT, training={"checkpoint_every_steps": 1})
    for resume in (False, True):
        with pytest.raises(NonFiniteLossError, match=f"not finite after step {STEPS + 1} "):
            train_tiny(engine, tmp_path, task, resume=resume)


@contextlib.contextmanager
def largest_file_size(limit: int) -> Iterator[None]:
    """A disk that is full after `limit` bytes of any file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("engine", ENGINES)
def test_full_disk_keeps_the_checkpoint_before(engine: str, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train_tiny(engine, tmp_path, stop_at=STEPS + 1)
    with largest_file_size(3000), pytest.raises(OSError, match=r"checkpoints/\w+.* could not be"):
        train_tiny(engine, tmp_path, resume=True)
    assert not list(tmp_path.rglob(".*.tmp"))
    resumed, _ = train_tiny(engine, tmp_path, resume=True)
    whole, _ = train_tiny(engine, tmp_path / "whole")
    assert_same_weights(whole.weights(), resumed.weights())
    assert history(tmp_path) == history(tmp_path / "whole")


KILL = """
import os, signal, sys
from pathlib import Path
from parity_tests.tiny_runs import train_tiny

engine, folder, target = sys.argv[1:]
for name in ("rename", "replace"):
    def deadly(source, destination, *rest, original=getattr(os, name), **options):
        if str(destination).endswith(target) and Path(folder, "history.jsonl").exists():
            if len(Path(folder, "history.jsonl").read_text().splitlines()) >= 2:
                os.kill(os.getpid(), signal.SIGKILL)
        return original(source, destination, *rest, **options)
    setattr(os, name, deadly)
train_tiny(engine, Path(folder))
"""


@pytest.mark.parametrize(
    "engine", [pytest.param(n, marks=pytest.mark.slow) if n != "torch" else n for n in ENGINES]
)
def test_kill_within_a_save_keeps_the_checkpoint_before(engine: str, tmp_path: Path) -> None:
    """Killed between the temporary write of the second epoch's checkpoint and its rename."""
    folder = tmp_path / "run"
    target = SUFFIX.get(engine, "last/{}").format(2 * STEPS)
    killed = subprocess.run(
        [sys.executable, "-c", KILL, engine, folder, target],
        env=clean_environment(),
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    checkpoints = folder / "checkpoints"
    assert leftovers(checkpoints)
    resumed, _ = train_tiny(engine, folder, resume=True)
    assert not leftovers(checkpoints)
    whole, _ = train_tiny(engine, tmp_path / "whole")
    assert_same_weights(whole.weights(), resumed.weights())
    assert history(folder) == history(tmp_path / "whole")


def leftovers(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if "tmp" in file.name]


@pytest.mark.parametrize("engine", ENGINES)
def test_interrupt_reaches_the_caller(engine: str, tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train_tiny(engine, tmp_path, stop_at=STEPS + 1, stop=KeyboardInterrupt)
    assert signal.getsignal(signal.SIGINT) is handler
    train_tiny(engine, tmp_path, resume=True)
    assert len(history(tmp_path)) == EPOCHS
