"""Checkpoints: several are kept, written beside the training, and checked when they are read."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")

import jax.numpy as jnp  # noqa: E402
import orbax.checkpoint as ocp  # noqa: E402

from jaxmodels import checkpoint  # noqa: E402
from jaxmodels.checkpoint import Checkpoints  # noqa: E402
from jaxmodels.checksums import checksums  # noqa: E402
from jaxmodels.shared import run as runs  # noqa: E402
from jaxmodels.shared.checksums import saved_steps, seal  # noqa: E402
from jaxmodels.shared.training import choose_trainer  # noqa: E402
from parity_tests.test_crashes import largest_file  # noqa: E402
from parity_tests.tiny_runs import (  # noqa: E402
    EPOCHS,
    STEPS,
    TASK,
    Stop,
    assert_same_weights,
    compile_once,
    history,
    train_tiny,
    with_settings,
)

__all__ = ["compile_once"]  # a fixture

LAST = EPOCHS * STEPS
ENGINES = ("flax", "torch", "accelerate")  # Lightning keeps one


def flip(path: Path) -> None:
    """A bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_checkpoint_before_a_damaged_one_is_offered(engine: str, tmp_path: Path) -> None:
    whole, _ = train_tiny(engine, tmp_path)
    weights, rows = whole.weights(), history(tmp_path)
    last = tmp_path / "checkpoints" / "last"
    assert saved_steps(last) == [LAST - STEPS, LAST]
    assert len(saved_steps(last.with_name("best"))) == 1
    flip(largest_file(tmp_path, engine, LAST))
    offer = rf"last/{LAST}\S* is damaged: .*; continue from the one before it, of step "
    with pytest.raises(
        ValueError, match=rf"{offer}{LAST - STEPS}, by --resume-from {LAST - STEPS}"
    ):
        train_tiny(engine, tmp_path, resume=True)
    resumed, _ = train_tiny(engine, tmp_path, resume=True, from_step=LAST - STEPS)
    assert_same_weights(weights, resumed.weights())
    assert history(tmp_path) == rows
    train_tiny(engine, tmp_path, resume=True)  # the damaged one is written again
    with pytest.raises(ValueError, match=rf"--resume-from 7: \S+last holds .* steps 10, {LAST}$"):
        train_tiny(engine, tmp_path, resume=True, from_step=7)


def test_lightning_has_no_checkpoint_to_choose(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    with pytest.raises(ValueError, match="--resume-from 5: --engine lightning keeps its newest"):
        choose_trainer("lightning", TASK, tmp_path, resume=True, from_step=5)


@pytest.mark.parametrize("engine", ["flax", "torch"])
def test_as_many_are_kept_as_asked_for(engine: str, tmp_path: Path) -> None:
    task = with_settings(training={"epochs": 1, "checkpoint_every_steps": 1, "keep_checkpoints": 3})
    train_tiny(engine, tmp_path, task)
    assert saved_steps(tmp_path / "checkpoints" / "last") == [3, 4, 5]
    with pytest.raises(ValueError, match=r"training.keep_checkpoints 0 must be at least 1"):
        with_settings(training={"keep_checkpoints": 0})


@pytest.mark.parametrize("engine", ["flax", "torch"])
def test_a_checkpoint_of_other_settings_is_refused(engine: str, tmp_path: Path) -> None:
    """A folder that was copied from another run, of the same model."""
    for seed in (0, 1):
        task = with_settings(training={"seed": seed})
        with pytest.raises(Stop):
            train_tiny(engine, tmp_path / str(seed), task, stop_at=STEPS + 1)
    shutil.rmtree(tmp_path / "0" / "checkpoints")
    shutil.copytree(tmp_path / "1" / "checkpoints", tmp_path / "0" / "checkpoints")
    with pytest.raises(ValueError, match=r"of a training with other.*\n  training.seed: 1 -> 0$"):
        train_tiny(engine, tmp_path / "0", resume=True)


@pytest.mark.parametrize("engine", ["flax", "torch"])
def test_a_run_ended_before_its_first_checkpoint_begins_anew(engine: str, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train_tiny(engine, tmp_path / "parts", stop_at=2)
    assert not runs.has_begun(tmp_path / "parts")
    resumed, _ = train_tiny(engine, tmp_path / "parts", resume=True)
    whole, _ = train_tiny(engine, tmp_path / "whole")
    assert_same_weights(whole.weights(), resumed.weights())


# ---- Flax's alone


def state() -> dict[str, Any]:
    key = jax.random.key(0)
    kernel = jax.random.normal(key, (64, 33))
    return {
        "params": {"kernel": kernel, "bias": kernel[0].astype(jnp.bfloat16)},
        "step": jnp.int32(3),
    }


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """No save ends before this is set."""
    event, original = threading.Event(), ocp.AsyncCheckpointer._make_on_commit_callback

    def callback(self: Any, *arguments: Any, **options: Any) -> Any:
        commit = original(self, *arguments, **options)

        def wait_and_commit() -> Any:
            assert event.wait(20)
            return commit()

        return wait_and_commit

    monkeypatch.setattr(ocp.AsyncCheckpointer, "_make_on_commit_callback", callback)
    return event


def test_a_save_goes_on_beside_the_training(held: threading.Event, tmp_path: Path) -> None:
    """What is written is the state as it was, though its memory is the next step's."""
    checkpoints, before = Checkpoints(tmp_path), state()
    expected = jax.tree.map(np.array, before)
    checkpoints.save("last", before, {"step": 3})
    assert saved_steps(tmp_path / "last") == []
    step = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 2 + 1, tree), donate_argnums=0)
    after = step(step(before))
    assert before["params"]["kernel"].is_deleted()
    held.set()
    checkpoints.finish()
    found, position = Checkpoints(tmp_path).restore("last", after)
    assert position == {"step": 3}
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_failed_save_stops_the_next_and_keeps_those_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save("last", state(), {"step": 1})
    checkpoints.finish()
    monkeypatch.setattr(checkpoint, "_require_room", lambda folder, size: None)
    monkeypatch.setattr(
        ocp.AsyncCheckpointer, "_make_on_commit_callback", lambda *_, **__: failing_commit
    )
    checkpoints.save("last", state(), {"step": 2})  # fails in the background
    with pytest.raises(OSError, match=r"last could not be written \(No space left on device\)"):
        checkpoints.save("last", state(), {"step": 3})
    checkpoints.finish()  # an error is told once
    assert saved_steps(tmp_path / "last") == [1]
    assert Checkpoints(tmp_path).restore("last", state())[1] == {"step": 1}


