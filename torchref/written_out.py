"""Convolution and linear layer from slices, products and sums alone, for whoever wants to see them.

`written_out(model)` computes with them what the model's own layers compute.
"""

import copy

import torch
from torch import nn


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x (..., I), weight (O, I), bias (O,) -> (..., O)."""
    y = (x[..., None, :] * weight).sum(-1)
    return y if bias is None else y + bias


def convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
) -> torch.Tensor:
    """x (B, I, H, W), weight (O, I, K, K), bias (O,) -> (B, O, H', W'): a cross-correlation.

    A sum over the kernel's places of a linear layer on the pixels that lie under each.
    """
    size = weight.shape[-1]
    x = nn.functional.pad(x, (padding,) * 4).permute(0, 2, 3, 1)
    height, width = ((length - size) // stride + 1 for length in x.shape[1:3])
    y = sum(
        linear(
            x[:, row : row + stride * height : stride, column : column + stride * width : stride],
            weight[:, :, row, column],
        )
        for row in range(size)
        for column in range(size)
    )
    assert isinstance(y, torch.Tensor)
    return (y if bias is None else y + bias).permute(0, 3, 1, 2)


class Convolution(nn.Conv2d):
    """torch's layer, computed by the above."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        stride, padding = self.stride[0], self.padding[0]
        assert isinstance(padding, int)
        return convolution(x, self.weight, self.bias, stride=stride, padding=padding)


class Linear(nn.Linear):
    """torch's layer, computed by the above."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return linear(x, self.weight, self.bias)


def written_out(model: nn.Module) -> nn.Module:
    """A copy whose convolutions and linear layers are computed by the above."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = Convolution
        elif type(module) is nn.Linear:
            module.__class__ = Linear
    return model
