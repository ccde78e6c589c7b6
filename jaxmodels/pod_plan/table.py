"""Every task on several slices: one Markdown table, from plans that are kept as files.

>>> make_cells(TASKS, SLICES, Path("runs/pod_plan"))  # hours; what is there is not made again
>>> print(markdown(TASKS, SLICES, Path("runs/pod_plan")))
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxmodels.pod_plan.program import Facts, batch_shapes, compile_step
from jaxmodels.pod_plan.report import amount, duration, markdown_table
from jaxmodels.pod_plan.roofline import estimate
from jaxmodels.pod_plan.topology import find_topology
from jaxmodels.shared.files import read_json, write_json
from jaxmodels.shared.tasks import TASKS

# By Google Cloud's names; v5p counts cores, of which a chip has two.
SLICES = {
    "v5e-1": "v5e:1x1",
    "v5e-16": "v5e:4x4",
    "v5e-256": "v5e:16x16",
    "v5p-64": "v5p:2x4x4",
    "v6e-256": "v6e:16x16",
}


def make_cells(
    tasks: Iterable[str],
    folder: Path,
    report: Callable[[str], None],
) -> None:
    """Compiles what the folder does not hold yet: each task at its own batch on every chip."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in tasks:
        shapes = None
        for slice_name, topology_name in SLICES.items():
            path = cell_path(folder, name, slice_name)
            if path.exists():
                continue
            topology, task = find_topology(topology_name), TASKS[name]
            chips, rows = len(topology.devices), task.training.batch_size
            shapes = batch_shapes(task) if shapes is None else shapes
            batch = {
                entry: type(shape)((rows * chips, *shape.shape[1:]), shape.dtype)
                for entry, shape in shapes.items()
            }
            larger = replace(task, training=replace(task.training, batch_size=rows * chips))
            try:
                facts = compile_step(larger, topology, {"data": chips}, batch=batch)
            except Exception as error:  # the table says which, and why
                write_json(path, {"error": str(error).partition("\n")[0]})
                report(f"{name} on {slice_name}: {error}")
                continue
            write_json(path, facts.to_json())
            report(f"{name} on {slice_name}: {facts.compile_seconds:.0f} s to compile")


def cell_path(folder: Path, task: str, slice_name: str) -> Path:
    return folder / f"{task}@{slice_name}.json"


def markdown(folder: Path) -> str:
    """A row a task, a column a slice; what has no figure says why."""
    rows = [["task", "rows a chip", *SLICES]]
    for name, task in TASKS.items():
        cells = [_cell(cell_path(folder, name, slice_name)) for slice_name in SLICES]
        rows.append([f"`{name}`", f"{task.training.batch_size:,}", *cells])
    return markdown_table(rows)


def _cell(path: Path) -> str:
    if not path.exists():
        return "not compiled yet"
    content: Any = read_json(path)
    if "error" in content:
        return content["error"]
    facts = Facts.from_json(content)
    topology = find_topology(facts.topology)
    estimated = estimate(facts, topology)
    share = facts.total_bytes / topology.chip.usable_hbm
    return (
        f"{amount(estimated.samples_per_second, '/s')}, {duration(estimated.step_seconds)}, "
        f"{estimated.bound}, "
        f"MFU {estimated.mfu:.1%}, {share:.1%} of HBM"
    )
