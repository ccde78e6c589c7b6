"""Trainings that take a second: 5 steps an epoch of a small network with dropout and BatchNorm.

Frameworks are imported where they are used, so that a process without one of them can train.
"""

import contextlib
import dataclasses
import importlib.util
import io
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxmodels.shared import loop
from jaxmodels.shared import run as runs
from jaxmodels.shared.command_line import make_engine, run_script
from jaxmodels.shared.configs import SimpleCNNConfig
from jaxmodels.shared.data.images import ImageData, ImageDataConfig, Split
from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.loop import fit
from jaxmodels.shared.processes import this_process
from jaxmodels.shared.run import Recorder, Run
from jaxmodels.shared.schedules import ScheduleConfig
from jaxmodels.shared.tasks import OptimizerConfig, Task, TrainingConfig

ENGINES = ("flax", "torch", "lightning", "accelerate")
EPOCHS, STEPS, BATCH = 3, 5, 12
SCRIPTS = Path(__file__).parents[1] / "scripts"

# Pairwise distinct sizes; everything that a resumed run could forget is on.
TASK = Task(
    name="tiny",
    description="a small network, for the tests",
    model=SimpleCNNConfig(
        image_size=8,
        num_classes=5,
        channels=(4, 6),
        kernel_size=3,
        hidden_dims=(16, 11),
        batch_norm=True,
        dropout_rate=0.3,
    ),
    data=ImageDataConfig(crop_padding=1),
    optimizer=OptimizerConfig(name="adamw", learning_rate=0.01, weight_decay=0.01, clip_norm=1.0),
    schedule=ScheduleConfig(name="one-cycle", warmup_fraction=0.25),
    training=TrainingConfig(
        epochs=EPOCHS, batch_size=BATCH, evaluation_batch_size=20, label_smoothing=0.1
    ),
)
SGD = OptimizerConfig(learning_rate=0.05, nesterov=True, weight_decay=1e-3, l1=1e-5)


def with_settings(task: Task = TASK, **groups: dict[str, Any]) -> Task:
    """A task with some fields of some of its groups replaced: training={"epochs": 2}."""
    new = {name: dataclasses.replace(getattr(task, name), **v) for name, v in groups.items()}
    return dataclasses.replace(task, **new)


def _split(rows: int, seed: int) -> Split:
    """Noise around one grey level a class: learnt within an epoch or two."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, rows).astype(np.int32)
    noise = rng.integers(0, 60, (rows, 8, 8, 3))
    return Split((noise + 40 * labels[:, None, None, None]).astype(np.uint8), labels)


DATA = ImageData(
    source="tiny",
    class_names=tuple("abcde"),
    mirror=True,
    train=_split(STEPS * BATCH + 3, 0),
    validation=_split(23, 1),
    test=_split(17, 2),
    mean=np.full(3, 0.4, np.float32),
    std=np.full(3, 0.25, np.float32),
)


class Stop(Exception):  # noqa: N818 (not an error)
    """Ends a training in its middle, as a power cut would."""


def train_tiny(
    engine_name: str,
    folder: Path,
    task: Task = TASK,
    *,
    resume: bool = False,
    from_step: int | None = None,
    stop_at: int | None = None,
    stop: type[BaseException] = Stop,
    data: Any = DATA,
) -> tuple[Any, Recorder]:
    """(engine, history) of a training; `stop` is raised before step `stop_at`."""
    fitted = family_of(task).fitted_files(data)
    if this_process().is_main:
        runs.start(folder, Run(task, engine_name, "tiny"), resume=resume, fitted=fitted)
    if engine_name == "lightning":
        from torchref.engines import lightning, lightning_run

        original = lightning.LitTask.training_step

        def training_step(self: Any, batch: Any, batch_index: int) -> Any:
            if self.global_step == stop_at:
                raise stop
            return original(self, batch, batch_index)

        lightning.LitTask.training_step = training_step
        try:
            return lightning_run.fit_lightning(task, data, folder, resume=resume)
        finally:
            lightning.LitTask.training_step = original
    resume = resume and runs.has_begun(folder)
    engine: Any = make_engine(engine_name, task, folder)  # type: ignore[arg-type]
    train_step = engine.train_step

    def stopping_step(batch: Any, *, step: int, rate: float) -> Any:
        if step == stop_at:
            raise stop
        return train_step(batch, step=step, rate=rate)

    engine.train_step = stopping_step
    return engine, fit(task, data, engine, folder, resume=resume, from_step=from_step)


@pytest.fixture(scope="module", autouse=True)
def compile_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each run makes its own jitted functions, the same program: half of these tests' time."""
    import jax

    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def _tells_time(name: str) -> bool:
    return name in ("seconds", "data_wait_fraction", "mfu") or name.endswith("_per_second")


