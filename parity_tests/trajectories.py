"""The rungs that train on data: curve, metric, resume and engines.

Both frameworks start from the same weights and eat the same batches, through the same engines that
`scripts/train.py` runs.
"""

import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from torch.utils.data import DataLoader

from jaxmodels.engine import FlaxEngine
from jaxmodels.shared.command_line import missing_extra
from jaxmodels.shared.data.batches import Batch
from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.loop import Engine, evaluate
from jaxmodels.shared.outputs import final_split
from jaxmodels.shared.schedules import learning_rate
from jaxmodels.shared.tasks import Task
from parity_tests.ladder import BOUNDS
from parity_tests.pairs import stored_channels_first
from parity_tests.results import Accuracies, Curves, LeafError, Verdict
from torchref.engines.plain import TorchEngine, make_model, to_tensors
from torchref.models import create
from torchref.weights import read_tensors

Tensors = dict[str, np.ndarray]
MakeEngine = Callable[[Task, Path], Engine]
# (task, batches, the weights to start from) -> those that it ends with, a step a batch.
TrainSteps = Callable[[Task, list[Batch], Tensors], Tensors]

ENGINES: dict[str, MakeEngine] = {"flax": FlaxEngine, "torch": TorchEngine}

CONFIDENCE = 0.90  # two one-sided tests at 5% each
FLAX_RUNS, TORCH_RUNS = 3, 4  # of the curve rung; all but the first of either are perturbed


class Float64TorchEngine(TorchEngine):
    """torch in float64: the truth that a float32 run strays from by its own rounding."""

    def __init__(self, task: Task, folder: Path):
        super().__init__(task, folder)
        self.model.double()

    def train_step(self, batch: dict[str, np.ndarray], *, step: int, rate: float) -> dict[str, Any]:
        batch = {
            name: value.astype(np.float64) if value.dtype == np.float32 else value
            for name, value in batch.items()
        }
        return super().train_step(batch, step=step, rate=rate)


def curve_rung(
    task: Task, data: Any, *, engines: dict[str, MakeEngine] | None = None
) -> tuple[Verdict, Curves]:
    """The distance from torch's losses to Flax's, over how far torch strays from itself.

    torch strays when its weights are moved by one unit in the last place, for rounding grows along
    a trajectory, and when it computes in float64, for rounding can also have a direction (all
    pixels of a flat background round alike). Flax too runs from several starts: in one run luck
    alone may throw the loss off its course. Dropout is off, for the frameworks draw different
    masks.
    """
    engines = engines or ENGINES
    task = without_dropout(task)
    start = read_tensors(create(task.model, seed=task.training.seed))
    rng = np.random.default_rng(task.training.seed)

    def runs(name: str, count: int) -> tuple[tuple[float, ...], ...]:
        starts = [start] + [_moved_by_one_ulp(start, rng) for _ in range(count - 1)]
        return tuple(_losses(engines[name], task, data, tensors) for tensors in starts)

    truth = _losses(Float64TorchEngine, task, data, start)
    curves = Curves(task.name, runs("flax", FLAX_RUNS), (*runs("torch", TORCH_RUNS), truth))
    ratios = curve_ratios(curves)
    bound = BOUNDS["curve", "float32"]
    worst = int(np.argmax(ratios))
    first = int(np.argmax(ratios > bound)) if (ratios > bound).any() else None
    verdict = Verdict(
        task.name,
        "curve",
        "float32",
        float(ratios[worst]),
        bound,
        f"step {worst}",
        "" if first is None else f"step {first}",
        note=f"{len(ratios)} steps on {data.source}; {len(curves.flax)} Flax runs and "
        f"{len(curves.torch)} torch runs, one of them in float64",
    )
    return verdict, curves


def curve_ratios(curves: Curves) -> np.ndarray:
    """The distance between the frameworks over torch's spread, by step: (T,).

    A spread below eight units in the last place of the loss, the noise of one forward pass, counts
    as that. A loss that is not finite gives infinity.
    """
    floor = 8 * np.finfo(np.float32).eps * np.maximum(np.abs(curves.torch[0]), 1)
    ratios = curves.distance() / np.maximum(curves.spread(), floor)
    return np.where(np.isfinite(ratios), ratios, math.inf)


