"""A plan for people: the same tables on the terminal and in Markdown; and as JSON.

>>> print(as_text(plan_tables(facts, estimate, topology)))
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from jaxmodels.pod_plan.program import Facts
from jaxmodels.pod_plan.roofline import Estimate
from jaxmodels.pod_plan.search import Found
from jaxmodels.pod_plan.topology import Topology
from jaxmodels.shared.files import replaced, write_json

GIB = 2**30


@dataclass(frozen=True)
class Table:
    title: str
    rows: Sequence[Sequence[str]]
    note: str = ""


def plan_tables(facts: Facts, estimate: Estimate, topology: Topology) -> list[Table]:
    chip, devices = topology.chip, prod(facts.mesh.values())
    mesh = ",".join(f"{axis}={size}" for axis, size in facts.mesh.items())
    rows = f"{facts.batch_size:,} rows"
    if facts.tokens_per_row:
        rows += f" of {facts.tokens_per_row:,} tokens"
    summary = [
        ("program", f"{facts.task}, {facts.num_parameters:,} parameters, {facts.precision}"),
        ("slice", f"{facts.topology}: {devices} chips, mesh {mesh}"),
        ("batch", f"{rows}, {facts.batch_size / devices:g} rows a chip"),
        ("step", f"{duration(estimate.step_seconds)} at least, bound by {estimate.bound}"),
        (
            "without overlap",
            f"{duration(estimate.without_overlap)}: the interconnect after the rest",
        ),
        ("samples/s", f"{estimate.samples_per_second:,.0f} at most"),
        *(
            [("tokens/s", f"{estimate.tokens_per_second:,.0f} at most")]
            if facts.tokens_per_row
            else []
        ),
        (
            "MFU",
            f"{estimate.mfu:.1%} at most, {estimate.mfu_without_overlap:.1%} without overlap",
        ),
    ]
    return [
        Table("Plan", summary),
        Table("Memory of a chip", _memory(facts, chip.usable_hbm)),
        Table(
            "Time of a step",
            [
                ("term", "time", "of", "at"),
                (
                    "arithmetic",
                    duration(estimate.arithmetic_seconds),
                    amount(facts.program_flops / devices, "FLOP"),
                    f"{chip.peak_flops / 1e12:g} TFLOP/s, bfloat16",
                ),
                (
                    "HBM",
                    duration(estimate.hbm_seconds),
                    amount(facts.traffic_bytes, "B"),
                    f"{chip.hbm_bandwidth / 1e9:g} GB/s",
                ),
                (
                    "interconnect",
                    duration(estimate.interconnect_seconds),
                    amount(sum(c.bytes * c.times for c in facts.collectives), "B"),
                    f"{chip.link_bandwidth / 1e9:g} GB/s a link and way, {_sides(topology)}",
                ),
                (
                    "kernels",
                    duration(estimate.kernel_seconds),
                    f"{facts.cycles:,} cycles, {facts.kernels:,} kernels",
                    f"{chip.clock / 1e9:g} GHz",
                ),
            ],
            f"Rates of one chip: {chip.source}; the clock, and cycles by kernel, are the "
            "compiler's. The longest is the step if all overlap. Latencies, hosts and input are "
            f"not in it. For the MFU {amount(facts.model_flops / devices, 'FLOP')} count: what is "
            "computed again in the backward pass does not.",
        ),
        Table("Collectives of a step", _collectives(facts)),
    ]


def _memory(facts: Facts, usable: int) -> list[tuple[str, ...]]:
    parts = {
        "parameters": facts.parameter_bytes,
        "optimizer": facts.optimizer_bytes,
        "activations (temporary)": facts.temporary_bytes,
        "batch, statistics, metrics": facts.other_bytes,
        "code": facts.code_bytes,
        "sum": facts.total_bytes,
    }
    rows = [("what", "bytes", "of HBM")]
    rows += [(name, amount(b, "B"), f"{b / usable:.2%}") for name, b in parts.items()]
    return [*rows, ("HBM that a program can use", f"{usable / GIB:.2f} GiB", "")]


def _collectives(facts: Facts) -> list[tuple[str, ...]]:
    found: dict[tuple[str, tuple[str, ...]], Counter[str]] = {}
    for one in facts.collectives:
        sums = found.setdefault((one.kind, one.axes), Counter())
        sums["times"] += one.times
        sums["bytes"] += one.times * one.bytes
    rows = [("kind", "axes", "times", "bytes of a chip")]
    rows += [
        (kind, ",".join(axes), f"{sums['times']:,}", amount(sums["bytes"], "B"))
        for (kind, axes), sums in sorted(found.items(), key=lambda item: -item[1]["bytes"])
    ]
    return rows if found else [("none", "", "", "")]


def as_text(tables: Sequence[Table]) -> str:
    parts = []
    for table in tables:
        widths = [max(map(len, column)) for column in zip(*table.rows, strict=True)]
        lines = [
            "  "
            + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in table.rows
        ]
        note = [f"  {line}" for line in _wrapped(table.note)]
        parts.append("\n".join([table.title, *lines, *note]))
    return "\n\n".join(parts)


def as_markdown(tables: Sequence[Table]) -> str:
    parts = []
    for table in tables:
        head, *rows = table.rows
        if table.title == "Plan":
            head, rows = ("", ""), table.rows
        parts.append(f"## {table.title}\n\n" + markdown_table([head, *rows]))
        if table.note:
            parts.append("\n".join(_wrapped(table.note)) + "\n")
    return "\n".join(parts)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def search_table(found: Found) -> Table:
    """What was compiled: those that fit by samples/s, then those that do not."""
    rows = [("mesh, batch", "samples/s", "MFU", "GiB a chip", "bound by")]
    for result in found.ranked:
        estimated = result.estimate
        rows.append(
            (
                str(result.candidate),
                f"{estimated.samples_per_second:,.0f}",
                f"{estimated.mfu:.1%}",
                f"{result.facts.total_bytes / GIB:.2f}",
                estimated.bound,
            )
        )
    rows += [(str(candidate), "-", "-", why, "-") for candidate, why in found.refused]
    note = (
        f"{len(rows) - 1} compiled of {found.considered:,} that divide evenly, of which "
        f"{found.pruned:,} cannot fit by their state alone; the others promised less."
    )
    return Table("Search", rows, note)


def write_plan(
    folder: Path,
    facts: Facts,
    estimate: Estimate,
    topology: Topology,
    found: Found | None = None,
) -> None:
    """plan.json and plan.md; of a search both tell of the best, and plan.md of all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "plan.json", plan_content(facts, estimate, topology))
    title = f"# {facts.task} on {facts.topology}\n\n"
    tables = plan_tables(facts, estimate, topology)
    tables += [search_table(found)] if found else []
    with replaced(folder / "plan.md") as temporary:
        temporary.write_text(title + as_markdown(tables), encoding="utf-8")


