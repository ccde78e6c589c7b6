"""A search for better settings of a task: which are tried, and what is known of each trial.

The study lies in its folder: `study.journal` is optuna's, `trials/N` is the run of trial N. Trial 0
is the task's own recipe. What trial N tries follows from the seed, N and the trials before it, so a
search that was interrupted goes on as if it had not been.

>>> study = open_study(folder, Run(task, "flax", "sample"), seed=0, data="653 training windows")
>>> search(study, task, space_of(task), train_trial, trials=20, seed=0)
>>> ranked(finished(study))[0]["settings"]
{'optimizer.learning_rate': 0.0013, ...}
"""

import csv
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxmodels.shared.files import replaced
from jaxmodels.shared.run import NonFiniteLossError, Run, changed_fields, is_run, to_json
from jaxmodels.shared.tasks import Task

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class Log:
    """Log-uniform, from the task's own value divided by `factor` to it multiplied."""

    factor: float


@dataclass(frozen=True)
class Uniform:
    """Between both, or up to the task's own value if that is higher."""

    low: float
    high: float


@dataclass(frozen=True)
class Choice:
    """One of these, or the task's own value."""

    values: tuple[float | int, ...]


@dataclass(frozen=True)
class Multiple:
    """The task's own value (an integer) by one of these."""

    factors: tuple[float, ...] = (0.5, 1, 2)


# What is searched, where a task's configs have the field. Nothing that changes the validation
# split, the loss or the budget may join: trials could not be compared.
SPACE: dict[str, Log | Uniform | Choice | Multiple] = {
    "optimizer.learning_rate": Log(10),
    "optimizer.weight_decay": Choice((0.0, 1e-4, 1e-3, 1e-2, 1e-1)),
    "training.batch_size": Multiple(),
    "model.dropout_rate": Uniform(0.0, 0.5),
    "model.hidden_dim": Multiple(),
    "model.num_layers": Choice((1, 2)),
}

_SIZES = ("model.hidden_dim", "model.num_layers")  # which a checkpoint dictates

# What is kept of a trial, in the order of the columns: the lowest validation loss, the epoch that
# had it, the loss after the last epoch, and what went wrong.
_NOTHING = dict.fromkeys(("validation_loss", "epoch", "last_validation_loss", "error"))


def space_of(task: Task) -> "dict[str, BaseDistribution]":
    """`SPACE` at a task's own values, which are always within it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    space: dict[str, BaseDistribution] = {}
    for name, kind in SPACE.items():
        own = own_values(task).get(name)
        if own is None or (name in _SIZES and task.training.pretrained):
            continue
        if isinstance(kind, Log):
            space[name] = FloatDistribution(own / kind.factor, own * kind.factor, log=True)
        elif isinstance(kind, Uniform):
            space[name] = FloatDistribution(min(kind.low, own), max(kind.high, own))
        elif isinstance(kind, Choice):
            space[name] = CategoricalDistribution(sorted({*kind.values, own}))
        else:
            values = {max(1, round(own * factor)) for factor in kind.factors}
            space[name] = CategoricalDistribution(sorted({*values, own}))
    return space


def feasible(
    space: "dict[str, BaseDistribution]", task: Task, check: Callable[[Task], object]
) -> "dict[str, BaseDistribution]":
    """Without the choices for which `check` raises a ValueError, as of a batch beyond the data."""
    from optuna.distributions import CategoricalDistribution

    def possible(name: str, value: Any) -> bool:
        try:
            check(with_values(task, {name: value}))
        except ValueError:
            return False
        return True

    return {
        name: CategoricalDistribution([item for item in kind.choices if possible(name, item)])
        if isinstance(kind, CategoricalDistribution)
        else kind
        for name, kind in space.items()
    }


def own_values(task: Task) -> dict[str, Any]:
    """The task's own value of every field of `SPACE` that it has."""
    found = {}
    for name in SPACE:
        group, _, field = name.partition(".")
        if hasattr(getattr(task, group), field):
            found[name] = getattr(getattr(task, group), field)
    return found


