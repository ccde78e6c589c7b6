"""The optimizers a task names, as torch's own; the twins of `jaxmodels.optim`.

The learning rate of a step comes from `jaxmodels.shared.schedules` through `set_learning_rate`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from jaxmodels.shared.parameter_groups import rate_scales
from jaxmodels.shared.tasks import OptimizerConfig


def make_optimizer(
    config: OptimizerConfig, model: nn.Module, layers: Sequence[int] = ()
) -> torch.optim.Optimizer:
    """torch's optimizer with two groups a rate: the decayed parameters and the spared ones.

    Parameters that require no gradient have no place in it. `layers` are the model's, by
    `layers_of`; they matter where the rates differ by layer.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    scales = dict.fromkeys(parameters, 1.0)
    if config.layer_decay != 1:
        scales = rate_scales(config.layer_decay, parameters, layers)
    members: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        members.setdefault((scales[name], _decays(config, parameter)), []).append(parameter)
    groups = [
        {
            "params": members[scale, decays],
            "weight_decay": config.weight_decay if decays else 0.0,
            "l1": config.l1 if decays else 0.0,
            "rate_scale": scale,
        }
        for scale, decays in sorted(members, reverse=True)
    ]
    if config.name in ("sgd", "proximal-sgd"):
        kind = ProximalSGD if config.name == "proximal-sgd" else torch.optim.SGD
        return kind(
            groups,
            lr=config.learning_rate,
            momentum=config.momentum,
            nesterov=config.nesterov,
        )
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.epsilon)


class ProximalSGD(torch.optim.SGD):
    """SGD whose parameters are then shrunk towards 0, as `OptimizerConfig` says, by their l1."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = super().step(closure)
        for group in self.param_groups:
            threshold = group["lr"] * (group["l1"] / (1 - group["momentum"]))
            for parameter in group["params"] if threshold else ():
                parameter.copy_(shrink(parameter, threshold))
        return loss


def shrink(x: torch.Tensor, threshold: float) -> torch.Tensor:
    """Each value moved towards 0 by the threshold, and no further than 0."""
    return torch.sign(x) * torch.clamp(torch.abs(x) - threshold, min=0)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives every parameter group its layer's share of this step's rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_scale"]


@torch.no_grad()
def prepare_gradients(config: OptimizerConfig, model: nn.Module) -> None:
    """Clips the gradients by their global norm, then adds L1's; call before `optimizer.step`.

    torch's own `clip_grad_norm_` divides by norm + 1e-6, which no other framework does.
    """
    parameters = [p for p in model.parameters() if p.grad is not None]
    gradients = [p.grad for p in parameters if p.grad is not None]
    if config.clip_norm:
        norm = torch.linalg.vector_norm(
            torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
        )
        scale = torch.clamp(config.clip_norm / norm, max=1.0)
        torch._foreach_mul_(gradients, scale)  # pyright: ignore[reportPrivateImportUsage]
    if config.l1 and config.name != "proximal-sgd":
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if _decays(config, parameter):
                gradient.add_(parameter.sign(), alpha=config.l1)


def slots(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    """The optimizer's per-parameter memory by its common name, for the ladder."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if key in _SLOT_NAMES:
                found.setdefault(_SLOT_NAMES[key], {})[name] = value
    return found


def _decays(config: OptimizerConfig, parameter: nn.Parameter) -> bool:
    """A kernel has more than one axis; biases and norms have one."""
    return config.decay_mask == "all" or parameter.ndim > 1


_SLOT_NAMES = {
    "momentum_buffer": "momentum",
    "exp_avg": "first_moment",
    "exp_avg_sq": "second_moment",
}
