"""Runs a named study: python scripts/experiment.py lms-rates --engine flax --out runs/lms-rates

A study trains one task under each of several settings, and leaves a run for each, curves.png,
table.md, metrics.json and, where weights are compared, kernels.png. A training that diverges is one
of its results.
"""

import argparse
from pathlib import Path
from typing import get_args

from jaxmodels.shared.command_line import EngineName, add_settings_flag, run_script
from jaxmodels.shared.experiments.studies import STUDIES, run_study
from jaxmodels.shared.experiments.study_results import write_study


def main() -> None:
    described = "\n".join(f"  {name}  {study.description}" for name, study in STUDIES.items())
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[2],
        epilog=f"studies:\n{described}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", metavar="STUDY", help="its name")
    parser.add_argument("--engine", choices=get_args(EngineName), default="flax")
    parser.add_argument("--source", default="sample", help="as of train.py [default: sample]")
    parser.add_argument("--out", type=Path, metavar="DIR", help="[default: runs/STUDY-ENGINE]")
    add_settings_flag(parser, "a setting of every training, such as training.epochs=2")
    arguments = parser.parse_args()
    if arguments.study not in STUDIES:
        raise ValueError(
            f"study {arguments.study!r} is unknown; expected one of {', '.join(STUDIES)}"
        )
    study, source = STUDIES[arguments.study], arguments.source
    folder = arguments.out or Path("runs") / f"{study.name}-{arguments.engine}"
    if (folder / "metrics.json").exists() or (folder / "0").exists():
        raise ValueError(f"{folder} already holds a study; choose another --out")
    results = run_study(study, arguments.engine, source, folder, arguments.settings)
    print(write_study(folder, study, results, engine=arguments.engine, source=source))
    print(f"written: {folder}")


if __name__ == "__main__":
    run_script(main)
