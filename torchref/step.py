"""One training step of a task in torch; every torch engine calls these.

>>> optimizer = make_optimizer(task.optimizer, model)
>>> metrics, carry = train_step(task, model, optimizer, batch, step=0, rate=0.1, seed=0)
"""

from typing import Any

import torch
from torch import nn

from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.model_output import logits_of
from jaxmodels.shared.tasks import Task
from torchref.models import CharRNN
from torchref.models.gpt2 import GPT2
from torchref.objective import make_objective
from torchref.optim import prepare_gradients, set_learning_rate

Batch = dict[str, torch.Tensor]
Carry = Any  # per layer a tuple of (directions, B, H); None before the first batch, or for good


def training_loss(
    task: Task, model: nn.Module, batch: Batch, carry: Carry = None, *, step: int, seed: int
) -> tuple[dict[str, torch.Tensor], Carry]:
    """{"loss", "metric"} of a batch in training mode, where the loss carries the graph; carry.

    Dropout draws from a generator seeded by (seed, step), so a resumed run draws the same masks
    and no generator's state needs saving. The process-wide generator is left as it was.
    """
    objective = make_objective(task)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed((seed << 32) + step)
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
    bfloat16 = task.training.precision == "bfloat16"
    with torch.autocast(inputs[0].device.type, torch.bfloat16, enabled=bfloat16):
        if isinstance(model, GPT2) and "start" in batch:
            cache = carry or model.initial_cache(len(inputs[0]), model.config.context_length)
            output = model(*inputs, cache=cache, start=int(batch["start"]))
            return output.logits, output.cache
        if not isinstance(model, CharRNN):
            return logits_of(model(*inputs)), None
        if carry is not None:
            keep = ~batch["reset"][:, None]
            carry = tuple(tuple(part.where(keep, 0) for part in state) for state in carry)
        outputs, carry = model(*inputs, carry)
        return outputs, tuple(tuple(part.detach() for part in state) for state in carry)


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
) -> tuple[dict[str, torch.Tensor], Carry]:
    """Forward, backward and update, in place."""
    metrics, carry = training_loss(task, model, batch, carry, step=step, seed=seed)
    optimizer.zero_grad()
    metrics["loss"].backward()
    prepare_gradients(task.optimizer, model)
    set_learning_rate(optimizer, rate)
    optimizer.step()
    return {name: value.detach() for name, value in metrics.items()}, carry


@torch.no_grad()
def predict(
    task: Task, model: nn.Module, batch: Batch, carry: Carry = None
) -> tuple[torch.Tensor, Carry]:
    """(outputs, carry) in evaluation mode, float32 at least; the model's mode is left as it was."""
    training = model.training
    outputs, carry = forward(task, model.eval(), batch, carry)
    model.train(training)
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32)), carry
