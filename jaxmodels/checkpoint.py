"""Training checkpoints of the Flax engine through orbax, with our own checksums.

orbax writes each checkpoint to a temporary folder and renames it, so a killed save leaves the one
before. It restores a flipped byte and casts a wrong dtype without a word, hence the checksums.
"""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxmodels.shared.checksums import Position, check_record, check_tensors, seal
from jaxmodels.shared.files import could_not_write

logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs saves and tracebacks

_DESCRIPTIONS = 1 << 20  # bytes that orbax's many small files may take


class Checkpoints:
    """The newest checkpoint under each name, in `folder/NAME/STEP`."""

    def __init__(self, folder: Path):
        self.folder = folder.absolute()
        self.managers: dict[str, ocp.CheckpointManager] = {}

    def save(self, name: str, state: Any, position: Position) -> None:
        """Writes the state and its position, then drops the name's older checkpoint.

        Raises:
            OSError: it could not be written; the older checkpoint is kept.
        """
        manager = self._manager(name)
        if position["step"] in manager.all_steps():
            return  # a resumed run reached this step again, with the same bits
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            record=ocp.args.JsonSave(seal(position, _by_path(state))),
        )
        try:
            tensors = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
            _require_room(self.folder, tensors + _DESCRIPTIONS)
            manager.save(position["step"], args=items)
            manager.wait_until_finished()
        except Exception as error:  # tensorstore raises its own kinds
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it tells of every other task
            raise could_not_write(self.folder / name, error) from error

    def restore(self, name: str, like: Any) -> tuple[Any, Position]:
        """The newest checkpoint's state, in the structure of `like`, and its position.

        Raises:
            ValueError: there is none, it is of another model, or it does not read back as it was
                written.
        """
        manager = self._manager(name)
        step = manager.latest_step()
        if step is None:
            raise ValueError(
                f"{self.folder / name} holds no checkpoint to resume from; start again without "
                "--resume, in another --out"
            )
        where = str(self.folder / name / str(step))
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        # The record first: orbax would cast a wrong dtype, and explain a wrong tree at length.
        record = self._read(manager, step, where, record=ocp.args.JsonRestore())["record"]
        check_record(record, _leaves(abstract), where=where)
        state = self._read(manager, step, where, state=ocp.args.StandardRestore(abstract))["state"]
        return state, check_tensors(record, _by_path(state), where=where)

    def _read(self, manager: ocp.CheckpointManager, step: int, where: str, **items: Any) -> Any:
        try:
            return manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # orbax, tensorstore and json each have their own
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)
            raise ValueError(
                f"checkpoint {where} is damaged: {_first_line(error)}; restore it from a copy, or "
                "start again without --resume, in another --out"
            ) from error

    def _manager(self, name: str) -> ocp.CheckpointManager:
        _quiet_after_failures()
        if name not in self.managers:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=1,
                cleanup_tmp_directories=True,  # what a killed save left behind
                enable_async_checkpointing=False,  # a failed save must stop the run there
            )
            self.managers[name] = ocp.CheckpointManager(self.folder / name, options=options)
        return self.managers[name]


def _quiet_after_failures() -> None:
    """Drops the tracebacks that orbax's loose ends print after a read or write has failed.

    They are its other coroutines, and tensorstore's threads that find their event loop closed; the
    failure itself is raised where it belongs.
    """
    before = sys.unraisablehook
    if getattr(before, "__name__", "") == "without_orbax":
        return

    def without_orbax(event: Any) -> None:
        coroutine = getattr(event.object, "cr_code", None)
        of_orbax = coroutine is not None and "orbax" in coroutine.co_filename
        if not of_orbax and str(event.exc_value) != "Event loop is closed":
            before(event)

    sys.unraisablehook = without_orbax


def _require_room(folder: Path, size: int) -> None:
    """Raises an OSError, in the system's words, where there is no room for `size` bytes."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".room.tmp"
    try:
        with open(probe, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    finally:
        probe.unlink(missing_ok=True)


def _leaves(tree: Any) -> dict[str, Any]:
    """Every leaf by its dotted path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _by_path(state: Any) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf) for path, leaf in _leaves(state).items()}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
