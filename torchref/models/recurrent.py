"""LSTM and GRU over texts of any length, and the models made of them.

>>> TextClassifier(TextClassifierConfig())(tokens, lengths)  # (B, K)
>>> logits, state = CharRNN(CharRNNConfig())(tokens)  # (B, T, V)
"""

from typing import Any

import torch
from torch import nn
from torch.nn.modules import rnn

from jaxmodels.shared.configs import (
    CharRNNConfig,
    RecurrentForecasterConfig,
    TextClassifierConfig,
)
from torchref.models.layers import initialize

State = tuple[torch.Tensor, ...]  # each (directions, B, H): (h, c) of an LSTM, (h,) of a GRU


class LSTM(nn.LSTM):
    """One layer: x (B, T, F) -> outputs (B, T, directions * H), (h, c).

    With `lengths` (B,), steps past a row's length change nothing and give outputs of zero; the
    backward direction starts at each row's last step, and the state returned is (h,) alone.
    """

    def forward(  # type: ignore[override]
        self, x: torch.Tensor, lengths: torch.Tensor | None = None, state: State | None = None
    ) -> tuple[torch.Tensor, State]:
        if lengths is None:
            return super().forward(x, state)  # type: ignore[arg-type]
        return _padded(self, torch.lstm, x, lengths, state)


class GRU(rnn.GRU):  # not nn's, where torch_xla puts one of its own
    """One layer: x (B, T, F) -> outputs (B, T, directions * H), (h,); `lengths` as in `LSTM`."""

    def forward(  # type: ignore[override]
        self, x: torch.Tensor, lengths: torch.Tensor | None = None, state: State | None = None
    ) -> tuple[torch.Tensor, State]:
        if lengths is None:
            outputs, hidden = super().forward(x, None if state is None else state[0])
            return outputs, (hidden,)
        return _padded(self, torch.gru, x, lengths, state)


def _padded(
    layer: nn.RNNBase, kernel: Any, x: torch.Tensor, lengths: torch.Tensor, state: State | None
) -> tuple[torch.Tensor, State]:
    """Runs over rows padded at the end, without packing them.

    The backward pass of a packed sequence copies the whole batch at every step, which on a CPU
    soon costs more than all the rest (torch 2.13). As steps run into the padding, h is read where
    each row ends, and c, which torch keeps for the last step alone, is lost.
    """
    steps = torch.arange(x.shape[1], device=x.device)
    last = lengths[:, None].long() - 1
    valid = steps <= last  # (B, T)
    turned = (last - steps).where(valid, steps)[..., None]  # a row's valid steps from its end
    lstm = kernel is torch.lstm
    if state is None:
        directions = 2 if layer.bidirectional else 1
        state = (x.new_zeros(directions, len(x), layer.hidden_size),) * (1 + lstm)
    outputs, hidden = [], []
    for n, weights in enumerate(layer.all_weights):
        start = tuple(part[n : n + 1] for part in state)
        y = x.take_along_dim(turned, dim=1) if n else x
        # weights, has_biases, num_layers, dropout, train, bidirectional, batch_first
        options = (weights, True, 1, 0.0, layer.training, False, True)
        y, *_ = kernel(y, start if lstm else start[0], *options)
        hidden.append(y.take_along_dim(last[..., None], dim=1)[:, 0])
        y = y.take_along_dim(turned, dim=1) if n else y
        outputs.append(y.where(valid[..., None], 0))
    return torch.cat(outputs, dim=-1), (torch.stack(hidden),)


CELLS = {"lstm": LSTM, "gru": GRU}


class Recurrent(nn.Module):
    """Layers of LSTM or GRU with dropout between: x (B, T, F) -> (B, T, directions * H), states."""

    def __init__(
        self,
        input_size: int,
        config: TextClassifierConfig | CharRNNConfig | RecurrentForecasterConfig,
        *,
        bidirectional: bool = False,
    ):
        super().__init__()
        width = config.hidden_dim * (2 if bidirectional else 1)
        sizes = [input_size] + [width] * (config.num_layers - 1)
        kind = CELLS[config.cell]
        self.layers = nn.ModuleList(
            [
                kind(size, config.hidden_dim, bidirectional=bidirectional, batch_first=True)
                for size in sizes
            ]
        )
        self.dropouts = nn.ModuleList([nn.Dropout(config.dropout_rate) for _ in sizes[1:]])

    def forward(
        self,
        x: torch.Tensor,
        lengths: torch.Tensor | None = None,
        states: tuple[State, ...] | None = None,
    ) -> tuple[torch.Tensor, tuple[State, ...]]:
        new_states = []
        for index, layer in enumerate(self.layers):
            if index:
                x = self.dropouts[index - 1](x)
            x, state = layer(x, lengths, None if states is None else states[index])
            new_states.append(state)
        return x, tuple(new_states)


def pool(outputs: torch.Tensor, state: State, lengths: torch.Tensor, how: str) -> torch.Tensor:
    """(B, T, F) -> (B, F): the mean or maximum of each row's valid steps, or the last hidden state.

    The last state of the backward direction is that after the first step, not its output at the
    last one, which has seen a single token.
    """
    if how == "last":
        return torch.cat(list(state[0]), dim=-1)
    steps = torch.arange(outputs.shape[1], device=outputs.device)
    valid = (steps < lengths[:, None])[..., None]  # (B, T, 1)
    if how == "max":
        return outputs.where(valid, -torch.inf).amax(dim=1)
    return outputs.where(valid, 0).sum(dim=1) / lengths[:, None].to(outputs.dtype)


class TextClassifier(nn.Module):
    """tokens (B, T) padded at the end, lengths (B,) -> logits (B, num_classes)."""

    def __init__(self, config: TextClassifierConfig, *, generator: torch.Generator | None = None):
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary_size, config.embedding_dim)
        self.embedding_dropout = nn.Dropout(config.dropout_rate)
        self.recurrent = Recurrent(config.embedding_dim, config, bidirectional=config.bidirectional)
        width = config.hidden_dim * (2 if config.bidirectional else 1)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.linear = nn.Linear(width, config.num_classes)
        self.pooling = config.pooling
        initialize(self, config.initializer, generator)

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        x = self.embedding_dropout(x)
        x, states = self.recurrent(x, lengths)
        x = pool(x, states[-1], lengths, self.pooling)
        x = self.dropout(x)
        return self.linear(x)


class CharRNN(nn.Module):
    """tokens (B, T), states of the steps before -> logits (B, T, V) of the next tokens, states."""

    def __init__(self, config: CharRNNConfig, *, generator: torch.Generator | None = None):
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary_size, config.embedding_dim)
        self.recurrent = Recurrent(config.embedding_dim, config)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.linear = nn.Linear(config.hidden_dim, config.vocabulary_size)
        initialize(self, config.initializer, generator)

    def forward(
        self, tokens: torch.Tensor, states: tuple[State, ...] | None = None
    ) -> tuple[torch.Tensor, tuple[State, ...]]:
        x = self.embedding(tokens)
        x, new_states = self.recurrent(x, None, states)
        x = self.dropout(x)
        return self.linear(x), new_states
