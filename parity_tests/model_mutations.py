"""Known differences between the frameworks that lie in a model: each injected into a clean pair.

>>> pair = set_attribute(BatchNorm, "epsilon", 1e-3)(CASES["simplecnn-norm"]())
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.frozen import FrozenBatchNorm, become
from jaxmodels.lora import LoRALinear
from jaxmodels.models import BERT, SimpleCNN, attention
from jaxmodels.models.attention import MultiHeadAttention
from jaxmodels.models.layers import BatchNorm, Conv
from jaxmodels.models.recurrent import LSTM, State, gru_cell, lstm_cell
from jaxmodels.models.time_series import InstanceNorm, Statistics
from jaxmodels.modules import named_modules, replace_call
from parity_tests.pairs import Pair

Injection = Callable[[Pair], Pair]


def _with_modules(pair: Pair, kind: type, change: Callable[[nnx.Module], None]) -> Pair:
    """The pair with `change` applied to every Flax module of a kind."""
    model = nnx.clone(pair.flax)
    changed = [module for _, module in named_modules(model) if isinstance(module, kind)]
    assert changed, f"{pair.name} has no {kind.__name__}"
    for module in changed:
        change(module)
    return dataclasses.replace(pair, flax=model)


def set_attribute(kind: type, name: str, value: object) -> Injection:
    """Gives every module of a kind another value of an attribute."""
    return lambda pair: _with_modules(pair, kind, lambda module: setattr(module, name, value))


def _replace(kind: type, call: Callable[..., Any]) -> Injection:
    """Gives every module of a kind another `__call__`."""
    return lambda pair: _with_modules(pair, kind, lambda module: replace_call(module, call))


@partial(_replace, BatchNorm)
def biased_running_variance(self: BatchNorm, x: jax.Array, *, train: bool = False) -> jax.Array:
    before = self.var[...]
    y = BatchNorm.__call__(self, x, train=train)
    if train:
        count = x.size // x.shape[-1]
        batch = (self.var[...] - before) / self.momentum + before
        self.var[...] = before + self.momentum * (batch * (count - 1) / count - before)
    return y


@partial(_replace, BatchNorm)
def fast_variance(self: BatchNorm, x: jax.Array, *, train: bool = False) -> jax.Array:
    y = BatchNorm.__call__(self, x, train=train)
    if not train:
        return y
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    variance = (x * x).mean(axes) - mean * mean
    return (x - mean) * jax.lax.rsqrt(variance + self.epsilon) * self.scale[...] + self.bias[...]


@partial(_replace, BatchNorm)
def statistics_per_device(self: BatchNorm, x: jax.Array, *, train: bool = False) -> jax.Array:
    halves = jnp.split(x, 2)
    return jnp.concatenate([BatchNorm.__call__(self, half, train=train) for half in halves])


@partial(_replace, Conv)
def pad_same(self: Conv, x: jax.Array) -> jax.Array:
    if self.stride == 1:
        return Conv.__call__(self, x)
    return jax.lax.conv_general_dilated(
        x,
        self.kernel[...],
        (self.stride, self.stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@partial(_replace, nnx.Linear)
def bfloat16_product(self: nnx.Linear, x: jax.Array) -> jax.Array:
    product = x.astype(jnp.bfloat16) @ self.kernel[...].astype(jnp.bfloat16)
    assert self.bias is not None
    return product.astype(x.dtype) + self.bias[...]


@partial(_replace, nnx.Linear)
def float32_leak(self: nnx.Linear, x: jax.Array) -> jax.Array:
    return nnx.Linear.__call__(self, x.astype(jnp.float32).astype(x.dtype))


def gates_i_f_o_g(projected: jax.Array, recurrent: jax.Array, state: State) -> State:
    """The order of Keras before 2, and of some papers: the last two blocks swapped."""

    def swap(gates: jax.Array) -> jax.Array:
        first, second, third, fourth = jnp.split(gates, 4, axis=-1)
        return jnp.concatenate([first, second, fourth, third], axis=-1)

    return lstm_cell(swap(projected), swap(recurrent), state)


def update_gate_of_the_new(projected: jax.Array, recurrent: jax.Array, state: State) -> State:
    """Cho et al.'s first version: the gate weighs the candidate, where torch's weighs the old."""
    (new,) = gru_cell(projected, recurrent, state)
    update = jax.nn.sigmoid(
        sum(jnp.split(gates, 3, axis=-1)[1] for gates in (projected, recurrent))
    )
    candidate = (new - update * state[0]) / (1 - update)
    return (update * candidate + (1 - update) * state[0],)


@partial(_replace, LSTM)
def padding_advances(
    self: LSTM, x: jax.Array, lengths: jax.Array | None = None, state: State | None = None
) -> tuple[jax.Array, State]:
    return LSTM.__call__(self, x, None, state)


@partial(_replace, LSTM)
def one_trained_bias(
    self: LSTM, x: jax.Array, lengths: jax.Array | None = None, state: State | None = None
) -> tuple[jax.Array, State]:
    for suffix in self.suffixes:
        bias = getattr(self, f"bias_hh{suffix}")
        bias[...] = jax.lax.stop_gradient(bias[...])
    return LSTM.__call__(self, x, lengths, state)


Attended = tuple[jax.Array, jax.Array]  # (B, N, T, D), the weights (B, N, T, S)


def _attend(attend: Callable[..., Attended]) -> Injection:
    """Gives every attention layer another function than `attention`."""

    def call(self: MultiHeadAttention, *args: Any, **options: Any) -> Any:
        with mock.patch.object(attention, "attention", attend):
            return MultiHeadAttention.__call__(self, *args, **options)

    return _replace(MultiHeadAttention, call)


_attention = attention.attention  # the right one, which the wrong ones below call


@_attend
def sees_the_next(query: Any, key: Any, value: Any, mask: Any, dropout: Any) -> Attended:
    return _attention(query, key, value, mask | jnp.eye(len(mask), k=1, dtype=bool), dropout)


@_attend
def true_is_ignore(query: Any, key: Any, value: Any, mask: Any, dropout: Any) -> Attended:
    return _attention(query, key, value, ~mask, dropout)


@_attend
def scale_by_width(query: Any, key: Any, value: Any, mask: Any, dropout: Any) -> Attended:
    num_heads = query.shape[1]
    return _attention(query * num_heads**-0.5, key, value, mask, dropout)


@_attend
def mean_where_all_is_masked(query: Any, key: Any, value: Any, mask: Any, dropout: Any) -> Attended:
    attended, weights = _attention(query, key, value, mask, dropout)
    some = mask.any(axis=-1, keepdims=True)
    return jnp.where(some, attended, value.mean(axis=-2, keepdims=True)), weights


@_attend
def float32_softmax(query: Any, key: Any, value: Any, mask: Any, dropout: Any) -> Attended:
    def leak(weights: jax.Array) -> jax.Array:
        return dropout(weights.astype(jnp.float32).astype(weights.dtype))

    return _attention(query, key, value, mask, leak)


@partial(_replace, BERT)
def positions_of_padding(self: BERT, input_ids: jax.Array, *args: Any, **options: Any) -> Any:
    """From 0, as BERT's, and not from padding_id + 1."""
    cumsum = jnp.cumsum
    with mock.patch.object(
        jnp, "cumsum", lambda *a, **b: cumsum(*a, **b) - 1 - self.config.padding_id
    ):
        return BERT.__call__(self, input_ids, *args, **options)