def failing_commit() -> None:
    raise OSError(28, "No space left on device")


def test_a_wrong_dtype_in_a_file_is_found(tmp_path: Path) -> None:
    """orbax would cast it back."""
    true, checkpoints = state(), Checkpoints(tmp_path, keep=2)
    other = true | {"params": {k: v.astype(jnp.bfloat16) for k, v in true["params"].items()}}
    manager = checkpoints._manager("last")
    for step, content in ((1, true), (2, other)):
        record = seal({"step": step}, checkpoint._leaves(true), checksums)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(content), record=ocp.args.JsonSave(record)
        )
        manager.save(step, args=items)
    manager.wait_until_finished()
    message = r"1 of 3 tensors differ from their checksums, the first is params.kernel; .*-from 1,"
    with pytest.raises(ValueError, match=message):
        checkpoints.restore("last", true)
    assert checkpoints.restore("last", true, 1)[1] == {"step": 1}
    assert saved_steps(tmp_path / "last") == [1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "bool", "int8", "float64"])
def test_every_flipped_bit_changes_the_checksum(dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        values = np.random.default_rng(0).integers(2, size=(3, 5)).astype(dtype)
        leaf = jnp.asarray(values)
        size = leaf.dtype.itemsize
        seen = {checksums({"x": leaf})["x"]}
        for bit in range(1 if dtype == "bool" else 8 * size):
            content = np.array(leaf).view(np.uint8).reshape(-1)
            content[4 * size + bit // 8] ^= 1 << bit % 8
            changed = content.view(leaf.dtype).reshape(leaf.shape)
            seen.add(checksums({"x": jnp.asarray(changed)})["x"])
        assert len(seen) == 1 + (1 if dtype == "bool" else 8 * size)
        assert checksums({"x": leaf[::-1]})["x"] not in seen or np.array_equal(leaf, leaf[::-1])


def test_a_checksum_is_the_same_however_a_leaf_is_cut() -> None:
    leaf = jax.random.normal(jax.random.key(0), (16, 8, 3))
    expected = checksums({"x": leaf})
    mesh = jax.make_mesh((4, 2), ("a", "b"))
    for spec in (("a", "b"), (("a", "b"),), (None, "a")):
        cut = jax.device_put(leaf, jax.NamedSharding(mesh, jax.P(*spec)))
        assert checksums({"x": cut}) == expected


def test_the_record_says_what_it_is_of(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train_tiny("flax", tmp_path, stop_at=STEPS + 1)
    record = json.loads((tmp_path / f"checkpoints/last/{STEPS}/record/metadata").read_text())
    position = record["position"]
    assert (position["step"], position["epoch"]) == (STEPS, 1)
    assert position["task"] == runs.task_to_json(TASK)
    names = {name.partition(".")[0] for name in record["tensors"]}
    assert names == {"params", "stats", "optimizer", "step"}
