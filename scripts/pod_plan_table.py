"""Every task on five TPU slices, in one table: python scripts/pod_plan_table.py [TASK ...]

Compiles each training step for each slice, keeps the plans in --cells, and makes none anew that is
there: stop it and go on as you like. It takes hours on two cores. --page puts the table, of what
has been compiled so far, between the marks of a Markdown file.
"""

import argparse
import sys
from pathlib import Path

from jaxmodels.pod_plan.topology import prepare_environment
from jaxmodels.shared.command_line import find_task, run_script
from jaxmodels.shared.files import place_between
from jaxmodels.shared.tasks import TASKS

MARKS = ("<!-- pod plan: made by scripts/pod_plan_table.py -->", "<!-- /pod plan -->")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="[default: all]")
    parser.add_argument("--cells", type=Path, default=Path("runs/pod_plan"), metavar="DIR")
    parser.add_argument("--page", type=Path, metavar="FILE", help="such as docs/pod_plan.md")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    tasks = [find_task(name).name for name in arguments.tasks] or list(TASKS)
    prepare_environment()  # before anything imports jax
    from jaxmodels.pod_plan.table import make_cells, markdown

    if arguments.compile:
        make_cells(tasks, arguments.cells, lambda line: print(line, file=sys.stderr, flush=True))
    table = markdown(arguments.cells)
    if arguments.page:
        place_between(arguments.page, MARKS, table)
    else:
        print(table, end="")


if __name__ == "__main__":
    run_script(main)
