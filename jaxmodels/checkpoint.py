"""Training checkpoints of the Flax engine through orbax, with our own checksums.

orbax writes each checkpoint to a temporary folder while the training goes on, and renames it, so a
killed save leaves those before. It restores a flipped byte and casts a wrong dtype without a word,
hence the checksums.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxmodels.checksums import checksums
from jaxmodels.shared.checksums import (
    Position,
    check_record,
    check_tensors,
    choose_step,
    damaged,
    seal,
)
from jaxmodels.shared.files import could_not_write

logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs saves and tracebacks

_DESCRIPTIONS = 1 << 20  # bytes that orbax's many small files may take


class Checkpoints:
    """The newest checkpoints in `folder/NAME/STEP`: `keep` of the name "last", one of another."""

    def __init__(self, folder: Path, *, keep: int = 1):
        self.folder = folder.absolute()
        self.keep = keep
        self.managers: dict[str, ocp.CheckpointManager] = {}

    def save(self, name: str, state: Any, position: Position) -> None:
        """Begins to write the state and its position; the name's oldest checkpoint goes at its end.

        The state may be donated as soon as this returns: it has been copied to the host.

        Raises:
            OSError: it could not be written, or the one that was begun before; all that were
                finished are kept.
        """
        if jax.process_count() > 1:  # the barriers of all of orbax's managers have the same names
            self.finish()
        manager = self._manager(name)
        with self._writing(name):
            manager.wait_until_finished()
            if position["step"] in manager.all_steps():
                return  # a resumed run reached this step again, with the same bits
            tensors = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
            _require_room(self.folder, tensors + _DESCRIPTIONS)
            items = ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                record=ocp.args.JsonSave(seal(position, _leaves(state), checksums)),
            )
            manager.save(position["step"], args=items)

    def finish(self) -> None:
        """Waits until what was begun is on the disk.

        Raises:
            OSError: it could not be written.
        """
        for name, manager in self.managers.items():
            with self._writing(name):
                manager.wait_until_finished()

    def restore(self, name: str, like: Any, step: int | None = None) -> tuple[Any, Position]:
        """The newest checkpoint's state, or that of `step`, and its position.

        It comes in the structure of `like` and is laid over devices as that is, however it was when
        it was saved. Those of later steps are removed.

        Raises:
            ValueError: there is none, it is of another model, or it does not read back as it was
                written.
        """
        self.finish()
        manager = self._manager(name)
        step, before = choose_step(self.folder / name, manager.all_steps(), step)
        where = str(self.folder / name / str(step))
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        # The record first: orbax would cast a wrong dtype, and explain a wrong tree at length.
        record = _read(manager, step, where, before, record=ocp.args.JsonRestore())
        check_record(record, _leaves(abstract), where=where, before=before)
        state = _read(manager, step, where, before, state=ocp.args.StandardRestore(abstract))
        position = check_tensors(record, _leaves(state), checksums, where=where, before=before)
        for later in [other for other in manager.all_steps() if other > step]:
            manager.delete(later)  # the resumed training makes it again
        return state, position

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # tensorstore raises its own kinds
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it tells of every other task
            raise could_not_write(self.folder / name, error) from error

    def _manager(self, name: str) -> ocp.CheckpointManager:
        _quiet_after_failures()
        if name not in self.managers:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=self.keep if name == "last" else 1,
                cleanup_tmp_directories=True,  # what a killed save left behind
            )
            self.managers[name] = ocp.CheckpointManager(self.folder / name, options=options)
        return self.managers[name]


def _read(
    manager: ocp.CheckpointManager, step: int, where: str, before: int | None, **item: Any
) -> Any:
    """One item of a checkpoint."""
    try:
        (found,) = manager.restore(step, args=ocp.args.Composite(**item)).values()
    except Exception as error:  # orbax, tensorstore and json each have their own
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise damaged(where, error, before) from error
    return found


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