def metric_rung(
    task: Task, data: Any, *, seeds: int, engines: dict[str, MakeEngine] | None = None
) -> tuple[Verdict, Accuracies]:
    """The family's metric at the end over seeds, paired, and its equivalence within the margin.

    Each seed fixes initial weights and batches for both frameworks; only dropout's masks differ.

    Raises:
        ValueError: fewer than two seeds, from which no interval follows.
    """
    if seeds < 2:
        raise ValueError(f"--seeds {seeds} gives no interval; the metric rung needs at least 2")
    training = dataclasses.replace(task.training, epochs=task.parity.metric_epochs)
    found: dict[str, list[float]] = {"flax": [], "torch": []}
    for seed in range(seeds):
        seeded = dataclasses.replace(task, training=dataclasses.replace(training, seed=seed))
        start = read_tensors(create(task.model, seed=seed))
        for name, make in (engines or ENGINES).items():
            found[name].append(_final_metric(make, seeded, data, start))
    interval = tost_interval(found["flax"], found["torch"])
    margin = task.parity.metric_margin
    family, split = family_of(task), final_split(task, data)
    metric = f"{split} {family.METRIC.replace('_', ' ')}"
    difference = np.mean(found["flax"]) - np.mean(found["torch"])
    verdict = Verdict(
        task.name,
        "metric",
        "float32",
        max(map(abs, interval)),
        margin,
        f"mean difference {difference:+.5f}",
        note=f"{metric}, {seeds} seeds, {training.epochs} epochs "
        f"each on {data.source}; {family.count(data, split):,} {family.UNIT}",
        metric=family.METRIC,
    )
    accuracies = Accuracies(
        task.name,
        tuple(found["flax"]),
        tuple(found["torch"]),
        margin,
        interval,
        CONFIDENCE,
        metric,
    )
    return verdict, accuracies


def tost_interval(first: list[float], second: list[float]) -> tuple[float, float]:
    """The 90% interval of the mean paired difference.

    The two one-sided tests (Schuirmann 1987) reject a difference of at least the margin at 5% each
    exactly when this interval lies within the margin.
    """
    differences = np.subtract(first, second)
    count = len(differences)
    error = differences.std(ddof=1) / math.sqrt(count)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * error)
    mean = float(differences.mean())
    return mean - reach, mean + reach


