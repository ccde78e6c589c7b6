"""Times the training step of both frameworks, in turn: python scripts/benchmark.py [TASK ...]

Each round times every contender once on the same batch, so that a machine whose speed drifts slows
all alike; the medians over the rounds and their ratio to Flax's are printed and written as JSON.

With --engines, trains each task on each engine instead, in a process of its own, and makes one
table of final metrics, seconds a step and peak memory. Runs that --out has are not repeated.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxmodels import ops
from jaxmodels.engine import FlaxEngine
from jaxmodels.shared.command_line import add_settings_flag, find_task, run_script, with_settings
from jaxmodels.shared.data.batches import Batch
from jaxmodels.shared.experiments.engine_table import (
    ENGINES,
    MARKS,
    engine_table,
    train_apart,
)
from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.files import place_between, replaced, write_json
from jaxmodels.shared.tasks import TASKS, Task
from parity_tests.pairs import stored_channels_first
from parity_tests.report import environment
from torchref.engines.plain import TorchEngine

CONTENDERS = ("torch", "channels_last", "compile")
WARM_UP = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="default: all")
    parser.add_argument(
        "--against", default=",".join(CONTENDERS), help=f"of {','.join(CONTENDERS)} [default: all]"
    )
    parser.add_argument("--repeat", type=int, default=7, help="rounds [default: 7]")
    parser.add_argument(
        "--ops", action="store_true", help="time the ops' gradients against XLA's own instead"
    )
    parser.add_argument("--engines", help=f"all, or some of {','.join(ENGINES)}: the table of runs")
    parser.add_argument("--source", default="sample", help="of those runs [default: sample]")
    add_settings_flag(parser, "a setting of those runs, such as training.epochs=2")
    parser.add_argument(
        "--xla-python",
        default=".venv-xla/bin/python",
        metavar="PYTHON",
        help="of the environment that has torch-xla [default: .venv-xla/bin/python]",
    )
    parser.add_argument(
        "--readme", type=Path, metavar="FILE", help="put the table between its marks"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    arguments = parser.parse_args()
    tasks = [find_task(name) for name in arguments.tasks] or list(TASKS.values())
    if arguments.engines:
        tasks = [with_settings(task, arguments.settings, flag="--set") for task in tasks]
        engines = choose_engines(arguments.engines, arguments.xla_python)
        compare_engines(tasks, engines, arguments.source, arguments.out, arguments.readme)
        return
    if arguments.settings or arguments.readme:
        raise ValueError("--set and --readme belong to --engines; add --engines all")
    against = arguments.against.split(",")
    if unknown := set(against) - set(CONTENDERS):
        raise ValueError(f"--against {unknown.pop()!r} is unknown; expected some of {CONTENDERS}")
    if arguments.repeat < 1:
        raise ValueError(f"--repeat {arguments.repeat} must be at least 1")

    if arguments.ops:
        rows = time_ops(arguments.repeat)
        print_ops(rows)
    else:
        rows = [row for task in tasks for row in time_task(task, against, arguments.repeat)]
        print_table(rows)
    arguments.out.mkdir(parents=True, exist_ok=True)
    content = {"environment": environment(), "cores": os.cpu_count(), "rows": rows}
    write_json(arguments.out / "benchmark.json", content)
    print(f"written: {arguments.out / 'benchmark.json'}")


def choose_engines(names: str, xla_python: str) -> dict[str, str]:
    """The Python of each engine; of "all", those that are installed."""
    chosen = ENGINES if names == "all" else tuple(names.split(","))
    if unknown := set(chosen) - set(ENGINES):
        raise ValueError(
            f"--engines {unknown.pop()!r} is unknown; expected all or some of {ENGINES}"
        )
    pythons = dict.fromkeys(chosen, sys.executable)
    if "xla" in chosen and not find_spec("torch_xla"):
        pythons["xla"] = xla_python
        if not Path(xla_python).exists():
            if names != "all":
                raise ValueError(
                    f"--xla-python {xla_python} does not exist; make test-xla builds it"
                )
            print(f"without xla: {xla_python} does not exist; make test-xla builds it")
            del pythons["xla"]
    return pythons


def compare_engines(
    tasks: list[Task], engines: dict[str, str], source: str, out: Path, readme: Path | None
) -> None:
    """Trains, prints a line a run, and writes engines.json, engines.md and the page's table."""
    rows = []
    for task in tasks:
        for engine, python in engines.items():
            rows.append(train_apart(task, engine, source, out, python=python))
            row = rows[-1]
            print(f"{row.task} on {row.engine}: {row.metric} {row.value:.4f}", flush=True)
    table = engine_table(rows)
    print(table, end="")
    content = {"environment": environment(), "cores": os.cpu_count(), "source": source}
    write_json(out / "engines.json", content | {"rows": [asdict(row) for row in rows]})
    with replaced(out / "engines.md") as temporary:
        temporary.write_text(table, encoding="utf-8")
    if readme:
        place_between(readme, MARKS, table)
    print(f"written: {out / 'engines.md'}" + (f", {readme}" if readme else ""))