def history(folder: Path) -> list[dict[str, Any]]:
    """history.jsonl without what depends on the clock."""
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not _tells_time(key)} for row in rows]


def assert_same_weights(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    """Bit for bit."""
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def assert_resumes_exactly(
    engine_name: str, folder: Path, task: Task = TASK, *, stop_at: int
) -> Any:
    """A run that is stopped before a step and resumed is the uninterrupted one; its engine.

    It is in folder/parts, the other in folder/whole.
    """
    whole, _ = train_tiny(engine_name, folder / "whole", task)
    with pytest.raises(Stop):
        train_tiny(engine_name, folder / "parts", task, stop_at=stop_at)
    resumed, _ = train_tiny(engine_name, folder / "parts", task, resume=True)
    assert_same_weights(whole.weights(), resumed.weights())
    assert history(folder / "parts") == history(folder / "whole")
    return resumed


def assert_torchs_engines_agree(folder: Path, task: Task) -> dict[str, np.ndarray]:
    """Plain torch, Lightning and Accelerate train the same bits; those weights."""
    plain, *others = (train_tiny(n, folder / n, task)[0].weights() for n in ENGINES[1:])
    for name, other in zip(ENGINES[2:], others, strict=True):
        assert_same_weights(plain, other)
        assert history(folder / "torch") == history(folder / name)
    return plain


@contextlib.contextmanager
def interrupted_in(*, epoch: int) -> Iterator[None]:
    """Within, Ctrl-C is pressed at the start of this epoch, the first of which is 1."""
    train_epoch, epochs = loop.train_epoch, itertools.count(1)

    def interrupted(*arguments: Any) -> Any:
        if next(epochs) == epoch:
            raise KeyboardInterrupt
        return train_epoch(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_epoch", interrupted)
        yield


def load_script(name: str) -> Any:
    """scripts/NAME.py as a module."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(name: str, *arguments: object) -> tuple[int, str, str]:
    """Runs scripts/NAME.py in this process: (exit code, what it printed, what it complained of)."""
    module = load_script(name)
    if name == "train":
        module.measure_throughput = lambda *_, **__: 1000.0  # two seconds a call
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [f"{name}.py", *map(str, arguments)]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run_script(module.main)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
    return code, out.getvalue(), err.getvalue()


def refused(script: str, *arguments: object) -> str:
    """The complaint of a script that must exit with code 2, print no traceback and do no more."""
    code, _, errors = call(script, *arguments)
    assert code == 2, errors
    assert errors.startswith("error: ")
    assert errors.endswith("\n")
    assert "Traceback" not in errors
    return errors


def clean_environment() -> dict[str, str]:
    """For a subprocess: one that finds the project, and shows no traceback by choice."""
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS.parent)}
    environment.pop("JAXMODELS_TRACEBACK", None)
    return environment


def environment_that_compiles_once() -> dict[str, str]:
    """The same, for one that takes the programs of the tests that `compile_once`."""
    import jax

    settings = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    given = {name.upper(): str(getattr(jax.config, name)) for name in settings}
    return clean_environment() | given
