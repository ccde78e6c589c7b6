"""Classifies images with a finished run: python scripts/predict.py DIR IMAGE [IMAGE ...] [--top N]

Images of another size are cropped to a centre square and resized. One line a class and image:
file, class, probability.
"""

import argparse
from pathlib import Path

import numpy as np

from jaxmodels.shared.command_line import load_engine, run_script
from jaxmodels.shared.data.batches import normalise
from jaxmodels.shared.data.images import read_image
from jaxmodels.shared.metrics import log_softmax


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the run's folder")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    parser.add_argument("--engine", choices=("flax", "torch"), help="default: the run's own")
    parser.add_argument("--top", type=int, default=3, help="classes an image [default: 3]")
    arguments = parser.parse_args()
    if arguments.top < 1:
        raise ValueError(f"--top {arguments.top} must be at least 1")

    run, engine = load_engine(arguments.folder, arguments.engine)
    size, channels = run.task.model.image_size, run.task.model.in_channels
    images = [read_image(path, image_size=size, channels=channels) for path in arguments.images]
    mean, std = np.array(run.mean, np.float32), np.array(run.std, np.float32)
    size = run.task.training.evaluation_batch_size
    logits = np.concatenate(
        [
            engine.logits(normalise(np.stack(images[start : start + size]), mean, std))
            for start in range(0, len(images), size)
        ]
    )
    probabilities = np.exp(log_softmax(logits))
    for path, row in zip(arguments.images, probabilities, strict=True):
        for index in np.argsort(-row)[: arguments.top]:
            print(f"{path}  {run.class_names[index]}  {row[index]:.4f}")


if __name__ == "__main__":
    run_script(main)