def plan_content(facts: Facts, estimate: Estimate, topology: Topology) -> dict[str, Any]:
    derived = {
        name: getattr(estimate, name)
        for name in ("step_seconds", "on_chip_seconds", "without_overlap")
    }
    content = {
        "facts": facts.to_json(),
        "estimate": asdict(estimate) | derived,
        "chip": asdict(topology.chip),
    }
    return json.loads(json.dumps(content))  # tuples as lists, as they are read again


def _sides(topology: Topology) -> str:
    names = ["ring" if topology.links(n) == 2 else "line" for n in range(len(topology.sides))]
    return " x ".join(f"{kind} of {s}" for kind, s in zip(names, topology.sides, strict=True))


def duration(seconds: float) -> str:
    """ "1.5 ms": three digits and the unit that suits."""
    unit, size = next(
        (pair for pair in (("s", 1.0), ("ms", 1e-3)) if seconds >= pair[1]), ("us", 1e-6)
    )
    return f"{seconds / size:.3g} {unit}"


def amount(number: float, unit: str) -> str:
    """ "1.5 MB": three digits and a decimal prefix, for bytes, FLOPs, and samples a second."""
    prefix, size = next(
        (pair for pair in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)) if number >= pair[1]),
        ("", 1.0),
    )
    digits = 0 if number / size >= 100 else 1 if number / size >= 10 else 2
    return f"{number / size:.{digits}f} {prefix}{unit}"


def _wrapped(text: str, width: int = 96) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + len(word) >= width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return [*lines, line] if line else lines
