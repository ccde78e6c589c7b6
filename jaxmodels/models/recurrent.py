"""LSTM and GRU with torch's parameters, and the models made of them.

>>> TextClassifier(TextClassifierConfig(), rngs=nnx.Rngs(0))(tokens, lengths)  # (B, K)
>>> logits, state = CharRNN(CharRNNConfig(), rngs=nnx.Rngs(0))(tokens)  # (B, T, V)

Flax's own `OptimizedLSTMCell` has one bias where torch trains two, whose sum therefore moves twice
as fast, and its `RNN` knows no state across calls in both directions. Names, layout and gate order
here are those of `torch.nn.LSTM` and `torch.nn.GRU`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.models.layers import Embedding, linear
from jaxmodels.shared.configs import (
    CharRNNConfig,
    RecurrentForecasterConfig,
    TextClassifierConfig,
)

State = tuple[jax.Array, ...]  # each (directions, B, H): (h, c) of an LSTM, (h,) of a GRU
Cell = Callable[[jax.Array, jax.Array, State], State]


def lstm_cell(projected: jax.Array, recurrent: jax.Array, state: State) -> State:
    """Hochreiter & Schmidhuber 1997 with forget gates; both inputs (B, 4H) in the order i f g o."""
    input_gate, forget_gate, candidate, output_gate = jnp.split(projected + recurrent, 4, axis=-1)
    memory = jax.nn.sigmoid(forget_gate) * state[1]
    memory += jax.nn.sigmoid(input_gate) * jnp.tanh(candidate)
    return jax.nn.sigmoid(output_gate) * jnp.tanh(memory), memory


def gru_cell(projected: jax.Array, recurrent: jax.Array, state: State) -> State:
    """Cho et al. 2014 as torch and cuDNN have it: both inputs (B, 3H) in the order r z n.

    The reset gate weighs the recurrent product, bias included, not the state that enters it.
    """
    reset, update, candidate = jnp.split(projected, 3, axis=-1)
    hidden_reset, hidden_update, hidden_candidate = jnp.split(recurrent, 3, axis=-1)
    update = jax.nn.sigmoid(update + hidden_update)
    candidate = jnp.tanh(candidate + jax.nn.sigmoid(reset + hidden_reset) * hidden_candidate)
    return ((1 - update) * candidate + update * state[0],)


class RecurrentLayer(nnx.Module):
    """One layer in one or both directions: x (B, T, F) -> outputs (B, T, directions * H), state.

    With `lengths` (B,), steps past a row's length change nothing and give outputs of zero; the
    backward direction starts at each row's last step.
    """

    gates: int  # blocks of rows in a weight
    parts: int  # arrays in a state
    cell: Cell
    weight_hh_l0: nnx.Param[jax.Array]  # and weight_ih, bias_ih, bias_hh, and each with _reverse

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bidirectional: bool,
        dtype: jnp.dtype | None,
        rngs: nnx.Rngs,
    ):
        def draw(*shape: int) -> nnx.Param[jax.Array]:
            bound = hidden_size**-0.5  # torch's own initialisation, biases included
            return nnx.Param(jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound))

        self.suffixes = ("_l0", "_l0_reverse") if bidirectional else ("_l0",)
        rows = self.gates * hidden_size
        for suffix in self.suffixes:
            setattr(self, f"weight_ih{suffix}", draw(rows, input_size))
            setattr(self, f"weight_hh{suffix}", draw(rows, hidden_size))
            setattr(self, f"bias_ih{suffix}", draw(rows))
            setattr(self, f"bias_hh{suffix}", draw(rows))
        self.hidden_size = hidden_size
        self.dtype = dtype

    def __call__(
        self, x: jax.Array, lengths: jax.Array | None = None, state: State | None = None
    ) -> tuple[jax.Array, State]:
        state = self.initial_state(len(x)) if state is None else state
        outputs, states = zip(
            *(
                self._scan(suffix, x, lengths, tuple(part[n] for part in state))
                for n, suffix in enumerate(self.suffixes)
            ),
            strict=True,
        )
        state = tuple(jnp.stack(parts) for parts in zip(*states, strict=True))
        return jnp.concatenate(outputs, axis=-1), state

    def initial_state(self, rows: int) -> State:
        """Zeros, in the dtype that the layer computes in."""
        dtype = self.dtype or self.weight_hh_l0.dtype
        shape = (len(self.suffixes), rows, self.hidden_size)
        return tuple(jnp.zeros(shape, dtype) for _ in range(self.parts))  # apart, to be donated

    def _scan(
        self, suffix: str, x: jax.Array, lengths: jax.Array | None, state: State
    ) -> tuple[jax.Array, State]:
        """One direction: x (B, T, F) -> outputs (B, T, H) and the state after the last step."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        values = (getattr(self, name + suffix)[...] for name in names)
        weight_ih, weight_hh, bias_ih, bias_hh = (v.astype(self.dtype or v.dtype) for v in values)
        # The inputs of all steps in one product, which leaves the scan only the recurrent one.
        projected = x.astype(weight_ih.dtype) @ weight_ih.T + bias_ih  # (B, T, gates * H)
        steps = jnp.arange(x.shape[1])
        valid = (
            jnp.ones((x.shape[1], len(x)), bool) if lengths is None else steps[:, None] < lengths
        )

        def step(state: State, inputs: tuple[jax.Array, jax.Array]) -> tuple[State, jax.Array]:
            projected, valid = inputs[0], inputs[1][:, None]
            moved = self.cell(projected, state[0] @ weight_hh.T + bias_hh, state)
            state = tuple(jnp.where(valid, m, s) for m, s in zip(moved, state, strict=True))
            return state, jnp.where(valid, state[0], 0)

        state, outputs = jax.lax.scan(
            step, state, (projected.swapaxes(0, 1), valid), reverse=suffix.endswith("_reverse")
        )
        return outputs.swapaxes(0, 1), state