def transpose_square_kernel(pair: Pair) -> Pair:
    def call(self: nnx.Linear, x: jax.Array) -> jax.Array:
        assert self.bias is not None
        return x @ self.kernel[...].T + self.bias[...]

    return _with_modules(pair, MultiHeadAttention, lambda m: replace_call(m.output, call))  # type: ignore[attr-defined]


@partial(_replace, InstanceNorm)
def deviation_of_n_minus_1(self: InstanceNorm, x: jax.Array) -> tuple[jax.Array, Statistics]:
    mean = x.mean(axis=1, keepdims=True)
    deviation = jnp.sqrt(x.var(axis=1, ddof=1, keepdims=True) + self.epsilon)
    return (x - mean) / deviation * self.scale[...] + self.bias[...], (mean, deviation)


def alpha_without_rank(pair: Pair) -> Pair:
    def change(layer: Any) -> None:
        config = layer.lora_config
        layer.lora_config = dataclasses.replace(config, alpha=config.alpha * config.rank)

    return _with_modules(pair, LoRALinear, change)


def frozen_statistics_go_on(pair: Pair) -> Pair:
    return _with_modules(pair, FrozenBatchNorm, lambda module: become(module, BatchNorm))


def flatten_channels_first(pair: Pair) -> Pair:
    model = nnx.clone(pair.flax)
    assert isinstance(model, SimpleCNN)
    channels = model.block2.conv.kernel.shape[-1]

    def call(self: nnx.Linear, x: jax.Array) -> jax.Array:
        pixels = x.reshape(len(x), -1, channels)  # (B, H * W, C)
        return nnx.Linear.__call__(self, pixels.swapaxes(1, 2).reshape(x.shape))

    replace_call(model.linear1, call)
    return dataclasses.replace(pair, flax=model)
