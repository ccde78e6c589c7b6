"""The history as TensorBoard scalars by epoch, in one event file: `tensorboard --logdir DIR`.

The scalars are a copy of `history.jsonl`. A resumed run writes the file anew from the history that
it takes up, so that no epoch is there twice.
"""

import time
from pathlib import Path
from typing import Any

from jaxmodels.shared.files import could_not_write

Row = dict[str, Any]


def tags(row: Row) -> dict[str, str]:
    """The tag of each column that is drawn: "train/loss" for "train_loss"."""
    return {
        name: name.replace("_", "/", 1) if name.startswith(("train_", "validation_")) else name
        for name in row
        if name.startswith(("train_", "validation_")) or name.endswith(("_rate", "_per_second"))
    }


class Scalars:
    """`folder` holds one event file, flushed after each epoch."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.writer: Any = None

    def restart(self, rows: list[Row]) -> None:
        """Replaces what the folder holds by the scalars of `rows`."""
        # Imported late: tensorboardX brings torch along where that is installed.
        try:
            from tensorboardX.event_file_writer import EventsWriter
        except ModuleNotFoundError as error:
            raise ValueError(
                f"TensorBoard's scalars need {error.name}, which is not installed; "
                "run: pip install 'jaxmodels[report]'"
            ) from None
        self.close()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for old in self.folder.glob("events.out.tfevents.*"):
                old.unlink()
            # Not SummaryWriter: its thread would print a traceback when the disk is full.
            self.writer = EventsWriter(str(self.folder / "events"))
        except OSError as error:
            raise could_not_write(self.folder, error) from error
        for row in rows:
            self.append(row)

    def append(self, row: Row) -> None:
        """Adds an epoch's scalars; a None (no validation split) is left out."""
        if self.writer is None:
            return
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.summary import scalar

        try:
            for name, tag in tags(row).items():
                if row[name] is not None:
                    summary = scalar(tag, row[name])
                    event = Event(wall_time=time.time(), step=row["epoch"], summary=summary)
                    self.writer.write_event(event)
            self.writer.flush()
        except OSError as error:
            raise could_not_write(self.folder, error) from error

    def close(self) -> None:
        writer, self.writer = self.writer, None
        if writer is not None:
            writer.close()
