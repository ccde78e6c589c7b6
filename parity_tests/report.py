"""The report of one run of the ladder: `report.html`, `report.json`, and the matrix in a terminal.

The page is one file that fetches nothing: the figures are SVG that the template draws itself from
the axes made here, so that they follow the reader's light or dark theme.

    path = write_report(report, Path("runs/parity"))
    print_matrix(report, Console())
"""

import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from parity_tests.results import Accuracies, AuditRow, Curves, Report, Verdict

# These rungs count what differs; "metric" is a fraction, shown in points; "curve" is a ratio.
COUNT_RUNGS = ("weights", "resume", "engines", "text")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "lightning", "accelerate", "numpy")
TERMINAL_WIDTH = 100
TASKS_ABREAST = 5  # columns of the page's matrix; more tasks make another table
MAX_NAMED_FAILURES = 5  # in the headline; all are in the matrix


def write_report(report: Report, folder: Path) -> Path:
    """Writes `report.html` and `report.json` into `folder` and returns the page's path.

    Each file is complete or absent, also after a crash. `report.json` is `[verdict.row(), ...]`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [verdict.row() for verdict in report.verdicts]
    page = render_html(report)
    _write_atomically(folder / "report.json", json.dumps(rows, indent=2, allow_nan=False) + "\n")
    _write_atomically(folder / "report.html", page)
    return folder / "report.html"


def render_html(report: Report) -> str:
    """The whole page as text."""
    try:
        import jinja2
    except ImportError as error:
        raise ImportError("the report needs jinja2: pip install 'jaxmodels[report]'") from error
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,  # a misspelt name fails instead of printing nothing
        trim_blocks=True,
        lstrip_blocks=True,
    )
    anchors = {id(verdict): f"verdict-{i}" for i, verdict in enumerate(report.verdicts)}
    return templates.get_template("report_template.html").render(
        report=report,
        ok=holds(report),
        headline=headline(report),
        tables=matrix(report, tasks_abreast=TASKS_ABREAST),
        tasks=task_names(report),
        rungs=rung_order(report),
        anchor=lambda verdict: anchors[id(verdict)],
        show=format_value,
        show_bound=format_bound,
        show_ratio=format_ratio,
        bar_widths=_bar_widths(report.audit),
        log_axis=log_axis,
        leaf_holds=lambda verdict, leaf: leaf.finite and leaf.value <= verdict.bound,
        curve_chart=curve_chart,
        accuracy_chart=accuracy_chart,
    )


def holds(report: Report) -> bool:
    """A report without any measurement proves nothing."""
    return bool(report.verdicts or report.audit) and report.ok


def headline(report: Report) -> str:
    """The verdict in one sentence: "24 of 24 cells hold."."""
    failing = [verdict for verdict in report.verdicts if not verdict.ok]
    parts = []
    if failing:
        names = [f"{v.task} {v.rung} {v.dtype}" for v in failing[:MAX_NAMED_FAILURES]]
        if len(failing) > len(names):
            names.append(f"and {len(failing) - len(names)} more")
        fail = "fails" if len(failing) == 1 else "fail"
        parts.append(f"{len(failing)} of {len(report.verdicts)} {fail}: {', '.join(names)}")
    elif report.verdicts:
        parts.append(f"{len(report.verdicts)} of {len(report.verdicts)} cells hold")
    if report.audit:
        caught = sum(row.ok for row in report.audit)
        parts.append(
            f"{caught} of {len(report.audit)} injected differences are caught on the expected rung"
        )
    return "; ".join(parts) + "." if parts else "Nothing was measured."


def task_names(report: Report) -> list[str]:
    """Every task with a verdict, curves or accuracies, in order of appearance."""
    results = (*report.verdicts, *report.curves, *report.accuracies)
    return list(dict.fromkeys(result.task for result in results))


def rung_order(report: Report) -> list[str]:
    """The rungs in the order they are claimed, then any other that was measured."""
    measured = (verdict.rung for verdict in report.verdicts)
    return list(dict.fromkeys((*report.rung_claims, *measured)))


@dataclass(frozen=True)
class MatrixRow:
    """One rung in one dtype: for every task its verdicts, usually one, none if unmeasured.

    `blanks` says what stands in a cell without any: "-", or "n/a" where none can be.
    """

    rung: str
    dtype: str
    bounds: str
    cells: tuple[tuple[Verdict, ...], ...]
    blanks: tuple[str, ...]


def matrix(report: Report, *, tasks_abreast: int) -> list[tuple[list[str], list[MatrixRow]]]:
    """The matrix as tables of at most `tasks_abreast` tasks: (tasks, rows).

    They share the tasks evenly: twelve are three tables of four rather than of five, five and two.
    A rung that no task of a table can have is no row of it.
    """
    tasks = task_names(report)
    if tasks:
        tasks_abreast = math.ceil(len(tasks) / math.ceil(len(tasks) / tasks_abreast))
    pairs = [
        (rung, dtype)
        for rung in rung_order(report)
        for dtype in sorted({v.dtype for v in report.verdicts if v.rung == rung}, reverse=True)
    ]
    tables = []
    for start in range(0, len(tasks), tasks_abreast):
        abreast, rows = tasks[start : start + tasks_abreast], []
        for rung, dtype in pairs:
            blanks = tuple("n/a" if (t, rung) in report.inapplicable else "-" for t in abreast)
            if set(blanks) == {"n/a"}:
                continue
            here = [v for v in report.verdicts if (v.rung, v.dtype) == (rung, dtype)]
            bounds = dict.fromkeys(format_bound(v) for v in here if v.task in abreast)
            cells = tuple(tuple(v for v in here if v.task == task) for task in abreast)
            rows.append(MatrixRow(rung, dtype, ", ".join(bounds), cells, blanks))
        tables.append((abreast, rows))
    return tables


def format_value(verdict: Verdict, value: float | None = None) -> str:
    """The verdict's value (or another of the same kind, a leaf's) in its rung's unit."""
    value = verdict.value if value is None else value
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if verdict.rung in COUNT_RUNGS:
        return f"{value:,.0f} differ"
    if verdict.rung == "metric":
        return f"{100 * value:.2f} pp" if verdict.metric == "accuracy" else f"{value:.4f}"
    if verdict.rung == "curve" or verdict.dtype != "float64":
        return format_ratio(value)
    return f"{value:.1e}" if value else "0"