def with_values(task: Task, values: dict[str, Any]) -> Task:
    """The task with other values of some fields: {"model.hidden_dim": 32}."""
    for name, value in values.items():
        group, _, field = name.partition(".")
        changed = dataclasses.replace(getattr(task, group), **{field: value})
        task = dataclasses.replace(task, **{group: changed})
    return task


def open_study(folder: Path, run: Run, *, seed: int, data: str) -> "Study":
    """The study in the folder, a new one or that which the same command began.

    `data` says in words what is trained on.

    Raises:
        ValueError: optuna is not installed, or the folder holds the study of another command.
    """
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise ValueError(
            f"tune.py needs optuna ({error}); run: pip install 'jaxmodels[tune]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if is_run(folder) or (folder.exists() and not folder.is_dir()):
        raise ValueError(f"--out {folder} is no study's folder; choose another, or a new one")
    folder.mkdir(parents=True, exist_ok=True)
    journal = folder / "study.journal"
    _drop_torn_line(journal)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.create_study(storage=storage, study_name="study", load_if_exists=True)
    asked = to_json(run) | {"seed": seed, "data": data}
    if "asked" not in study.user_attrs:
        study.set_user_attr("asked", asked)
    changed = changed_fields(study.user_attrs["asked"], asked)
    if changed:
        raise ValueError(
            f"--out {folder} holds a study of other settings ("
            + "; ".join(f"{name}: {old} -> {new}" for name, (old, new) in changed.items())
            + "); repeat them, or choose another --out"
        )
    return study


def _drop_torn_line(journal: Path) -> None:
    """The end of a file whose writer was killed; optuna would write on in that line."""
    content = journal.read_bytes() if journal.exists() else b""
    if not content.endswith(b"\n") and content:
        with replaced(journal) as temporary:
            temporary.write_bytes(content[: content.rfind(b"\n") + 1])


def search(
    study: "Study",
    task: Task,
    space: "dict[str, BaseDistribution]",
    train: Callable[[int, Task], dict[str, Any]],
    *,
    trials: int,
    seed: int,
) -> None:
    """Goes on until `trials` are finished.

    `train` trains a trial and returns what is kept of it, "validation_loss" at least. One that
    raises NonFiniteLossError has failed: it counts, and the search learns nothing from it.
    """
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState

    if not study.trials:
        study.enqueue_trial({name: own_values(task)[name] for name in space})
    while (done := len(finished(study))) < trials:
        if done == len(study.trials) or study.trials[done].state == TrialState.WAITING:
            # A sampler of its own for each: one for all would start anew after an interruption.
            own_seed = np.random.SeedSequence([seed, done]).generate_state(1)[0]
            study.sampler = TPESampler(seed=int(own_seed))
            study.ask(space)
        trial = study.trials[done]  # of an interrupted search, or the one asked for
        try:
            if trial.params.keys() != space.keys():
                raise NonFiniteLossError("the search was interrupted while it chose the settings")
            found = train(done, with_values(task, trial.params))
        except NonFiniteLossError as error:
            print(f"trial {done} failed: {error}")
            study.set_user_attr(f"trial {done}", {"error": str(error)})
            study.tell(done, state=TrialState.FAIL)
        else:
            study.set_user_attr(f"trial {done}", found)
            study.tell(done, found["validation_loss"])


def finished(study: "Study") -> list[dict[str, Any]]:
    """A row a trial: its number, what is kept of it, and the settings it had."""
    rows = []
    for trial in study.trials:
        if not trial.state.is_finished():
            break
        kept = study.user_attrs[f"trial {trial.number}"]
        rows.append({"trial": trial.number, **_NOTHING, **kept, "settings": trial.params})
    return rows


def ranked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that did not fail, the lowest validation loss first."""
    scored = [row for row in rows if row["validation_loss"] is not None]
    return sorted(scored, key=lambda row: row["validation_loss"])


def write_trials(path: Path, rows: list[dict[str, Any]], names: list[str]) -> None:
    """trials.csv: a line a trial, failed ones too."""
    with replaced(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", *_NOTHING, *names])
        for row in rows:
            settings = [row["settings"].get(name) for name in names]
            writer.writerow([row["trial"], *(row[name] for name in _NOTHING), *settings])