def time_task(task: Task, against: list[str], repeat: int) -> list[dict[str, object]]:
    """One row a contender: median, fastest and slowest seconds a step, and the ratio to Flax's."""
    family = family_of(task)
    batch = next(family.training_batches(task, family.load("sample", task)))
    seconds = interleave(
        {name: make_step(task, name, batch) for name in ("flax", *against)}, repeat
    )
    flax = statistics.median(seconds["flax"])
    return [
        {
            "task": task.name,
            "contender": name,
            "batch_size": task.training.batch_size,
            "median_seconds": statistics.median(values),
            "fastest_seconds": min(values),
            "slowest_seconds": max(values),
            "steps_per_second": 1 / statistics.median(values),
            "ratio_to_flax": statistics.median(values) / flax,
        }
        for name, values in seconds.items()
    ]


def interleave(steps: dict[str, Callable[[], object]], repeat: int) -> dict[str, list[float]]:
    """Seconds of each step in each round, after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    for _ in range(repeat):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def time_ops(repeat: int) -> list[dict[str, Any]]:
    """One row an op and shape: median seconds, forward and backward, beside XLA's own gradient."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    rows: list[dict[str, Any]] = []
    for channels, size in ((16, 32), (32, 16), (64, 8)):  # the stages of ResNet-20
        x, vector = draw(128, size, size, channels), draw(channels)
        kernel = draw(3, 3, channels, channels)
        for name, operands, options in (
            ("conv2d", (x, kernel), {"padding": (1, 1)}),
            ("max_pool", (x,), {}),
            ("batch_norm", (x, vector, vector), {"epsilon": 1e-5}),
        ):
            contenders = {"ours": getattr(ops, name), "plain": getattr(ops, f"plain_{name}")}
            steps = {
                key: make_gradient(partial(function, **options), operands)
                for key, function in contenders.items()
            }
            seconds = interleave(steps, repeat)
            medians = {key: statistics.median(values) for key, values in seconds.items()}
            rows.append({"op": name, "shape": x.shape} | medians)
    return rows


def make_gradient(
    function: Callable[..., Any], operands: tuple[jax.Array, ...]
) -> Callable[[], object]:
    """A function that runs the forward and the backward pass and waits for the gradients."""

    def loss(operands: tuple[jax.Array, ...]) -> jax.Array:
        y = jax.tree.leaves(function(*operands))[0]
        return (y * y).sum()

    run = jax.jit(jax.grad(loss))
    return lambda: jax.block_until_ready(run(operands))


def print_ops(rows: list[dict[str, Any]]) -> None:
    table = Table("op", "x", "ms, ours", "ms, XLA's gradient", "ratio")
    for row in rows:
        ours, plain = row["ours"], row["plain"]
        shape = "x".join(map(str, row["shape"]))
        table.add_row(
            row["op"], shape, f"{1e3 * ours:.1f}", f"{1e3 * plain:.1f}", f"{plain / ours:.2f}x"
        )
    Console().print(table)


def make_step(task: Task, name: str, batch: Batch) -> Callable[[], float]:
    """A function that runs one whole training step and waits for its loss."""
    engine = FlaxEngine(task, Path()) if name == "flax" else TorchEngine(task, Path())
    if name == "torch":  # stored channels first beneath the NHWC shape: torch's contiguous format
        batch = {key: stored_channels_first(value) for key, value in batch.items()}
    elif name == "compile" and isinstance(engine, TorchEngine):
        engine.model.compile()
    return lambda: float(engine.train_step(batch, step=0, rate=1e-4)["loss"])


def print_table(rows: list[dict[str, object]]) -> None:
    table = Table("task", "contender", "ms a step", "fastest", "slowest", "steps/s", "over Flax")
    for row in rows:
        times = [1e3 * row[f"{key}_seconds"] for key in ("median", "fastest", "slowest")]  # type: ignore[operator]
        table.add_row(
            str(row["task"]),
            str(row["contender"]),
            *(f"{value:.1f}" for value in times),
            f"{row['steps_per_second']:.2f}",
            f"{row['ratio_to_flax']:.2f}x",
        )
    console = Console()
    console.width = max(console.width, 100)  # a pipe's 80 columns would cut the names
    console.print(table)


if __name__ == "__main__":
    run_script(main)
