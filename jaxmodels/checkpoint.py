"""Training checkpoints of the Flax engine through orbax, with our own checksums.

orbax writes each checkpoint to a temporary folder and renames it, so a killed save leaves the one
before. It restores a flipped byte and casts a wrong dtype without a word, hence the checksums.
"""

import logging
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxmodels.shared.loop import Position

logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs each save at some length


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
        record = {"position": position, "checksums": checksums(state)}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record)
        )
        try:
            manager.save(position["step"], args=items)
            manager.wait_until_finished()
        except Exception as error:  # tensorstore raises its own kinds, a full disk among them
            reason = str(error).strip().splitlines()[0][:200]
            raise OSError(
                f"checkpoint {self.folder / name} could not be written ({reason}); "
                "free space and continue from the last good one with --resume"
            ) from error

    def restore(self, name: str, like: Any) -> tuple[Any, Position]:
        """The newest checkpoint's state, in the structure of `like`, and its position.

        Raises:
            ValueError: there is none, or it does not read back as it was written.
        """
        manager = self._manager(name)
        step = manager.latest_step()
        if step is None:
            raise ValueError(
                f"{self.folder / name} holds no checkpoint to resume from; start again without "
                "--resume, in another --out"
            )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), record=ocp.args.JsonRestore()
        )
        try:
            restored = manager.restore(step, args=items)
            state, record = restored["state"], restored["record"]
            wrong = damaged(record["checksums"], checksums(state))
        except Exception as error:  # orbax, tensorstore and json each have their own
            reason = str(error).strip().splitlines()[0][:200]
            raise ValueError(f"checkpoint {self.folder / name / str(step)} is damaged: {reason}") from error
        if wrong:
            raise ValueError(
                f"checkpoint {self.folder / name / str(step)} is damaged: {len(wrong)} tensors differ "
                f"from their checksums, the first is {wrong[0]}; restore the folder from a copy"
            )
        return state, record["position"]

    def _manager(self, name: str) -> ocp.CheckpointManager:
        if name not in self.managers:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=1,
                cleanup_tmp_directories=True,  # what a killed save left behind
                enable_async_checkpointing=False,  # a failed save must stop the run there
            )
            self.managers[name] = ocp.CheckpointManager(self.folder / name, options=options)
        return self.managers[name]


def checksums(state: Any) -> dict[str, str]:
    """Each leaf's dtype, shape and CRC-32, by its path."""
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype}{leaf.shape}{zlib.crc32(np.asarray(leaf).tobytes())}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def damaged(written: dict[str, str], found: dict[str, str]) -> list[str]:
    """The paths whose checksums differ."""
    return sorted(k for k in written.keys() | found.keys() if written.get(k) != found.get(k))
