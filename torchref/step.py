"""One training step of a task in torch; every torch engine calls these.

>>> optimizer = make_optimizer(task.optimizer, model)
>>> metrics = train_step(task, model, optimizer, batch, step=0, rate=0.1, seed=0)
"""

import torch
from torch import nn

from jaxmodels.shared.tasks import Task
from torchref.losses import cross_entropy
from torchref.optim import prepare_gradients, set_learning_rate

Batch = dict[str, torch.Tensor]


def training_loss(
    task: Task, model: nn.Module, batch: Batch, *, step: int, seed: int
) -> dict[str, torch.Tensor]:
    """{"loss", "accuracy"} of a batch in training mode; the loss carries the graph.

    Dropout draws from a generator seeded by (seed, step), so a resumed run draws the same masks
    and no generator's state needs saving. The process-wide generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed((seed << 32) + step)
        logits = forward(task, model, batch["image"])
    loss = cross_entropy(logits, batch["label"], label_smoothing=task.training.label_smoothing)
    accuracy = (logits.detach().argmax(dim=-1) == batch["label"]).float().mean()
    return {"loss": loss, "accuracy": accuracy}


def forward(task: Task, model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Logits, with convolutions and linear layers in the task's precision."""
    bfloat16 = task.training.precision == "bfloat16"
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
        return model(images)


def train_step(
    task: Task,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    step: int,
    rate: float,
    seed: int,
) -> dict[str, torch.Tensor]:
    """Forward, backward and update, in place."""
    metrics = training_loss(task, model, batch, step=step, seed=seed)
    optimizer.zero_grad()
    metrics["loss"].backward()
    prepare_gradients(task.optimizer, model)
    set_learning_rate(optimizer, rate)
    optimizer.step()
    return {name: value.detach() for name, value in metrics.items()}


@torch.no_grad()
def predict(task: Task, model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Logits in evaluation mode, float32 at least; the model's mode is left as it was."""
    training = model.training
    logits = forward(task, model.eval(), images)
    model.train(training)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
