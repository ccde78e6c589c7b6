"""Climbs the parity ladder: python scripts/parity.py all --out runs/parity

Writes report.html and report.json; exits 1 if anything fails. The rungs weights, forward, gradient
and step need no data, nor do mesh, which takes eight simulated devices, and text, which is climbed
by models of text; curve, metric, resume and engines train on --source. `--set` changes the recipe
of every task that is named, as train.py's flags do, and what the rungs spend: --set
data.max-length=64 --set parity.metric-epochs=2
"""

import argparse
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from jaxmodels.shared.command_line import add_settings_flag, find_task, run_script, with_settings
from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.tasks import TASKS, Task
from parity_tests.cases import task_pair
from parity_tests.ladder import CLAIMS, climb
from parity_tests.mesh_rung import mesh_rung, simulate_devices
from parity_tests.mutations import MUTATIONS, audit_one
from parity_tests.report import environment, print_matrix, write_report
from parity_tests.results import Accuracies, AuditRow, Curves, Report, Verdict
from parity_tests.text_rung import text_rung, writes_text
from parity_tests.trajectories import curve_rung, engines_rung, metric_rung, resume_rung
from parity_tests.xla_rung import without_xla, xla_installed, xla_rung


def main() -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[2],
        epilog="tasks: " + ", ".join(TASKS),
    )
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="tasks, or all [default: all]")
    parser.add_argument(
        "--rungs",
        help=f"comma-separated, of {','.join(CLAIMS)} [default: all of them, or none with --audit]",
    )
    parser.add_argument("--audit", action="store_true", help="inject every known difference too")
    parser.add_argument("--source", default="sample", help="as of train.py [default: sample]")
    parser.add_argument("--seeds", type=int, default=5, help="of the metric rung [default: 5]")
    parser.add_argument("--steps", type=int, help="of the curve rung [default: the task's, 200]")
    add_settings_flag(
        parser,
        "a setting of every task, as of train.py, or parity.metric-epochs=2; may be repeated",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/parity"))
    arguments = parser.parse_args()

    names = arguments.tasks or ([] if arguments.audit and not arguments.rungs else ["all"])
    tasks = list(TASKS.values()) if "all" in names else [find_task(name) for name in names]
    tasks = [with_settings(task, arguments.settings, flag="--set") for task in tasks]
    rungs = arguments.rungs.split(",") if arguments.rungs else list(CLAIMS)
    unknown = [rung for rung in rungs if rung not in CLAIMS]
    if unknown:
        raise ValueError(
            f"--rungs {','.join(unknown)}: unknown; expected some of {','.join(CLAIMS)}"
        )
    if "mesh" in rungs and tasks:
        simulate_devices()
    if arguments.steps is not None:
        if arguments.steps < 1:
            raise ValueError(f"--steps {arguments.steps} must be at least 1")
        tasks = [
            replace(task, parity=replace(task.parity, curve_steps=arguments.steps))
            for task in tasks
        ]
    if "metric" in rungs and tasks and arguments.seeds < 2:
        raise ValueError(f"--seeds {arguments.seeds} gives no interval; the metric rung needs 2")

    cells = [(task, rung) for task in tasks for rung in rungs if applies(task, rung)]
    if tasks and not cells:
        raise ValueError(
            f"--rungs text: {', '.join(task.name for task in tasks)} writes no text; expected some "
            f"of {', '.join(task.name for task in TASKS.values() if writes_text(task))}"
        )
    climbed = {rung for _, rung in cells}

    console = Console(highlight=False)
    verdicts: list[Verdict] = []
    curves: list[Curves] = []
    accuracies: list[Accuracies] = []
    for task, rung in cells:
        started = time.perf_counter()
        found = measure(task, rung, arguments.source, arguments.seeds, curves, accuracies)
        verdicts += found
        seconds = time.perf_counter() - started
        marks = "  ".join(f"{v.dtype} {'holds' if v.ok else 'FAILS'}" for v in found)
        console.print(f"{task.name}  {rung}  {marks}  ({seconds:.0f} s)", soft_wrap=True)
    rows: list[AuditRow] = []
    if arguments.audit:
        for mutation in MUTATIONS:
            rows.append(audit_one(mutation))
            mark = "caught" if rows[-1].ok else "MISSED"
            line = f"audit  {mutation.topic}: {mutation.name}  {mark}"
            console.print(line, soft_wrap=True, markup=False)  # a name may hold [x^2]
    report = Report(
        command=f"python {shlex.join(sys.argv)}",
        environment=environment(),
        verdicts=tuple(verdicts),
        curves=tuple(curves),
        accuracies=tuple(accuracies),
        audit=tuple(rows),
        rung_claims={rung: CLAIMS[rung] for rung in rungs if not tasks or rung in climbed},
        inapplicable=frozenset(
            (task.name, rung) for task in tasks for rung in rungs if not applies(task, rung)
        ),
    )
    print_matrix(report, console)
    console.print(f"report: {write_report(report, arguments.out)}", soft_wrap=True)
    return 0 if report.ok else 1


def applies(task: Task, rung: str) -> bool:
    """Whether the task has such a cell: only a model of text writes one."""
    return rung != "text" or writes_text(task)


def measure(
    task: Task,
    rung: str,
    source: str,
    seeds: int,
    curves: list[Curves],
    accuracies: list[Accuracies],
) -> list[Verdict]:
    """One rung of one task; what is to be drawn joins `curves` and `accuracies`."""
    if rung == "text":
        return text_rung(task)
    if rung == "mesh":
        return mesh_rung(task)
    if rung not in ("curve", "metric", "resume", "engines"):
        return climb(task_pair(task), [rung], draws=8)  # larger leaves than the tests', less luck
    data = family_of(task).load(source, task)
    if rung == "resume":
        return [resume_rung(task, data)]
    if rung == "engines":
        verdict = engines_rung(task, data)
        return [verdict, xla_rung(task, data)] if xla_installed() else [without_xla(verdict)]
    if rung == "curve":
        verdict, curve = curve_rung(task, data)
        curves.append(curve)
        return [verdict]
    verdict, accuracy = metric_rung(task, data, seeds=seeds)
    accuracies.append(accuracy)
    return [verdict]


if __name__ == "__main__":
    run_script(main)
