"""Parts of a torch model that do not train, by surgery that no model knows of.

>>> freeze(model, lambda name: name.startswith("blocks.0."))  # by a parameter's name
>>> optimizer = make_optimizer(task.optimizer, model)  # for what trains; unfreeze(model) undoes it

What is frozen has no gradient and no place in the optimizer, and computes the same function all the
while: a BatchNorm whose scale and bias are both frozen normalises by its running statistics in
training too, and leaves them as they are.
"""

from collections.abc import Callable

from torch import nn

from jaxmodels.shared.parameter_groups import find_frozen


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm that is in evaluation mode for good."""

    def train(self, mode: bool = True) -> "FrozenBatchNorm2d":
        return super().train(False)


def freeze(model: nn.Module, frozen: Callable[[str], bool]) -> None:
    """Freezes the parameters, by name, that `frozen` says are; in place."""
    for name, parameter in model.named_parameters():
        if frozen(name):
            parameter.requires_grad_(False)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d and not any(
            parameter.requires_grad for parameter in module.parameters()
        ):
            module.__class__ = FrozenBatchNorm2d
            module.eval()


def freeze_found(model: nn.Module, patterns: tuple[str, ...]) -> None:
    """Freezes the parameters in whose names a pattern is found, in place.

    Raises:
        ValueError: a pattern is found in none, or nothing is left to train.
    """
    if not patterns:
        return
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    freeze(model, find_frozen(patterns, names).__contains__)


def unfreeze(model: nn.Module) -> None:
    """All parameters train, in place."""
    model.requires_grad_(True)
    for module in model.modules():
        if type(module) is FrozenBatchNorm2d:
            module.__class__ = nn.BatchNorm2d  # pyright: ignore[reportAttributeAccessIssue]
            module.train(model.training)
