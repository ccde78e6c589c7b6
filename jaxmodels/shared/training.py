"""A training from its settings to its final weights, on any engine.

>>> training = prepare(Run(task, "flax", "sample"), data, folder)
>>> engine, recorder = training()
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from jaxmodels.shared import run as runs
from jaxmodels.shared.command_line import EngineName, make_engine, missing_extra
from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.files import read_json
from jaxmodels.shared.fine_tuning import checkpoint_of, starting_weights
from jaxmodels.shared.hub.folder import save_checkpoint
from jaxmodels.shared.loop import Engine, evaluate, fit
from jaxmodels.shared.outputs import final_split, write_results
from jaxmodels.shared.processes import check_divides, this_process
from jaxmodels.shared.run import NonFiniteLossError, Recorder, Run
from jaxmodels.shared.tasks import Task


def prepare(
    run: Run,
    data: Any,
    folder: Path,
    *,
    resume: bool = False,
    before: Callable[[Engine], None] = lambda engine: None,
    mesh: str = "",
) -> Callable[[], tuple[Engine, Recorder]]:
    """Claims the folder for the run; what is returned trains, and leaves the final weights there.

    Of several processes the main one claims it, and leaves them. `before` sees the engine that is
    about to train, unless the run is resumed. `mesh` is as `make_engine` takes it, and may be
    another when the run is resumed.

    Raises:
        ValueError: the engine is not installed or cannot train the task, the checkpoint to start
            from does not fit, or the folder is another run's. All of that is found before the
            folder is claimed.
    """
    engine, fit_engine = choose_trainer(
        cast(EngineName, run.engine), run.task, folder, resume=resume, mesh=mesh
    )
    family = family_of(run.task)
    is_main = this_process().is_main
    if is_main:
        runs.start(folder, run, resume=resume, fitted=family.fitted_files(data))

    def train() -> tuple[Engine, Recorder]:
        if not resume:
            before(engine)
        try:
            recorder = fit_engine(data, resume)
        except NonFiniteLossError as error:
            if not (reason := family.explain_divergence(run.task, data)):
                raise
            raise NonFiniteLossError(f"{reason}. {error}") from None
        if not is_main:
            return engine, recorder
        if run.task.lora.rank:
            engine.merge_adapters(folder, base=checkpoint_of(run.task))
        save_checkpoint(folder, run.task.model, engine.weights())
        return engine, recorder

    return train


def train_and_judge(run: Run, data: Any, folder: Path) -> tuple[dict[str, Any], np.ndarray | None]:
    """A whole run: trains, and writes what it leaves; its metrics, and the outputs where kept.

    Raises:
        ValueError: as `prepare`.
        NonFiniteLossError: the training diverged.
    """
    engine, recorder = prepare(run, data, folder)()
    split = final_split(run.task, data)
    evaluation = evaluate(run.task, data, split, engine.predict)
    facts = {"engine": run.engine, "epochs": recorder.rows[-1]["epoch"]}
    write_results(folder, run.task, data, split, evaluation, recorder.rows, engine.predict, **facts)
    metrics = cast(dict[str, Any], read_json(folder / "metrics.json"))
    return metrics, evaluation.outputs


def choose_trainer(
    engine_name: EngineName, task: Task, folder: Path, *, resume: bool = False, mesh: str = ""
) -> tuple[Engine, Callable[[Any, bool], Recorder]]:
    """(engine, (data, resume) -> history, with the final weights in the engine).

    A task that starts from a checkpoint has its weights, unless it is resumed.

    Raises:
        ValueError: the engine is not installed or cannot train the task, or not in so many
            processes or on such a mesh, or the checkpoint's tensors are not the model's.
    """
    process = this_process()
    if process.count > 1:
        if engine_name not in ("lightning", "accelerate", "xla"):
            raise ValueError(
                f"--engine {engine_name} trains in one process, and this is one of {process.count} "
                "(WORLD_SIZE); take --engine lightning, accelerate or xla, or start it with plain "
                "python"
            )
        check_divides(task.training.batch_size, task.training.micro_batches, process)
    start = partial(_pretrained, task) if checkpoint_of(task) and not resume else None
    if engine_name == "lightning":  # which brings its own loop
        try:
            from torchref.engines.lightning_run import check_supported, fit_lightning
        except ModuleNotFoundError as error:
            raise ValueError(missing_extra(engine_name, error)) from None
        check_supported(task)
        lit: Any = make_engine(engine_name, task, folder, start, mesh=mesh)
        return lit, lambda data, resume: fit_lightning(
            task, data, folder, resume=resume, engine=lit
        )[1]
    engine = make_engine(engine_name, task, folder, start, mesh=mesh)
    return engine, lambda data, resume: fit(task, data, engine, folder, resume=resume)


def _pretrained(task: Task, fresh: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights of the task's checkpoint, and fresh ones where it has none, which are named."""
    weights, drawn = starting_weights(task, fresh)
    if drawn:
        print(
            f"{checkpoint_of(task)} has no {', '.join(drawn)}: drawn from seed {task.training.seed}"
        )
    return weights
