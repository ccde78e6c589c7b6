"""Evaluates a finished run: python scripts/evaluate.py DIR [--engine torch] [--split validation]

Any engine evaluates any engine's run. Nothing is written unless --out is given.
"""

import argparse
from pathlib import Path

from jaxmodels.shared.command_line import add_mesh_flag, load_engine, run_script
from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.loop import evaluate
from jaxmodels.shared.outputs import final_split, in_words, write_results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the run's folder")
    parser.add_argument("--engine", choices=("flax", "torch"), help="default: the run's own")
    add_mesh_flag(parser)
    parser.add_argument("--source", help="other data, prepared as in training; default: the run's")
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        help="default: test, or validation where there is no test split",
    )
    parser.add_argument(
        "--out", type=Path, help="write metrics, predictions and plots here as well"
    )
    arguments = parser.parse_args()

    run, engine = load_engine(arguments.folder, arguments.engine, mesh=arguments.mesh)
    task, family = run.task, family_of(run.task)
    data = family.load(arguments.source or run.source, task, arguments.folder)
    split = arguments.split or final_split(task, data)
    if not family.count(data, split):
        raise ValueError(f"--split {split}: {data.source} has no such rows in this task")
    evaluation = evaluate(task, data, split, engine.predict)
    print(f"{task.name} on {data.source}")
    lines = in_words(task, data, split, evaluation)
    print(*lines, sep="\n")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        all_lines = write_results(arguments.out, task, data, split, evaluation, [], engine.predict)
        print(*all_lines[len(lines) :], f"written: {arguments.out}", sep="\n")


if __name__ == "__main__":
    run_script(main)
