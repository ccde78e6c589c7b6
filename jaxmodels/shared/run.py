"""A run on disk: what was asked for, its history, its results; the same for every engine.

DIR/run.json           task, engine, source
    normalisation.json  or vocabulary.json, tokenizer.json, ...: fitted on the training split, which
                   a resumed run must give again
    history.jsonl      a line an epoch
    checkpoints/       to resume from, in the engine's own format
    model.safetensors  final weights, with config.json: any engine loads them
    adapter_model.safetensors  of a run with adapters, with adapter_config.json: as peft has them
    before/        of some fine-tuned models: what the checkpoint did, as of a finished run
    metrics.json plots/ tensorboard/, and what the family adds: predictions.csv, samples.txt, ...
"""

import dataclasses
import json
import shutil
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.shared import configs
from jaxmodels.shared.checksums import saved_steps
from jaxmodels.shared.files import read_json, replaced, write_json
from jaxmodels.shared.processes import this_process
from jaxmodels.shared.tasks import DataConfig, Task
from jaxmodels.shared.tensorboard import Row, Scalars

# No loss here begins anywhere near: a training that reaches it is on its way to infinity.
_DIVERGED = 1e12


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN, or grew out of all bounds; the message names the step and the batch."""


@dataclass(frozen=True)
class Run:
    """What identifies a run: the resolved task, the engine, and where its data come from."""

    task: Task
    engine: str
    source: str


def start(folder: Path, run: Run, *, resume: bool, fitted: Mapping[str, str] | None = None) -> None:
    """Claims the folder for this run, or checks that a resumed run is the same one.

    `fitted` are the files (name -> content) of what was fitted on the training split.

    Raises:
        ValueError: the folder holds a run and `resume` is off, holds none and it is on, or holds
            another one; the fields that differ are listed.
    """
    path = folder / "run.json"
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file; expected a folder, which need not exist yet")
    if resume and not path.exists():
        raise ValueError(
            f"--resume: {folder} holds no run (run.json is missing); give the run's folder as "
            "--out, or start one without --resume"
        )
    if resume:
        changed = changed_fields(read_json(path), to_json(run))
        if changed:
            raise ValueError(
                f"--resume: {folder} was started otherwise; repeat its settings or choose another "
                "--out. Changed:\n  " + listed(changed)
            )
        for name, content in (fitted or {}).items():
            file = folder / name
            if not file.exists() or file.read_text(encoding="utf-8") != content:
                raise ValueError(
                    f"--resume: {file} is not what --source {run.source} gives today: the data "
                    "have changed, or the file has; restore them, or choose another --out"
                )
        for leftover in folder.rglob(".*.tmp"):  # of a process that was killed while it wrote
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    elif path.exists():
        raise ValueError(f"{folder} already holds a run; add --resume or choose another --out")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (fitted or {}).items():
            with replaced(folder / name) as temporary:
                temporary.write_text(content, encoding="utf-8")
        write_json(path, to_json(run))


def is_run(folder: Path) -> bool:
    """Whether a training has claimed the folder."""
    return (folder / "run.json").exists()


def has_begun(folder: Path) -> bool:
    """Whether a run has something to resume: a checkpoint, or a finished epoch, which had one."""
    checkpoints, history = folder / "checkpoints", folder / "history.jsonl"
    return bool(
        saved_steps(checkpoints / "last")
        or (checkpoints / "last.ckpt").exists()  # Lightning's
        or (history.exists() and history.stat().st_size)
    )


def load(folder: Path) -> Run:
    """Reads `run.json` back; malformed content is a ValueError that names the file."""
    path = Path(folder) / "run.json"
    content = read_json(path)
    try:
        return _build(Run, content, "run")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


@dataclass
class Recorder:
    """Keeps the history and decides what an epoch's end means: best so far, or time to stop.

    Of several processes only the main one writes it.
    """

    folder: Path
    patience: int
    rows: list[Row] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.scalars = Scalars(self.folder / "tensorboard")
        self.writes = this_process().is_main

    @property
    def best(self) -> Row | None:
        """The epoch with the lowest validation loss; None without a validation split."""
        scored = [row for row in self.rows if row["validation_loss"] is not None]
        return min(scored, key=lambda row: row["validation_loss"], default=None)

    @property
    def improved(self) -> bool:
        """Whether the last epoch is the best."""
        return bool(self.rows) and self.best is self.rows[-1]

    @property
    def should_stop(self) -> bool:
        best = self.best
        return bool(
            self.patience and best and self.rows[-1]["epoch"] - best["epoch"] >= self.patience
        )

    def append(self, row: Row) -> None:
        """Adds an epoch's row, on disk too."""
        self.rows.append(row)
        if self.writes:
            self._write()
            self.scalars.append(row)

    def close(self) -> None:
        """Closes the TensorBoard file."""
        self.scalars.close()

    def rewind(self, epochs: int) -> None:
        """Takes up the history that a checkpoint of `epochs` finished epochs belongs to."""
        path = self.folder / "history.jsonl"
        self.rows = []
        try:
            lines = path.read_text().splitlines() if epochs else []
            self.rows = [json.loads(line) for line in lines[:epochs]]
        except (FileNotFoundError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} cannot be read ({error}); restore it from a copy") from None
        if [row.get("epoch") for row in self.rows] != list(range(1, epochs + 1)):
            raise ValueError(
                f"{path} has {len(lines)} epochs; expected the {epochs} that the checkpoint "
                "finished; restore it from a copy"
            )
        if self.writes:
            self._write()
            self.scalars.restart(self.rows)

    def _write(self) -> None:
        # Rewritten whole: a few hundred short lines, and never a torn last one.
        with replaced(self.folder / "history.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in self.rows))


def check_finite(
    value: float | np.ndarray, step: int, steps_per_epoch: int, rows: list[int]
) -> None:
    """Raises NonFiniteLossError unless the loss of `step`, or the outputs after it, are numbers.

    A loss that is one, but beyond all reason, is refused too.
    """
    if np.isfinite(value).all() and (np.ndim(value) or value < _DIVERGED):
        return
    what = f"the loss is {value} at" if np.ndim(value) == 0 else "the outputs are not finite after"
    raise NonFiniteLossError(
        f"{what} step {step} (epoch {step // steps_per_epoch + 1}, batch "
        f"{step % steps_per_epoch} of {steps_per_epoch}, training rows "
        f"{', '.join(map(str, rows[:8]))}{', ...' if len(rows) > 8 else ''}); checkpoints before "
        "it are kept. Try a lower --optimizer.learning-rate or --optimizer.clip-norm 1 in another "
        "--out"
    )


def to_json(run: Run) -> dict[str, Any]:
    """The content of `run.json`."""
    return {"task": task_to_json(run.task), "engine": run.engine, "source": run.source}


def task_to_json(task: Task) -> dict[str, Any]:
    """The whole task as JSON."""
    content = dataclasses.asdict(task) | {"model": configs.to_json(task.model)}
    return json.loads(json.dumps(content))


def changed_fields(before: Any, now: Any) -> dict[str, tuple[Any, Any]]:
    """What differs between two JSON objects: "training.epochs" -> (3, 5); None where it lacks."""
    old, new = flattened(before), flattened(now)
    return {
        name: (old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    }


def listed(changed: dict[str, tuple[Any, Any]]) -> str:
    """A line for each of the changed fields."""
    return "\n  ".join(f"{name}: {old} -> {new}" for name, (old, new) in changed.items())


def _build(kind: Any, value: Any, label: str) -> Any:
    """Fills dataclasses from parsed JSON by their annotations, strictly."""
    if kind == configs.ModelConfig:
        return configs.from_json(value)
    if kind == DataConfig:
        return _build(_data_config(value, label), value, label)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if not isinstance(value, dict) or value.keys() != hints.keys():
            raise ValueError(f"{label}: expected the fields {sorted(hints)}")
        return kind(**{key: _build(hints[key], value[key], f"{label}.{key}") for key in hints})
    origin = typing.get_origin(kind)
    if origin is tuple and isinstance(value, list):
        inner = typing.get_args(kind)[0]
        return tuple(_build(inner, item, label) for item in value)
    if origin is typing.Literal and value in typing.get_args(kind):
        return value
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    raise ValueError(f"{label}: {value!r} is not of type {kind}")


def _data_config(value: Any, label: str) -> type:
    """Which data config a JSON object is, by its data set."""
    dataset = value.get("dataset") if isinstance(value, dict) else None
    known = {kind.dataset: kind for kind in typing.get_args(DataConfig)}
    if dataset not in known:
        raise ValueError(f"{label}.dataset {dataset!r} is unknown; expected one of {sorted(known)}")
    return known[dataset]


def flattened(content: Any, prefix: str = "") -> dict[str, Any]:
    """The values of a JSON object, each by its dotted path."""
    if not isinstance(content, dict):
        return {prefix: content}
    return {
        key: value
        for name, item in content.items()
        for key, value in flattened(item, f"{prefix}.{name}".lstrip(".")).items()
    }
