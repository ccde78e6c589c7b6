"""The torch-xla engine: the shared loop on XLA devices, TPUs above all (PJRT_DEVICE=CPU: a CPU).

>>> engine = XLAEngine(task, folder)
>>> history = fit(task, data, engine, folder, resume=False)

A step is recorded, compiled once and run at its end. Several devices of one process share each
batch by its rows, and the step is still that of the whole batch (SPMD). Of several processes, which
`torchref.engines.xla_launch` starts, each takes its own rows, as in the Accelerate engine.
"""

# torch_xla has an environment of its own.
# pyright: reportMissingImports=false

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
import torch_xla
import torch_xla.runtime
from torch_xla.core import xla_model
from torch_xla.distributed.parallel_loader import MpDeviceLoader
from torch_xla.distributed.spmd import Mesh, ShardingSpec

from jaxmodels.shared.checksums import Position
from jaxmodels.shared.loop import Start
from jaxmodels.shared.processes import check_count, this_process
from jaxmodels.shared.tasks import Task
from torchref.engines import xla_kernels  # noqa: F401 (registers torch's own)
from torchref.engines.plain import TorchEngine, to_tensors
from torchref.optim import prepare_gradients, set_learning_rate
from torchref.processes import rows_of, rows_of_all
from torchref.step import Batch, compute_gradients, predict


class XLAEngine(TorchEngine):
    """Trains a task's model; `folder` receives the checkpoints. See `make_model`.

    In several processes BatchNorm normalises by each one's own rows; its running statistics are the
    processes' mean. On several devices of one process it normalises by the whole batch.

    torch's autograd knows XLA devices only if one was asked for before its first backward pass.

    Raises:
        ValueError: the model checkpoints its gradients, which torch does not on XLA devices.
    """

    def __init__(self, task: Task, folder: Path, start: Start | None = None):
        if getattr(task.model, "gradient_checkpointing", False):
            raise ValueError(
                "--model.gradient-checkpointing: not with --engine xla; leave it out, or take "
                "--engine torch; --training.micro-batches saves memory too"
            )
        self.process = this_process()
        self.sharding = _share_rows() if self.process.count == 1 else None
        super().__init__(task, folder, start, device=torch_xla.device())
        if self.process.count > 1 and _on_cpus() and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        self.fed: tuple[Any, Batch] = (None, {})
        torch_xla.sync()

    @contextmanager
    def feed(self, batches: Iterator[dict[str, np.ndarray]]) -> Iterator[Any]:
        """Sends batches to the device while earlier ones train; `train_step` finds them there."""
        failures: list[Exception] = []

        def pairs() -> Iterator[Any]:
            try:
                for batch in batches:
                    yield batch, to_tensors(batch)
            except Exception as error:  # which would end the loader's thread, and no more
                failures.append(error)

        loader = MpDeviceLoader(
            pairs(),
            self.device,
            loader_prefetch_size=2,
            device_prefetch_size=2,
            input_sharding=self.sharding,
        )
        arrivals = iter(loader)

        def fed() -> Iterator[Any]:
            for self.fed in arrivals:
                yield self.fed[0]
            raise failures[0]  # else there is no end

        try:
            yield fed()
        finally:
            arrivals._loader.close()

    def on_device(self, batch: dict[str, np.ndarray]) -> Batch:
        if batch is self.fed[0]:
            return self.fed[1]
        return xla_model.send_cpu_data_to_device([to_tensors(batch)], self.device, self.sharding)[0]

    def train_step(self, batch: dict[str, np.ndarray], *, step: int, rate: float) -> dict[str, Any]:
        self.optimizer.zero_grad()
        metrics, self.carry = compute_gradients(
            self.task,
            self.model,
            self.on_device(batch),
            self.carry,
            step=step,
            seed=self.task.training.seed,
            draw_from=torch_xla.manual_seed,
            process=self.process.index,
            processes=self.process.count,
        )
        if self.process.count > 1:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            self._sum([*gradients, *metrics.values()])
        prepare_gradients(self.task.optimizer, self.model)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        if self.process.count > 1:
            statistics = [b for b in self.model.buffers() if b.is_floating_point()]
            self._sum(statistics, scale=1 / self.process.count)
        if self.average:
            self.average.update()
        torch_xla.sync()
        return metrics

    def predict(self, batch: dict[str, np.ndarray], carry: Any = None) -> tuple[np.ndarray, Any]:
        with self.averaged():
            outputs, carry = predict(self.task, self.model, self.on_device(batch), carry)
            torch_xla.sync()  # the carry too, which would else be computed again with what it feeds
        return outputs.cpu().numpy(), carry

    @torch.no_grad()
    def _sum(self, tensors: list[torch.Tensor], *, scale: float = 1.0) -> None:
        """Over the processes, in place."""
        if not _on_cpus():
            xla_model.all_reduce("sum", tensors, scale=scale)
            return
        torch_xla.sync()
        for tensor in tensors:  # XLA's collectives are not for the CPUs of several processes
            found = tensor.detach().cpu()
            torch.distributed.all_reduce(found)
            tensor.copy_(found * scale)

    def carried(self) -> dict[str, torch.Tensor]:
        """Of all processes."""
        return rows_of_all(super().carried(), self._gather_rows)

    def _gather_rows(self, value: torch.Tensor) -> torch.Tensor:
        """(_, B, _) of each process -> (_, processes * B, _)."""
        index, count = self.process.index, self.process.count
        own = [value if n == index else torch.zeros_like(value) for n in range(count)]
        rows = torch.cat(own, dim=1)
        if count > 1:
            self._sum([rows])
            torch_xla.sync()
        return rows

    def carry_on(self, tensors: dict[str, torch.Tensor]) -> None:
        """Takes this process's rows."""
        super().carry_on(rows_of(self.process, tensors))

    def save(self, name: str, position: Position) -> None:
        if self.process.is_main:
            super().save(name, position | {"processes": self.process.count})
        else:
            self.carried()  # its rows, to the main process
        if self.process.count > 1:  # may read it next
            torch.distributed.barrier() if _on_cpus() else xla_model.rendezvous("saved")

    def restore(self, name: str, step: int | None = None) -> Position:
        position = dict(super().restore(name, step))
        check_count(self.folder / name, position.pop("processes"), self.process)
        torch_xla.sync()
        return position


class _Rows:
    """How tensors of any rank are laid over the devices: by their first axis."""

    minibatch = False

    def __init__(self, count: int):
        self.mesh = Mesh(np.arange(count), (count,), ("rows",))

    def xla_spec(self, tensor: torch.Tensor) -> Any:
        axes = ("rows", *[None] * (tensor.ndim - 1))
        return ShardingSpec(self.mesh, axes).xla_spec(tensor) if tensor.ndim else None


def _share_rows() -> _Rows | None:
    """Makes this process's devices one, over which batches are laid; None if there is but one."""
    count = torch_xla.runtime.global_runtime_device_count()
    if count == 1:
        return None
    if not torch_xla.runtime.is_spmd():
        torch_xla.runtime.use_spmd()
    return _Rows(count)


def _on_cpus() -> bool:
    return torch_xla.runtime.device_type() == "CPU"
