"""Finished runs in one Markdown table: python scripts/compare_runs.py RUN [RUN ...] [--out FILE]

A line a run: task, engine, parameters and how many of them train, epochs, minutes of training, the
process's peak resident memory, and every measure that all the runs have.
"""

import argparse
from pathlib import Path

from jaxmodels.shared.command_line import run_script
from jaxmodels.shared.experiments.run_table import run_table
from jaxmodels.shared.files import replaced


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="a run's folder")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table here as well")
    arguments = parser.parse_args()
    table = run_table(arguments.folders)
    print(table, end="")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        with replaced(arguments.out) as temporary:
            temporary.write_text(table)


if __name__ == "__main__":
    run_script(main)
