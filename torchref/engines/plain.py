"""The plain torch engine of the shared training loop, with checkpoints in safetensors.

>>> engine = TorchEngine(task, folder)
>>> history = fit(task, data, engine, folder, resume=False)
"""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from jaxmodels.shared.checksums import (
    Position,
    check_record,
    check_tensors,
    choose_step,
    damaged,
    saved_steps,
    seal,
)
from jaxmodels.shared.files import replaced
from jaxmodels.shared.loop import Start
from jaxmodels.shared.tasks import Task
from torchref.frozen import freeze_found
from torchref.guards import make_guard
from torchref.lora import add_lora, merge, save_adapter
from torchref.models import create
from torchref.optim import make_optimizer
from torchref.step import Average, Batch, Carry, predict, train_step
from torchref.weights import load_tensors, read_tensors


class TorchEngine:
    """Trains a task's model; `folder` receives the checkpoints. See `make_model`."""

    share = (0, 1)  # of several processes each is given whole batches, and takes its rows of them

    def __init__(
        self,
        task: Task,
        folder: Path,
        start: Start | None = None,
        *,
        device: torch.device | None = None,
    ):
        self.task = task
        self.folder = folder / "checkpoints"
        self.device = device or torch.device("cpu")
        self.model = make_model(task, start).to(self.device)
        self.optimizer = make_optimizer(task.optimizer, self.model, task.layers())
        trained = (p for p in self.model.parameters() if p.requires_grad)
        self.trainable_parameters = sum(p.numel() for p in trained)
        decay = task.training.ema_decay
        self.average = Average(self.model, decay) if decay else None
        self.guard = make_guard(task.training, self.model)
        self.carry: Carry = None

    def feed(self, batches: Iterator[Any]) -> AbstractContextManager[Iterator[Any]]:
        return nullcontext(batches)

    def train_step(self, batch: dict[str, np.ndarray], *, step: int, rate: float) -> dict[str, Any]:
        metrics, self.carry = train_step(
            self.task,
            self.model,
            self.optimizer,
            to_tensors(batch, self.device),
            self.carry,
            step=step,
            rate=rate,
            seed=self.task.training.seed,
            guard=self.guard,
        )
        if self.average and not metrics.get("skipped"):
            self.average.update()
        return metrics

    @property
    def devices(self) -> int:
        """One: what several do together is not told for each."""
        return 1

    @property
    def peak_flops(self) -> float | None:
        """Nobody says: its steps do not count their FLOPs."""

    @contextmanager
    def traced(self, folder: Path) -> Iterator[None]:
        folder.mkdir(parents=True, exist_ok=True)
        with torch.profiler.profile() as profile:
            yield
        profile.export_chrome_trace(str(folder / "trace.json"))

    def predict(self, batch: dict[str, np.ndarray], carry: Any = None) -> tuple[np.ndarray, Any]:
        with self.averaged():
            outputs, carry = predict(self.task, self.model, to_tensors(batch, self.device), carry)
        return outputs.cpu().numpy(), carry

    @torch.no_grad()
    def attentions(self, input_ids: np.ndarray) -> list[np.ndarray]:
        """What each layer's heads look at, (B, H, T, T) float32, for ids (B, T); of a BERT."""
        with self.averaged():
            ids = torch.from_numpy(input_ids).to(self.device)
            found = self.model.eval()(ids, output_attentions=True).attentions
        return [layer.float().cpu().numpy() for layer in found]

    def averaged(self) -> AbstractContextManager[None]:
        """The model as it is evaluated and saved: with the average, where one is kept."""
        return self.average.in_place() if self.average else nullcontext()

    def alone(self) -> Self:
        return self  # every process has the whole model

    def weights(self) -> dict[str, np.ndarray]:
        with self.averaged():
            return read_tensors(self.model)

    def load_weights(self, tensors: dict[str, np.ndarray]) -> None:
        load_tensors(self.model, tensors)
        if self.average:
            self.average = Average(self.model, self.average.decay)

    def merge_adapters(self, folder: Path, *, base: str) -> None:
        if self.average:  # it is the model from here on
            load_tensors(self.model, self.weights())
            self.average = None
        save_adapter(self.model, self.task.model, folder, base=base)
        merge(self.model)

    def carried(self) -> dict[str, torch.Tensor]:
        """Carry, average and guard by name: what a checkpoint holds beside model and optimizer."""
        carry = {
            f"carry.{layer}.{part}": value
            for layer, state in enumerate(self.carry or ())
            for part, value in enumerate(state)
        }
        values = self.average.values if self.average else {}
        guard = {"losses": self.guard.losses, "count": self.guard.count} if self.guard else {}
        return (
            carry
            | {f"average.{name}": value for name, value in values.items()}
            | {f"guard.{name}": value for name, value in guard.items()}
        )

    def carry_on(self, tensors: dict[str, torch.Tensor]) -> None:
        """Takes what `carried` gave; tensors of other names are left alone."""
        carry: dict[int, list[torch.Tensor]] = {}
        for key, value in sorted(tensors.items()):
            kind, _, rest = key.partition(".")
            if kind == "carry":
                layer = int(rest.partition(".")[0])
                carry.setdefault(layer, []).append(value.to(self.device))
            elif kind == "average" and self.average:
                self.average.values[rest].copy_(value)
            elif kind == "guard" and self.guard:
                getattr(self.guard, rest).copy_(value)
        self.carry = tuple(tuple(carry[layer]) for layer in sorted(carry)) or None

    def save(self, name: str, position: Position) -> None:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        model = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        slots = {
            f"optimizer.{index}.{key}": value
            for index, state in self.optimizer.state_dict()["state"].items()
            for key, value in state.items()
            if value is not None
        }
        parts = model | slots | self.carried()
        tensors = {key: value.cpu().contiguous() for key, value in parts.items()}
        record = seal(position, as_numpy(tensors))
        with replaced(folder / f"{position['step']}.safetensors") as temporary:
            save_file(tensors, temporary, metadata={"record": json.dumps(record)})
        keep = self.task.training.keep_checkpoints if name == "last" else 1
        for older in saved_steps(folder)[:-keep]:
            (folder / f"{older}.safetensors").unlink()

    def finish_saving(self) -> None:
        """Nothing: `save` returns when all is on the disk."""

    def restore(self, name: str, step: int | None = None) -> Position:
        folder = self.folder / name
        step, before = choose_step(folder, saved_steps(folder), step)
        path = folder / f"{step}.safetensors"
        try:
            with safe_open(path, "pt") as file:
                record = json.loads(file.metadata()["record"])
                # Cloned, since the optimizer keeps what it is given, and this is the mapped file.
                tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        except Exception as error:  # a damaged header fails in as many ways as it has fields
            raise damaged(path, error, before) from error
        model = as_numpy({f"model.{key}": v for key, v in self.model.state_dict().items()})
        check_record(record, model, where=str(path), prefix="model.", before=before)
        position = check_tensors(record, as_numpy(tensors), where=str(path), before=before)
        content = self.optimizer.state_dict() | {"state": {}}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, slot = key.split(".")
                content["state"].setdefault(int(index), {})[slot] = value
        self.carry_on(tensors)
        self.model.load_state_dict(
            {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        )
        self.optimizer.load_state_dict(content)
        for later in (other for other in saved_steps(folder) if other > step):
            (folder / f"{later}.safetensors").unlink(
                missing_ok=True
            )  # the resumed training makes it again
        return position


def make_model(task: Task, start: Start | None = None) -> nn.Module:
    """The task's model as it is when its training starts.

    Drawn from the seed, or with what `start` makes of that; then with the task's adapters; then
    frozen where it does not train.
    """
    model = create(task.model, seed=task.training.seed)
    if start is not None:
        load_tensors(model, start(read_tensors(model)))
    if task.lora.rank:
        add_lora(model, task.lora, seed=task.training.seed)
    freeze_found(model, task.optimizer.freeze)
    return model


def to_tensors(batch: dict[str, np.ndarray], device: torch.device | None = None) -> Batch:
    """On the CPU, unless told otherwise."""
    return {name: torch.from_numpy(value).to(device) for name, value in batch.items()}


def as_numpy(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.detach().cpu().numpy() for name, value in tensors.items()}