class LSTM(RecurrentLayer):
    """`torch.nn.LSTM` of one layer; its state is (h, c)."""

    gates, parts = 4, 2
    cell = staticmethod(lstm_cell)


class GRU(RecurrentLayer):
    """`torch.nn.GRU` of one layer; its state is (h,)."""

    gates, parts = 3, 1
    cell = staticmethod(gru_cell)


CELLS = {"lstm": LSTM, "gru": GRU}


class Recurrent(nnx.Module):
    """Layers of LSTM or GRU with dropout between: x (B, T, F) -> (B, T, directions * H), states."""

    def __init__(
        self,
        input_size: int,
        config: TextClassifierConfig | CharRNNConfig | RecurrentForecasterConfig,
        *,
        bidirectional: bool = False,
        dtype: jnp.dtype | None,
        rngs: nnx.Rngs,
    ):
        width = config.hidden_dim * (2 if bidirectional else 1)
        sizes = [input_size] + [width] * (config.num_layers - 1)
        kind = CELLS[config.cell]
        self.layers = nnx.List(
            [
                kind(size, config.hidden_dim, bidirectional=bidirectional, dtype=dtype, rngs=rngs)
                for size in sizes
            ]
        )
        self.dropouts = nnx.List([nnx.Dropout(config.dropout_rate) for _ in sizes[1:]])

    def __call__(
        self,
        x: jax.Array,
        lengths: jax.Array | None = None,
        states: tuple[State, ...] | None = None,
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, tuple[State, ...]]:
        new_states = []
        for index, layer in enumerate(self.layers):
            if index:
                x = self.dropouts[index - 1](x, deterministic=not train, rngs=rngs)
            x, state = layer(x, lengths, None if states is None else states[index])
            new_states.append(state)
        return x, tuple(new_states)


def pool(outputs: jax.Array, state: State, lengths: jax.Array, how: str) -> jax.Array:
    """(B, T, F) -> (B, F): the mean or maximum of each row's valid steps, or the last hidden state.

    The last state of the backward direction is that after the first step, not its output at the
    last one, which has seen a single token.
    """
    if how == "last":
        return jnp.concatenate(list(state[0]), axis=-1)
    valid = (jnp.arange(outputs.shape[1]) < lengths[:, None])[..., None]  # (B, T, 1)
    if how == "max":
        return jnp.where(valid, outputs, -jnp.inf).max(axis=1)
    return jnp.where(valid, outputs, 0).sum(axis=1) / lengths[:, None].astype(outputs.dtype)


class TextClassifier(nnx.Module):
    """tokens (B, T) padded at the end, lengths (B,) -> logits (B, num_classes)."""

    def __init__(
        self, config: TextClassifierConfig, *, dtype: jnp.dtype | None = None, rngs: nnx.Rngs
    ):
        self.embedding = Embedding(config.vocabulary_size, config.embedding_dim, rngs=rngs)
        self.embedding_dropout = nnx.Dropout(config.dropout_rate)
        self.recurrent = Recurrent(
            config.embedding_dim, config, bidirectional=config.bidirectional, dtype=dtype, rngs=rngs
        )
        width = config.hidden_dim * (2 if config.bidirectional else 1)
        self.dropout = nnx.Dropout(config.dropout_rate)
        self.linear = linear(
            width, config.num_classes, initializer=config.initializer, dtype=dtype, rngs=rngs
        )
        self.pooling = config.pooling

    def __call__(
        self,
        tokens: jax.Array,
        lengths: jax.Array,
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        x = self.embedding(tokens)
        x = self.embedding_dropout(x, deterministic=not train, rngs=rngs)
        x, states = self.recurrent(x, lengths, train=train, rngs=rngs)
        x = pool(x, states[-1], lengths, self.pooling)
        x = self.dropout(x, deterministic=not train, rngs=rngs)
        return self.linear(x)


class CharRNN(nnx.Module):
    """tokens (B, T), states of the steps before -> logits (B, T, V) of the next tokens, states."""

    def __init__(self, config: CharRNNConfig, *, dtype: jnp.dtype | None = None, rngs: nnx.Rngs):
        self.embedding = Embedding(config.vocabulary_size, config.embedding_dim, rngs=rngs)
        self.recurrent = Recurrent(config.embedding_dim, config, dtype=dtype, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout_rate)
        self.linear = linear(
            config.hidden_dim,
            config.vocabulary_size,
            initializer=config.initializer,
            dtype=dtype,
            rngs=rngs,
        )

    def initial_states(self, rows: int) -> tuple[State, ...]:
        """The states of texts that have not begun: zeros."""
        return tuple(layer.initial_state(rows) for layer in self.recurrent.layers)

    def __call__(
        self,
        tokens: jax.Array,
        states: tuple[State, ...] | None = None,
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, tuple[State, ...]]:
        x = self.embedding(tokens)
        x, new_states = self.recurrent(x, None, states, train=train, rngs=rngs)
        x = self.dropout(x, deterministic=not train, rngs=rngs)
        return self.linear(x), new_states
