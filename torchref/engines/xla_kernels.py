"""What torch-xla does otherwise than torch, or too slowly, registered as torch's kernels for XLA.

Importing this module is enough: every model's `nn.LSTM`, `nn.GRU` and BatchNorm then computes
torch's numbers on an XLA device, and what is on other devices is left alone.

- torch-xla unrolls recurrent layers, and compiles for minutes. Here the steps are one loop, `scan`.
- torch-xla's BatchNorm averages the batches' biased variances, torch's the unbiased ones.
"""

# torch_xla has an environment of its own.
# pyright: reportMissingImports=false

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import library
from torch_xla.experimental.scan import scan

Tensors = Sequence[torch.Tensor]
# (states and recurrent weights, a step's gates (B, gates * H)) -> the same of the next step, output
Step = Callable[[Any, torch.Tensor], tuple[Any, torch.Tensor]]


def lstm_step(carry: Any, gates: torch.Tensor) -> tuple[Any, torch.Tensor]:
    h, c, weight, bias = carry
    i, f, g, o = (gates + F.linear(h, weight, bias)).chunk(4, dim=-1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return (h, c, weight, bias), h


def gru_step(carry: Any, gates: torch.Tensor) -> tuple[Any, torch.Tensor]:
    h, weight, bias = carry
    r, z, n = gates.chunk(3, dim=-1)
    of_h = F.linear(h, weight, bias).chunk(3, dim=-1)
    n = (n + (r + of_h[0]).sigmoid() * of_h[2]).tanh()
    h = n + (z + of_h[1]).sigmoid() * (h - n)
    return (h, weight, bias), h


# `scan` traces a pure step once for shapes and types, whether or not the gates want gradients:
# a step of each, for a prediction's trace would give a training no gradients.
_STEPS: dict[str, dict[bool, Step]] = {
    "lstm": {wanted: partial(lstm_step) for wanted in (True, False)},
    "gru": {wanted: partial(gru_step) for wanted in (True, False)},
}


def run_layers(
    cell: str,
    x: torch.Tensor,
    states: Tensors,
    weights: Tensors,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, ...]:
    """Outputs and last states, from the arguments of torch.lstm or torch.gru, in their order."""
    if len(weights) != num_layers * (1 + bidirectional) * (4 if has_biases else 2):
        raise NotImplementedError("LSTMs with projections (proj_size) do not run on XLA devices")
    x = x.transpose(0, 1) if batch_first else x  # (T, B, F)
    own = len(weights) // (num_layers * (1 + bidirectional))
    last = []
    for layer in range(num_layers):
        outputs = []
        for backward in (False, True)[: 1 + bidirectional]:
            n = len(last)
            turned = x.flip(0) if backward else x
            start = [state[n] for state in states]
            end, y = _run_steps(cell, turned, start, *weights[n * own : (n + 1) * own])
            outputs.append(y.flip(0) if backward else y)
            last.append(end)
        x = torch.cat(outputs, dim=-1)
        if dropout and train and layer + 1 < num_layers:
            x = F.dropout(x, dropout)
    x = x.transpose(0, 1) if batch_first else x
    return x, *(torch.stack(parts) for parts in zip(*last, strict=True))


def _run_steps(
    cell: str,
    x: torch.Tensor,
    start: Tensors,
    of_inputs: torch.Tensor,
    of_states: torch.Tensor,
    input_bias: torch.Tensor | None = None,
    state_bias: torch.Tensor | None = None,
) -> tuple[Tensors, torch.Tensor]:
    """One direction of a layer: x (T, B, F) -> last states (B, H), outputs (T, B, H).

    In the weights' precision: a state that autocast rounds at every step would drift.
    """
    with torch.autocast("xla", enabled=False):
        x = x.to(of_inputs.dtype)
        gates = F.linear(x, of_inputs, input_bias)  # of all steps in one product
        if state_bias is None:
            state_bias = of_states.new_zeros(len(of_states))
        step = _STEPS[cell][gates.requires_grad]
        # In the carry, for what a step closes over gets no gradient.
        carry = (*(state.to(x.dtype) for state in start), of_states, state_bias)
        carry, outputs = scan(step, carry, gates, is_fn_pure=True)
    return carry[: len(start)], outputs


def lstm(x: torch.Tensor, states: Tensors, *arguments: Any) -> tuple[torch.Tensor, ...]:
    return run_layers("lstm", x, states, *arguments)


def gru(x: torch.Tensor, state: torch.Tensor, *arguments: Any) -> tuple[torch.Tensor, ...]:
    return run_layers("gru", x, [state], *arguments)


def batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor | None,
    variance: torch.Tensor | None,
    training: bool,
    momentum: float,
    epsilon: float,
    cudnn: bool,
) -> torch.Tensor:
    """torch.batch_norm: what torch-xla adds to the running variance, times n / (n - 1)."""
    biased = variance.clone() if training and variance is not None else variance
    outputs, *_ = _batch_norm_impl_index(
        x, weight, bias, mean, biased, training, momentum, epsilon, cudnn
    )
    if training and variance is not None and biased is not None:
        count = x.numel() // x.shape[1]
        with torch.no_grad():
            added = biased - (1 - momentum) * variance
            variance.copy_(biased + added / (count - 1))
    return outputs


# What torch's own kernel calls.
_batch_norm_impl_index = torch._batch_norm_impl_index  # pyright: ignore[reportPrivateImportUsage]

_KERNELS = library.Library("aten", "IMPL")  # which live as long as it does
_KERNELS.impl("lstm.input", lstm, "AutogradXLA")
_KERNELS.impl("gru.input", gru, "AutogradXLA")
_KERNELS.impl("batch_norm", batch_norm, "AutogradXLA")
