"""Finished runs side by side: one Markdown table of what they cost and what they reached.

>>> print(run_table([Path("runs/full"), Path("runs/lora")]))
| run | task | engine | LoRA rank | parameters | trainable | epochs | minutes | peak memory | ...
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxmodels.shared import run as runs
from jaxmodels.shared.files import read_json

_TIMES = ("_seconds", "_per_second")  # how such a number of metrics.json, no measure, ends


def run_table(folders: Sequence[Path]) -> str:
    """A line a run: its cost, and every measure that all the runs have.

    The validation's are of the epoch whose weights were kept, as history.jsonl has them.

    Raises:
        ValueError: a folder holds no finished run.
    """
    rows = [_read(Path(folder)) for folder in folders]
    shared = [name for name in rows[0][1] if all(name in measures for _, measures in rows)]
    header = [*rows[0][0], *(name.replace("_", " ") for name in shared)]
    lines = [
        header,
        ["---"] * 3 + ["---:"] * (len(header) - 3),
        *([*cells.values(), *(f"{m[name]:.4f}" for name in shared)] for cells, m in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _read(folder: Path) -> tuple[dict[str, str], dict[str, float]]:
    """(the cells of what the run is and cost, its measures by name)."""
    path = folder / "metrics.json"
    run, metrics = runs.load(folder), read_json(path)
    if not isinstance(metrics, dict) or "training_seconds" not in metrics:
        raise ValueError(f"{path} is not what train.py writes at the end of a run; finish it")
    peak = metrics.get("peak_memory_bytes")
    cells = {
        "run": folder.name,
        "task": run.task.name,
        "engine": run.engine,
        "LoRA rank": str(run.task.lora.rank or "-"),
        "parameters": _count(metrics.get("parameters")),
        "trainable": _count(metrics.get("trainable_parameters")),
        "epochs": str(metrics["epochs"]),
        "minutes": f"{metrics['training_seconds'] / 60:.1f}",
        "peak memory": f"{peak / 2**20:,.0f} MiB" if peak else "-",
    }
    measures = _validation(folder, kept_best=bool(run.task.training.early_stopping_patience))
    measures |= {
        name: value
        for name, value in metrics.items()
        if isinstance(value, float) and not name.endswith(_TIMES)  # whole numbers are counts
    }
    return cells, measures


def _validation(folder: Path, *, kept_best: bool) -> dict[str, float]:
    """What the validation split said of the final weights; {} without one."""
    path = folder / "history.jsonl"
    try:
        rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
        scored = [row for row in rows if row["validation_loss"] is not None]
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read ({error}); restore it from a copy") from None
    if not scored:
        return {}
    row = min(scored, key=lambda row: row["validation_loss"]) if kept_best else scored[-1]
    return {name: row[name] for name in row if name.startswith("validation_")}


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