def format_bound(verdict: Verdict) -> str:
    if verdict.rung in COUNT_RUNGS:
        return f"{verdict.bound:,.0f}"
    if verdict.rung == "metric":
        bound = verdict.bound
        return f"{100 * bound:g} pp" if verdict.metric == "accuracy" else f"{bound:g}"
    if verdict.rung == "curve" or verdict.dtype != "float64":
        return f"{verdict.bound:g}x"
    return f"{verdict.bound:.0e}" if verdict.bound else "0"


def format_ratio(value: float) -> str:
    """Two significant digits, scientific outside 0.01 to 1000: "1.3x"."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "inf"
    if value == 0:
        return "0x"
    if not 0.01 <= value < 999.5:
        return f"{value:.1e}x"
    return f"{value:.{max(0, 1 - math.floor(math.log10(value)))}f}x"


def print_matrix(report: Report, console: Console) -> None:
    """The matrix in at most 100 columns, the failures by name beneath it, then the audit."""
    width = min(TERMINAL_WIDTH, console.width)
    tick, cross = ("✓", "✗") if console.encoding.lower().startswith("utf") else ("ok", "FAIL")
    widest = max((len(task) for task in task_names(report)), default=1)
    abreast = max(1, (width - 26) // (max(widest, len("✓ 0.0e-00")) + 1))  # 26: rung, dtype, bound
    for task_block, rows in matrix(report, tasks_abreast=abreast):
        table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
        for name in ("rung", "dtype", "bound", *task_block):
            table.add_column(Text(name), overflow="fold")
        for row in rows:
            cells = []
            for verdicts, blank in zip(row.cells, row.blanks, strict=True):
                cells.append(Text("" if verdicts else blank))
                for number, verdict in enumerate(verdicts):
                    mark, style = (tick, "green") if verdict.ok else (cross, "bold red")
                    line = "\n" if number else ""
                    cells[-1].append(f"{line}{mark} {format_value(verdict)}", style)
            table.add_row(Text(row.rung), Text(row.dtype), Text(row.bounds), *cells)
        console.print(table, width=width)
        console.print()
    for verdict in report.verdicts:
        if not verdict.ok:
            line = Text(f"{cross} {verdict.task} {verdict.rung} {verdict.dtype}: ", "bold red")
            line.append(
                f"{format_value(verdict)}, bound {format_bound(verdict)}", "not bold default"
            )
            details = {
                "worst": verdict.where,
                "first divergence": verdict.first_divergence,
                "note": verdict.note,
            }
            for name, text in details.items():
                line.append(f"\n  {name}: {text}" if text else "", "not bold default")
            console.print(line, width=width, highlight=False, overflow="fold")
    if report.audit:
        _print_audit(report.audit, console, width=width, tick=tick, cross=cross)
    style = "bold green" if holds(report) else "bold red"
    console.print(Text(headline(report), style), width=width, highlight=False, overflow="fold")


def _print_audit(
    audit: Sequence[AuditRow], console: Console, *, width: int, tick: str, cross: str
) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("", "mutation", "pair", "expected", "caught by", "over bound"):
        table.add_column(name, overflow="fold", justify="right" if name == "over bound" else "left")
    for row in audit:
        style = "green" if row.ok else "bold red"
        texts = (row.mutation, row.pair, row.expected_rung, ", ".join(row.caught_by) or "nothing")
        table.add_row(
            Text(tick if row.ok else cross, style),
            *(Text(text) for text in texts),
            Text(format_ratio(row.factor), style),
        )
    console.print(table, width=width)
    console.print()


def environment() -> dict[str, str]:
    """Versions and machine. Reads package metadata only: no framework or device is started."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found | {
        "processor": _processor_name(),
        "cores": str(os.cpu_count() or "unknown"),
        "memory": _memory_size(),
        "system": platform.platform(),
    }


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # Linux; `platform.processor()` is often empty there
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine() or "unknown"


