"""What each process of `test_hosts.py` trains: python hosts_worker.py FOLDER/CASE[:STOP_AT] ..."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxmodels.engine
from jaxmodels.distributed import together
from jaxmodels.engine import FlaxEngine
from jaxmodels.shared.loop import evaluate
from jaxmodels.shared.processes import this_process
from parity_tests.tiny_runs import DATA, SGD, TASK, Stop, train_tiny, with_settings
from parity_tests.tiny_texts import TEXT, TEXT_TASK

SAVED = {"checkpoint_every_steps": 2}
TEXT_ON = dataclasses.replace(TEXT_TASK, optimizer=TASK.optimizer)
IMAGES_ON = dataclasses.replace(
    with_settings(model={"batch_norm": False}), optimizer=dataclasses.replace(SGD, clip_norm=1.0)
)
# Dropout, clipping and a schedule; splits that no batch divides; a carried state.
CASES: dict[str, tuple[Any, Any]] = {
    "images": (with_settings(IMAGES_ON, training=SAVED | {"ema_decay": 0.8}), DATA),
    "text": (with_settings(TEXT_ON, training=SAVED), TEXT),
}


class InFloat64(FlaxEngine):
    """The engine with all that is computed in float64; its files and its evaluation follow."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.state = jax.tree.map(widened, self.state)

    def train_step(self, batch: Any, *, step: int, rate: float) -> dict[str, Any]:
        return super().train_step(jax.tree.map(widened, batch), step=step, rate=rate)

    def predict(self, batch: Any, carry: Any = None) -> tuple[np.ndarray, Any]:
        return super().predict(jax.tree.map(widened, batch), carry)


def widened(value: Any) -> Any:
    return value.astype(np.float64) if value.dtype == np.float32 else value


def main() -> None:
    if jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        jaxmodels.engine.FlaxEngine = InFloat64  # type: ignore[misc]
    with together({}):
        for asked in sys.argv[1:]:
            out, _, stop_at = asked.partition(":")
            train(Path(out), int(stop_at) if stop_at else None)


def train(out: Path, stop_at: int | None) -> None:
    """Trains the case that the folder's name begins with, to its end or to a step."""
    task, data = CASES[out.name.partition("-")[0]]
    try:
        engine, _ = train_tiny("flax", out, task, data=data, resume=out.exists(), stop_at=stop_at)
    except Stop:
        return
    found = evaluate(task, data, "test", engine.predict)
    figures = {"loss": np.array(found.loss), "metric": np.array(found.metric)}
    if found.outputs is not None:
        figures["outputs"] = found.outputs
    arrays: dict[str, Any] = {**engine.weights(), **figures}
    np.savez(f"{out}.{this_process().index}.npz", **arrays)


if __name__ == "__main__":
    main()
