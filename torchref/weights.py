"""A torch model's tensors as numpy by name, strictly, in and out."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from jaxmodels.shared.weights import WeightRules, check_match, without_ignored


def read_tensors(model: nn.Module, rules: WeightRules | None = None) -> dict[str, np.ndarray]:
    """Every parameter and statistic, copied to the host; batch counters are left out."""
    state = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
    return {name: value.copy(order="C") for name, value in without_ignored(state, rules).items()}


def load_tensors(
    model: nn.Module, tensors: Mapping[str, np.ndarray], rules: WeightRules | None = None
) -> None:
    """Replaces every parameter and statistic, in place; each takes the model's dtype.

    Raises:
        ValueError: tensors are missing, left over or of another shape; all are listed.
    """
    targets = model.state_dict()
    state = {name: targets[name] for name in without_ignored(targets, rules)}  # type: ignore[arg-type]
    found = without_ignored(tensors, rules)
    check_match(
        {name: value.shape for name, value in found.items()},
        {name: tuple(value.shape) for name, value in state.items()},
    )
    with torch.no_grad():
        for name, target in state.items():
            target.copy_(torch.from_numpy(np.ascontiguousarray(found[name])))
