"""Named studies: one task under several settings. A training that diverges is one of the results.

>>> results = run_study(STUDIES["lms-rates"], "flax", "sample", Path("runs/lms-rates"))
>>> write_study(Path("runs/lms-rates"), STUDIES["lms-rates"], results, source="sample")
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxmodels.shared.command_line import with_settings
from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.run import NonFiniteLossError, Run
from jaxmodels.shared.tasks import TASKS, Task
from jaxmodels.shared.training import train_and_judge


@dataclass(frozen=True)
class Study:
    """One training of a task under each variant's settings.

    variants: what it is called -> its settings, "GROUP.NAME=VALUE"; `shared` are all variants'.
    `curve` is the column of the history to draw, `reference` the entry of a run's metrics that is
    drawn as a level, "" for none. `unit` says what an epoch is. With `log_axis` a diverging curve
    is cut where it leaves the others far behind. With `histograms` the kernels of the
    trained models are drawn too.
    """

    name: str
    description: str
    task: str
    variants: Mapping[str, tuple[str, ...]]
    curve: str = "validation_accuracy"
    shared: tuple[str, ...] = ()
    reference: str = ""
    log_axis: bool = False
    unit: str = "epoch"
    histograms: bool = False


_PLAIN_SGD = ("optimizer.name=sgd", "optimizer.weight-decay=0", "schedule.name=constant")

_STUDIES = (
    Study(
        name="lms-rates",
        description="the LMS filter at six rates, two of them above 2/lambda_max",
        task="lms",
        variants={
            f"learning rate {rate}": (f"optimizer.learning-rate={rate}",)
            for rate in (0.005, 0.01, 0.05, 0.1, 0.5, 1.0)
        },
        curve="validation_squared_error",
        reference="wiener_squared_error",
        log_axis=True,
        unit="epoch of 10 samples",
    ),
    Study(
        name="cifar10-augmentation",
        description="SimpleCNN without augmentation, with crops, with crops and mirrored images",
        task="cifar10-simplecnn",
        variants={
            "none": ("data.crop-padding=0", "data.flip=false"),
            "crops": ("data.flip=false",),
            "crops and mirrored": (),
        },
    ),
    Study(
        name="cifar10-batch-norm",
        description="SimpleCNN with and without BatchNorm, by SGD at four rates",
        task="cifar10-simplecnn",
        variants={
            f"{'with' if norm else 'without'} BatchNorm, rate {rate}": (
                f"model.batch-norm={str(norm).lower()}",
                f"optimizer.learning-rate={rate}",
            )
            for norm in (True, False)
            for rate in (1.0, 0.1, 0.01, 0.001)
        },
        shared=_PLAIN_SGD,
    ),
    Study(
        name="cifar10-activation",
        description="SimpleCNN with ReLU and with Swish",
        task="cifar10-simplecnn",
        variants={
            "ReLU": ("model.activation=relu",),
            "Swish": ("model.activation=swish",),
        },
    ),
    Study(
        name="cifar10-l2",
        description="SimpleCNN by SGD with L2 of four strengths",
        task="cifar10-simplecnn",
        variants={
            f"L2 {strength:g}": (f"optimizer.weight-decay={strength}",)
            for strength in (0.0, 1e-4, 1e-3, 1e-2)
        },
        shared=(*_PLAIN_SGD, "optimizer.learning-rate=0.05"),
        histograms=True,
    ),
    Study(
        name="cifar10-l1-l2",
        description="SimpleCNN by SGD with L1, with L2 and with neither",
        task="cifar10-simplecnn",
        variants={
            "neither": (),
            "L1 1e-4": ("optimizer.l1=1e-4",),
            "L2 1e-3": ("optimizer.weight-decay=1e-3",),
        },
        shared=(*_PLAIN_SGD, "optimizer.learning-rate=0.05"),
        histograms=True,
    ),
    Study(
        name="cifar10-schedule",
        description="SimpleCNN by SGD at a fixed rate and at rates that fall",
        task="cifar10-simplecnn",
        variants={
            name: (f"schedule.name={name}",) for name in ("constant", "step", "cosine", "one-cycle")
        },
        shared=("optimizer.name=sgd", "optimizer.learning-rate=0.1"),
    ),
    Study(
        name="prices-window",
        description="forecasts from windows of four lengths",
        task="prices-lstm",
        variants={f"{rows} rows": (f"data.window={rows}",) for rows in (5, 20, 60, 120)},
        curve="validation_absolute_error",
    ),
    Study(
        name="prices-sentiment",
        description="forecasts with and without the tone of the news, as add_sentiment.py adds it",
        task="prices-lstm",
        variants={
            "prices alone": (),
            "and how much news": ("data.features=log_return,news", "model.num-features=2"),
            "and its tone": ("data.features=log_return,sentiment", "model.num-features=2"),
        },
        curve="validation_absolute_error",
    ),
)

STUDIES: dict[str, Study] = {study.name: study for study in _STUDIES}


@dataclass(frozen=True)
class Result:
    """One training: its settings in words, its history, and its metrics or why it has none."""

    label: str
    history: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, Any] | None
    diverged: str = ""


def tasks_of(study: Study, settings: Sequence[str] = ()) -> dict[str, Task]:
    """What each variant is called -> its task. `settings` are those of `--set`, and come last.

    Raises:
        ValueError: a setting is unknown, or its value is refused.
    """
    return {
        label: with_settings(TASKS[study.task], [*study.shared, *own, *settings], flag="--set")
        for label, own in study.variants.items()
    }


def run_study(
    study: Study, engine_name: str, source: str, folder: Path, settings: Sequence[str] = ()
) -> list[Result]:
    """Trains every variant; the runs are `folder`/0 and so on."""
    results = []
    for number, (label, task) in enumerate(tasks_of(study, settings).items()):
        data = family_of(task).load(source, task)
        own = folder / str(number)
        print(f"{study.name} {number}: {label}")
        try:
            metrics, _ = train_and_judge(Run(task, engine_name, source), data, own)
        except NonFiniteLossError as error:
            print(error)
            results.append(Result(label, read_history(own), None, str(error)))
        else:
            note = metrics["verdicts"][0] if metrics.get("diverges") else ""
            results.append(Result(label, read_history(own), metrics, note))
    return results


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The finished epochs of a run, however it ended."""
    path = folder / "history.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
