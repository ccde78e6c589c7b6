"""A model layer by layer: python scripts/inspect_model.py cifar10-cnn [--engine torch] [--out DIR]

Prints each layer's shapes, parameters, multiply-accumulates and activations, for inputs of the
task's source. With --out, leaves them as layers.csv, and gradients.png: histograms of the weights
and of their gradients on one batch, and what of these is left where all weights are zero.
"""

import argparse
import csv
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxmodels.shared import run as runs
from jaxmodels.shared.command_line import (
    add_settings_flag,
    find_task,
    missing_extra,
    run_script,
    with_settings,
)
from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.files import replaced
from jaxmodels.shared.hub.tensor_files import open_tensors, read_all
from jaxmodels.shared.inspection import layer_rows, layer_table, what_moves, without_weights
from jaxmodels.shared.loop import Start
from jaxmodels.shared.plots.weights import plot_gradients
from jaxmodels.shared.run import Run
from jaxmodels.shared.tasks import NO_ADAPTERS
from jaxmodels.shared.weights import WeightRules


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="TASK|RUN", help="a task's fresh model, or a run's folder")
    parser.add_argument("--engine", choices=("flax", "torch"), default="flax")
    parser.add_argument("--source", help="as of train.py [default: the run's, or sample]")
    parser.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="of the table [default: 1]"
    )
    add_settings_flag(parser, "a setting of the task, such as model.convolutions-per-stage=1")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write the files here")
    arguments = parser.parse_args()
    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size {arguments.batch_size} must be at least 1")
    run, folder = find_model(arguments.model, arguments.settings)
    start = stored_weights(folder) if folder else None
    library = load_library(arguments.engine)
    family = family_of(run.task)
    data = family.load(arguments.source or run.source, run.task, folder)
    batch = next(family.training_batches(run.task, data))
    if arguments.batch_size > len(batch[family.TARGET]):
        raise ValueError(
            f"--batch-size {arguments.batch_size} is more than the {len(batch[family.TARGET])} of "
            f"a batch; add --set training.batch-size={arguments.batch_size}"
        )
    rows = {name: value[: arguments.batch_size] for name, value in batch.items()}
    layers = library.layers_of_task(run.task, rows)
    print(f"{run.task.name} in {arguments.engine}, on {data.source}\n{layer_table(layers)}")
    weights, gradients = library.gradients(run.task, batch, start)
    _, from_zero = library.gradients(run.task, batch, without_weights)
    print(f"{'as trained' if folder else 'as drawn'}: {what_moves(gradients)}")
    print(f"with all weights at 0: {what_moves(from_zero)}")
    if arguments.out:
        write(arguments.out, layers)
        plot_gradients(
            weights,
            gradients,
            from_zero,
            arguments.out / "gradients.png",
            layers=[WeightRules().module_name(layer.name) for layer in layers],
            title=f"{run.task.name}, one batch",
        )
        print(f"written: {arguments.out}")


def find_model(name: str, settings: list[str]) -> tuple[Run, Path | None]:
    """A task with its settings, or a finished run and its folder."""
    folder = Path(name)
    if not folder.is_dir():
        return Run(with_settings(find_task(name), settings, flag="--set"), "flax", "sample"), None
    if settings:
        raise ValueError(f"--set {settings[0]}: {folder} is a run, whose settings are its own")
    run = runs.load(folder)
    return replace(run, task=replace(run.task, lora=NO_ADAPTERS)), folder


def stored_weights(folder: Path) -> Start:
    """The run's final weights, to start from."""
    tensors = read_all(open_tensors(folder))
    return lambda fresh: tensors


def load_library(engine: str) -> ModuleType:
    try:
        if engine == "flax":
            import jaxmodels.inspection as library
        else:
            import torchref.inspection as library
    except ModuleNotFoundError as error:
        raise ValueError(missing_extra(engine, error)) from None
    return library


def write(folder: Path, layers: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with replaced(folder / "layers.csv") as temporary, open(temporary, "w", newline="") as file:
        csv.writer(file).writerows(layer_rows(layers))


if __name__ == "__main__":
    run_script(main)