def _memory_size() -> str:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on every system
        return "unknown"
    return f"{size / 2**30:.1f} GiB"


def _write_atomically(path: Path, text: str) -> None:
    """Through a file beside it: a reader never sees half a report."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


@dataclass(frozen=True)
class Axis:
    """From values to pixels; the marks themselves are drawn by the template.

    `start` is the pixel of `low`; low and high are log10 if `log`. A log axis has no zero and no
    axis an infinity, yet both occur (a bit-identical leaf, a NaN): they stand on lanes of their
    own, at `zero` and `infinite`.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    zero: float = 0.0
    infinite: float = 0.0

    def at(self, value: float) -> float:
        if not math.isfinite(value):
            return self.infinite
        if self.log:
            if value <= 0:
                return self.zero
            value = math.log10(value)
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self, count: int = 5) -> list[tuple[float, str]]:
        """(pixel, label) at round values, about `count` of them."""
        span = self.high - self.low
        if self.log:
            step = max(1, math.ceil(span / count))
            exponents = range(math.ceil(self.low), math.floor(self.high) + 1, step)
            return [(self.at(10.0**e), f"{10.0**e:g}") for e in exponents]
        magnitude = 10.0 ** math.floor(math.log10(span / count))
        step = next(magnitude * m for m in (1, 2, 5, 10) if span / (magnitude * m) <= count)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(self.at(i * step), f"{i * step:.6g}") for i in range(first, last + 1)]