def resume_rung(
    task: Task, data: Any, *, engines: dict[str, MakeEngine] | None = None, steps: int = 6
) -> Verdict:
    """Trains, saves and resumes half-way in a fresh engine; counts the tensors that differ."""
    differing: list[LeafError] = []
    for name, make in (engines or ENGINES).items():
        with tempfile.TemporaryDirectory() as folder:
            whole = make(task, Path(folder) / "whole")
            _train(whole, task, data, range(steps), steps)
            half = make(task, Path(folder) / "half")
            _train(half, task, data, range(steps // 2), steps)
            half.save("last", {"step": steps // 2, "epoch": 0})
            half.finish_saving()
            resumed = make(task, Path(folder) / "half")
            position = resumed.restore("last")
            _train(resumed, task, data, range(position["step"], steps), steps)
            expected = whole.weights()
            differing += [
                LeafError(f"{name} {key}", float(value.tobytes() != expected[key].tobytes()))
                for key, value in resumed.weights().items()
            ]
    count = sum(leaf.value for leaf in differing)
    first = next((leaf.name for leaf in differing if leaf.value), "")
    return Verdict(
        task.name,
        "resume",
        "float32",
        count,
        BOUNDS["resume", "float32"],
        first or f"all {len(differing)} tensors of {' and '.join(engines or ENGINES)}",
        first,
        note=f"stopped after {steps // 2} of {steps} steps",
        leaves=tuple(differing),
    )


def train_steps(make: MakeEngine) -> TrainSteps:
    """Of an engine that the shared loop calls."""

    def train(task: Task, batches: list[Batch], start: Tensors) -> Tensors:
        engine = make(task, Path())
        engine.load_weights(start)
        for step, batch in enumerate(batches):
            engine.train_step(batch, step=step, rate=_rate(task, step, len(batches)))
        return engine.weights()

    return train


def lightning_steps(task: Task, batches: list[Batch], start: Tensors) -> Tensors:
    """Of Lightning, whose Trainer is the loop."""
    try:
        import lightning

        from torchref.engines.lightning import LitTask
        from torchref.engines.lightning_run import as_a_guest
    except ModuleNotFoundError as error:
        raise ValueError(missing_extra("lightning", error)) from None
    engine = TorchEngine(task, Path())
    engine.load_weights(start)
    module = LitTask(task, model=engine.model)
    engine.average = module.average
    with as_a_guest():
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader([to_tensors(b) for b in batches], batch_size=None))  # type: ignore[arg-type]
    return engine.weights()


def _accelerate(task: Task, folder: Path) -> Engine:
    """On the CPU, as plain torch's engine is."""
    try:
        from torchref.engines.accelerate import AccelerateEngine
    except ModuleNotFoundError as error:
        raise ValueError(missing_extra("accelerate", error)) from None
    return AccelerateEngine(task, folder, cpu=True)


TORCH_ENGINES: dict[str, TrainSteps] = {
    "torch": train_steps(TorchEngine),
    "lightning": lightning_steps,
    "accelerate": train_steps(_accelerate),
}


def engines_rung(
    task: Task, data: Any, *, engines: dict[str, TrainSteps] | None = None, steps: int = 3
) -> Verdict:
    """Trains from the same start on the same batches; counts the tensors that differ in a bit.

    What the first of the engines ends with is what the others are to end with.
    """
    engines = engines or TORCH_ENGINES
    start = read_tensors(make_model(task))
    batches = list(stored_batches(task, data, range(steps)))
    expected, *others = (train(task, batches, start) for train in engines.values())
    first, *names = engines
    differing = [
        LeafError(f"{name} {key}", float(value.tobytes() != found[key].tobytes()))
        for name, found in zip(names, others, strict=True)
        for key, value in expected.items()
    ]
    diverged = next((leaf.name for leaf in differing if leaf.value), "")
    return Verdict(
        task.name,
        "engines",
        "float32",
        sum(leaf.value for leaf in differing),
        BOUNDS["engines", "float32"],
        diverged or f"all {len(differing)} tensors of {' and '.join(names)}",
        diverged,
        note=f"{steps} steps, beside {first}",
        leaves=tuple(differing),
    )


def _losses(make: MakeEngine, task: Task, data: Any, start: Tensors) -> tuple[float, ...]:
    engine = make(task, Path())
    engine.load_weights(start)
    steps = task.parity.curve_steps
    return tuple(_train(engine, task, data, range(steps), steps))


def _final_metric(make: MakeEngine, task: Task, data: Any, start: Tensors) -> float:
    engine = make(task, Path())
    engine.load_weights(start)
    steps = task.training.epochs * family_of(task).steps_per_epoch(task, data)
    _train(engine, task, data, range(steps), steps)
    return evaluate(task, data, final_split(task, data), engine.predict).metric


def _train(engine: Engine, task: Task, data: Any, steps: range, total_steps: int) -> list[float]:
    """Trains the given steps of a schedule of `total_steps`; returns the losses."""
    losses = [
        engine.train_step(batch, step=step, rate=_rate(task, step, total_steps))["loss"]
        for step, batch in zip(steps, stored_batches(task, data, steps), strict=True)
    ]
    return [float(loss) for loss in losses]


def stored_batches(task: Task, data: Any, steps: range) -> Iterator[Batch]:
    for batch in islice(family_of(task).training_batches(task, data, steps.start), len(steps)):
        yield {name: stored_channels_first(value) for name, value in batch.items()}


def _rate(task: Task, step: int, total_steps: int) -> float:
    return learning_rate(task.schedule, task.optimizer.learning_rate, step, total_steps)


def without_dropout(task: Task) -> Task:
    rates = [f.name for f in dataclasses.fields(task.model) if f.name.endswith("dropout_rate")]
    return dataclasses.replace(
        task, model=dataclasses.replace(task.model, **dict.fromkeys(rates, 0.0))
    )


def _moved_by_one_ulp(tensors: Tensors, rng: np.random.Generator) -> Tensors:
    """Every value moved to its float32 neighbour, up or down by chance; zeros stay."""
    directions = np.array([-np.inf, np.inf], np.float32)  # float64 would step in float64
    return {
        name: np.where(value == 0, value, np.nextafter(value, rng.choice(directions, value.shape)))
        for name, value in tensors.items()
    }
