"""Evaluates a finished run: python scripts/evaluate.py DIR [--engine torch] [--split validation]

Any engine evaluates any engine's run. Nothing is written unless --out is given.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from jaxmodels.shared.command_line import check_fits, load_engine, run_script
from jaxmodels.shared.data.images import load_images
from jaxmodels.shared.loop import predict_split
from jaxmodels.shared.metrics import loss_and_accuracy
from jaxmodels.shared.outputs import write_outputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the run's folder")
    parser.add_argument("--engine", choices=("flax", "torch"), help="default: the run's own")
    parser.add_argument(
        "--source", help="other data, normalised as in training; default: the run's"
    )
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test")
    parser.add_argument(
        "--out", type=Path, help="write metrics, predictions and plots here as well"
    )
    arguments = parser.parse_args()

    run, engine = load_engine(arguments.folder, arguments.engine)
    data = load_images(arguments.source or run.source, run.task.data)
    check_fits(run.task, data)
    data = dataclasses.replace(
        data, mean=np.array(run.mean, np.float32), std=np.array(run.std, np.float32)
    )
    split = getattr(data, arguments.split)
    if not len(split):
        raise ValueError(f"--split {arguments.split}: {data.source} has no such rows in this task")
    logits = predict_split(run.task, data, split, engine.logits)
    loss, accuracy = loss_and_accuracy(logits, split.labels)
    print(f"{run.task.name}, {arguments.split} split of {data.source}: {len(split):,} images")
    print(f"accuracy {accuracy:.4%}, loss {loss:.6f}")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        data = dataclasses.replace(data, test=split)
        write_outputs(arguments.out, run.task, data, logits, [], split=arguments.split)
        print(f"written: {arguments.out}")


if __name__ == "__main__":
    run_script(main)