def linear_axis(values: Iterable[float], start: float, end: float) -> Axis:
    """Spans the finite values with a little air."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    air = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return Axis(low - air, high + air, start, end, infinite=end)


def log_axis(values: Iterable[float], start: float, end: float, *, lane: float = 14.0) -> Axis:
    """Spans the positive values in whole decades, between a lane for zero and one for infinity."""
    values = list(values)
    exponents = [math.log10(v) for v in values if math.isfinite(v) and v > 0] or [0.0]
    low, high = math.floor(min(exponents)), math.ceil(max(exponents))
    inward = math.copysign(lane, end - start)
    zero_lane = any(value <= 0 for value in values)
    infinite_lane = any(not math.isfinite(value) for value in values)
    return Axis(
        low, max(high, low + 1),
        start + inward * zero_lane, end - inward * infinite_lane,
        log=True, zero=start, infinite=end,
    )  # fmt: skip


def curve_chart(curves: Curves, *, left: float, right: float, top: float, bottom: float) -> dict:
    """Losses by step, and the distance between the frameworks beside torch's spread."""
    runs = (*curves.flax, *curves.torch)
    distance, spread = curves.distance().tolist(), curves.spread().tolist()
    x = linear_axis((0, max(map(len, runs)) or 1), left, right)
    loss = linear_axis((value for run in runs for value in run), bottom, top)
    gap = log_axis((*distance, *spread), bottom, top)
    return {
        "x": x, "loss": loss, "gap": gap,
        "flax": [_line(run, x, loss) for run in curves.flax],
        "torch": [_line(run, x, loss) for run in curves.torch],
        "distance": _line(distance, x, gap),
        "spread": _line(spread, x, gap),
        "largest": float(np.max(distance, initial=0)),
        "largest_spread": float(np.max(spread, initial=0)),
    }  # fmt: skip


def accuracy_chart(accuracies: Accuracies, *, left: float, right: float) -> dict:
    """Pairs by seed and the interval of their mean difference; accuracies in percent and points."""
    percent = accuracies.metric.endswith("accuracy")
    scale = 100 if percent else 1
    pairs = [(scale * f, scale * t) for f, t in zip(accuracies.flax, accuracies.torch, strict=True)]
    low, high = (scale * end for end in accuracies.interval)
    margin = scale * accuracies.margin
    reach = 1.15 * max((abs(v) for v in (low, high, margin) if math.isfinite(v)), default=1.0)
    mean = sum(f - t for f, t in pairs) / len(pairs) if pairs else math.nan
    return {
        "x": linear_axis((value for pair in pairs for value in pair), left, right),
        "pairs": pairs,
        "points": Axis(-reach or -1.0, reach or 1.0, left, right),
        "mean": mean, "low": low, "high": high, "margin": margin,
        "inside": -margin < low and high < margin,
        "finite": all(map(math.isfinite, (mean, low, high))),
        "unit": "%" if percent else "", "points_unit": " points" if percent else "",
        "format": "%.2f" if percent else "%.4f",
    }  # fmt: skip


def _line(values: Sequence[float], x: Axis, y: Axis) -> str:
    """An SVG path by step, from step 1; it breaks where a value is not finite."""
    path, pen_down = [], False
    for step, value in enumerate(values, start=1):
        if math.isfinite(value):
            path.append(f"{'L' if pen_down else 'M'}{x.at(step):g} {y.at(value):g}")
        pen_down = math.isfinite(value)
    return "".join(path)


def _bar_widths(audit: Sequence[AuditRow]) -> list[float]:
    """Percent of the longest bar, on a log scale that starts at the bound (factor 1)."""
    decades = [math.log10(max(1.0, row.factor)) for row in audit]
    longest = max(filter(math.isfinite, decades), default=0.0) or 1.0
    return [round(100 * min(1.0, decade / longest), 1) for decade in decades]
