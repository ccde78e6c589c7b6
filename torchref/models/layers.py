"""The initialiser, activations and pooling that the torch models share."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from jaxmodels.shared.configs import INITIALIZERS

ACTIVATIONS = {
    "relu": F.relu,
    "swish": F.silu,
    "gelu": partial(F.gelu, approximate="none"),
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


def initialize(
    model: nn.Module,
    initializer: str,
    generator: torch.Generator | None,
    *,
    embedding_deviation: float = 1.0,
) -> None:
    """Draws kernels as `initializer` says and zeroes biases; norms keep their ones and zeros.

    Embeddings, by default, and recurrent layers are drawn as torch does, but from the generator.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            deviation = INITIALIZERS[initializer](module.weight[0].numel())
            nn.init.normal_(module.weight, std=deviation, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=embedding_deviation, generator=generator)
        elif isinstance(module, nn.RNNBase):
            bound = module.hidden_size**-0.5
            for parameter in module.parameters():
                nn.init.uniform_(parameter, -bound, bound, generator=generator)


def to_channels_first(images: torch.Tensor) -> torch.Tensor:
    """(B, H, W, C) -> (B, C, H, W). The memory stays NHWC, which torch calls channels_last."""
    return images.permute(0, 3, 1, 2)


def flatten(x: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> (B, H * W * C), in Flax's order, so that both share the next kernel."""
    return x.permute(0, 2, 3, 1).flatten(1)


def max_pool(x: torch.Tensor) -> torch.Tensor:
    """The maximum of each 2x2 window: x (B, C, H, W) -> (B, C, H/2, W/2)."""
    return F.max_pool2d(x, kernel_size=2, stride=2)


def overlapping_max_pool(x: torch.Tensor) -> torch.Tensor:
    """The maximum of each 3x3 window, two pixels apart: x (B, C, H, W) -> (B, C, H/2, W/2).

    An odd height or width is halved upwards. The border is padded with -inf.
    """
    return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
