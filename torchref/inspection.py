"""A torch model layer by layer, without computing: a copy runs on the device that holds no numbers.

>>> print(layer_table(layers(model, images)))
"""

import copy
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.inspection import Layer, Shape
from jaxmodels.shared.loop import Start
from jaxmodels.shared.tasks import Task
from torchref.engines.plain import make_model, to_tensors
from torchref.step import compute_gradients
from torchref.weights import read_tensors


def layers(model: nn.Module, *inputs: Any) -> list[Layer]:
    """The layers of `model(*inputs)` in evaluation mode, in order of execution.

    MACs are halves of the FLOPs that torch's own counter finds. A fused LSTM hides from it in
    float32, so that the copy is in float64.
    """
    model = copy.deepcopy(model).to("meta", torch.float64).eval()
    arguments = [_on_meta(value) for value in inputs]
    calls: dict[str, tuple[tuple[Shape, ...], Shape]] = {}
    activations: Counter[str] = Counter()

    def record(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            found = _tensors(output)
            shapes = tuple(tuple(value.shape) for value in _tensors(inputs))
            calls.setdefault(name, (shapes, tuple(found[0].shape) if found else ()))
            activations[name] += found[0].numel() if found else 0

        return hook

    for name, module in model.named_modules():
        module.register_forward_hook(record(name))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*arguments)
    macs = _own_macs(model, counter.get_flop_counts())
    rows = []
    for name in calls:  # in the order of their first end
        module = model.get_submodule(name)
        weights = [tuple(p.shape) for p in module.parameters(recurse=False)]
        if weights or macs[name]:
            parameters = sum(p.numel() for p in module.parameters(recurse=False))
            kind = type(module).__name__
            row = (*calls[name], tuple(weights), parameters, macs[name], activations[name])
            rows.append(Layer(name, kind, *row))
    return rows


def layers_of_task(task: Task, batch: dict[str, np.ndarray]) -> list[Layer]:
    """The layers of a task's model for the batch, as it is when its training starts."""
    tensors = to_tensors(batch)
    return layers(make_model(task), *(tensors[name] for name in family_of(task).INPUTS))


def gradients(
    task: Task, batch: dict[str, np.ndarray], start: Start | None = None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(weights, their gradients) of the task's model before its first step, by torch's names."""
    model = make_model(task, start).train()
    compute_gradients(task, model, to_tensors(batch), step=0, seed=task.training.seed)
    found = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
    weights = read_tensors(model)
    return {name: weights[name] for name in found}, found


def _on_meta(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return value.to("meta", torch.float64 if value.is_floating_point() else None)


def _own_macs(model: nn.Module, counted: dict[str, dict[Any, int]]) -> Counter[str]:
    """The counter's FLOPs (each module with all in it) as MACs of each module's own."""
    root = type(model).__name__
    whole = {
        name: sum(counted.get(f"{root}.{name}".rstrip("."), {}).values())
        for name, _ in model.named_modules()
    }
    own = Counter(whole)
    for name, flops in whole.items():
        if name:
            own[_caller(name, whole)] -= flops
    return Counter({name: flops // 2 for name, flops in own.items()})


def _caller(name: str, whole: dict[str, int]) -> str:
    """The nearest module around another that is called itself; a list of modules is not."""
    parent = name.rpartition(".")[0]
    while parent and not whole[parent]:
        parent = parent.rpartition(".")[0]
    return parent


def _tensors(value: Any) -> list[torch.Tensor]:
    """In arguments, in a tuple, or in an output object; what is no tensor is passed over."""
    if isinstance(value, torch.Tensor):
        return [value]
    inner = getattr(value, "__dict__", {}).values()
    parts = value if isinstance(value, tuple | list) else inner
    return [tensor for part in parts for tensor in _tensors(part)]
