"""Surgery on a pair's models: record every block's output, share dropout masks.

The models know nothing of this: modules get a subclass of their own class for the occasion.
"""

import copy
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

from jaxmodels.modules import named_modules, replace_call
from torchref.models.attention import MultiHeadAttention


def dropout_mask(name: str, shape: tuple[int, ...], rate: float) -> np.ndarray:
    """The mask that both frameworks' dropout layer `name` uses: kept values are 1 / (1 - rate)."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return (rng.random(shape) >= rate) / (1 - rate)


def share_flax_dropout(model: nnx.Module) -> nnx.Module:
    """The model, its dropout layers drawing `dropout_mask`, in place."""
    for name, module in named_modules(model):
        if isinstance(module, nnx.Dropout):

            def call(self: Any, x: jax.Array, *, deterministic: bool, name: str = name, **_: Any):
                if deterministic or not self.rate:
                    return x
                return x * jnp.asarray(dropout_mask(name, x.shape, self.rate), x.dtype)

            replace_call(module, call)
    return model


def share_torch_dropout(model: nn.Module) -> nn.Module:
    """A copy of the model whose dropout layers draw `dropout_mask`."""
    model = copy.deepcopy(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            images = not _in_attention(model, name)

            def hook(
                module: nn.Dropout,
                inputs: Any,
                output: torch.Tensor,
                name: str = name,
                images: bool = images,
            ):
                x = inputs[0]
                if not module.training or not module.p:
                    return x
                shape = (_channels_last(x) if images else x).shape
                mask = torch.from_numpy(dropout_mask(name, tuple(shape), module.p))
                return x * (_channels_first(mask) if images else mask).to(x.dtype)

            module.register_forward_hook(hook)
    return model


@contextmanager
def recorded_flax(model: nnx.Module) -> Iterator[dict[str, jax.Array]]:
    """Collects each submodule's (first) output by dotted path, in order of execution."""
    outputs: dict[str, jax.Array] = {}
    for name, module in named_modules(model):
        if name and callable(module):
            original = type(module).__call__

            def call(
                self: Any,
                *args: Any,
                name: str = name,
                original: Callable[..., Any] = original,
                **kw: Any,
            ):
                result = original(self, *args, **kw)
                outputs[name] = _first(result)
                return result

            replace_call(module, call)
    yield outputs


@contextmanager
def recorded_torch(model: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Collects each submodule's (first) output by dotted path, channels last, in order."""
    outputs: dict[str, torch.Tensor] = {}
    handles = []
    for name, module in model.named_modules():
        if name:
            images = not _in_attention(model, name)

            def hook(
                module: nn.Module, inputs: Any, output: Any, name: str = name, images: bool = images
            ) -> None:
                x = _first(output)
                if not isinstance(x, torch.Tensor):
                    return  # transformers' models put out objects of their own
                # Cloned, for a later relu may be in place.
                outputs[name] = (_channels_last(x) if images else x).clone()

            handles.append(module.register_forward_hook(hook))
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _first(output: Any) -> Any:
    """Of a recurrent layer's (outputs, state) the outputs, in which the state shows."""
    return output[0] if isinstance(output, tuple) else output


def _in_attention(model: nn.Module, name: str) -> bool:
    """Whether a module's four axes are (B, N, T, S) in both frameworks, and not those of images."""
    return isinstance(model.get_submodule(name.rpartition(".")[0]), MultiHeadAttention)


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


def _channels_first(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 3, 1, 2) if x.ndim == 4 else x
