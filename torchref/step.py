"""One training step of a task in torch; every torch engine calls these.

>>> optimizer = make_optimizer(task.optimizer, model)
>>> metrics, carry = train_step(task, model, optimizer, batch, step=0, rate=0.1, seed=0)
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.model_output import logits_of
from jaxmodels.shared.tasks import Task
from torchref.guards import Guard
from torchref.models import CharRNN
from torchref.models.gpt2 import GPT2
from torchref.objective import make_objective
from torchref.optim import prepare_gradients, set_learning_rate

Batch = dict[str, torch.Tensor]
Carry = Any  # per layer a tuple of (directions, B, H); None before the first batch, or for good


def training_loss(
    task: Task,
    model: nn.Module,
    batch: Batch,
    carry: Carry = None,
    *,
    step: int,
    seed: int,
    draw_from: Callable[[int], Any] = torch.manual_seed,
) -> tuple[dict[str, torch.Tensor], Carry]:
    """{"loss", "metric"} of a batch in training mode, where the loss carries the graph; carry.

    Dropout draws from the generator that `draw_from` seeds, by (seed, step), so a resumed run draws
    the same masks and no generator's state needs saving. torch's own is left as it was.
    """
    objective = make_objective(task)
    with torch.random.fork_rng(devices=[]):
        draw_from((seed << 32) + step)
        outputs, carry = forward(task, model, batch, carry)
    targets = batch[objective.target]
    metric = objective.metric(outputs.detach(), targets)
    return {"loss": objective.loss(outputs, targets), "metric": metric}, carry


def forward(
    task: Task, model: nn.Module, batch: Batch, carry: Carry = None
) -> tuple[torch.Tensor, Carry]:
    """(outputs, carry), with convolutions and linear layers in the task's precision.

    Where the batch's "reset" (B,) is true, a row's carry starts at zero. The carry is detached:
    backpropagation ends with the batch. With "start" () a GPT-2 reads the tokens from that place
    on, and its cache is what it carries.
    """
    inputs = [batch[name] for name in family_of(task).INPUTS]
    kind = model.module if isinstance(model, DistributedDataParallel) else model
    bfloat16 = task.training.precision == "bfloat16"
    with torch.autocast(inputs[0].device.type, torch.bfloat16, enabled=bfloat16):
        if isinstance(kind, GPT2) and "start" in batch:
            cache = carry or kind.initial_cache(len(inputs[0]), kind.config.context_length)
            output = model(*inputs, cache=cache, start=int(batch["start"]))
            return output.logits, output.cache
        if not isinstance(kind, CharRNN):
            return logits_of(model(*inputs)), None
        if carry is not None:
            keep = ~batch["reset"][:, None]
            carry = tuple(tuple(part.where(keep, 0) for part in state) for state in carry)
        outputs, carry = model(*inputs, carry)
        return outputs, tuple(tuple(part.detach() for part in state) for state in carry)


def compute_gradients(
    task: Task,
    model: nn.Module,
    batch: Batch,
    carry: Carry = None,
    *,
    step: int,
    seed: int,
    backward: Callable[[torch.Tensor], Any] = torch.Tensor.backward,
    draw_from: Callable[[int], Any] = torch.manual_seed,
    process: int = 0,
    processes: int = 1,
) -> tuple[dict[str, torch.Tensor], Carry]:
    """Adds the batch's gradients to the parameters'; {"loss", "metric"}, carry.

    The batch is cut into the task's micro-batches, times the processes, of which this one takes its
    own; `carry` is that of its rows. Their means are weighted by what they count in the whole
    batch: summed over the processes, loss, metric and gradients are the whole batch's.
    """
    objective = make_objective(task)
    own = task.training.micro_batches
    parts = own * processes
    columns = [value.tensor_split(parts) for value in batch.values()]
    cut = [dict(zip(batch, values, strict=True)) for values in zip(*columns, strict=True)]
    total = max(int(objective.count(batch[objective.target])), 1) if parts > 1 else 1
    carries = _cut_carry(carry, own)
    sums: dict[str, torch.Tensor] = {}
    for number in range(own):
        part = process * own + number
        metrics, carries[number] = training_loss(
            task,
            model,
            cut[part],
            carries[number],
            step=step * parts + part,
            seed=seed,
            draw_from=draw_from,
        )
        share = int(objective.count(cut[part][objective.target])) / total if parts > 1 else 1.0
        backward(metrics["loss"] * share)
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0) + share * value.detach()
    return sums, _join_carries(carries)


def _cut_carry(carry: Carry, parts: int) -> list[Carry]:
    """The carry of each of so many parts of the rows."""
    if carry is None or parts == 1:
        return [carry] * parts
    return [
        tuple(tuple(x.tensor_split(parts, dim=1)[part] for x in layer) for layer in carry)
        for part in range(parts)
    ]


def _join_carries(carries: list[Carry]) -> Carry:
    if carries[0] is None or len(carries) == 1:
        return carries[0]
    return tuple(
        tuple(torch.cat(parts, dim=1) for parts in zip(*layers, strict=True))
        for layers in zip(*carries, strict=True)
    )


def train_step(
    task: Task,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    carry: Carry = None,
    *,
    step: int,
    rate: float,
    seed: int,
    guard: Guard | None = None,
) -> tuple[dict[str, torch.Tensor], Carry]:
    """Forward, backward and update, in place; guarded, the metrics say what is "skipped"."""
    optimizer.zero_grad()
    before = carry
    if guard:
        guard.remember()
    metrics, carry = compute_gradients(task, model, batch, carry, step=step, seed=seed)
    if guard:
        skipped = guard.judge(metrics["loss"])
        metrics["skipped"] = torch.tensor(skipped)
        if skipped:
            return metrics, before
    prepare_gradients(task.optimizer, model)
    set_learning_rate(optimizer, rate)
    optimizer.step()
    return metrics, carry


class Average:
    """An exponential moving average of a model's trained parameters, at first these themselves.

    Polyak & Juditsky 1992; each update takes 1 - decay from the parameters as they are.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = model
        self.decay = decay
        self.values = {
            name: parameter.detach().clone()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }

    @torch.no_grad()
    def update(self) -> None:
        for name, parameter in self.model.named_parameters():
            if name in self.values:
                # Made before the model was moved to its device, perhaps.
                old = self.values[name] = self.values[name].to(parameter.device)
                old.copy_(old + (1 - self.decay) * (parameter - old))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model with the average in its parameters' place."""
        parameters = {n: p for n, p in self.model.named_parameters() if n in self.values}
        own = {name: parameter.data for name, parameter in parameters.items()}
        try:
            for name, parameter in parameters.items():
                parameter.data = self.values[name].to(parameter.device)
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = own[name]


@torch.no_grad()
def predict(
    task: Task, model: nn.Module, batch: Batch, carry: Carry = None
) -> tuple[torch.Tensor, Carry]:
    """(outputs, carry) in evaluation mode, float32 at least; the model's mode is left as it was."""
    training = model.training
    outputs, carry = forward(task, model.eval(), batch, carry)
    model.train(training)
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32)), carry
