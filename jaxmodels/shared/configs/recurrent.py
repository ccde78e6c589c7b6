"""The recurrent models: of reviews, of text and of series."""

from dataclasses import dataclass
from typing import Literal

from jaxmodels.shared.configs.choices import (
    INITIALIZERS,
    Initializer,
    require_choice,
    require_positive,
    require_quantiles,
    require_rate,
)


@dataclass(frozen=True)
class TextClassifierConfig:
    """Embedding, LSTM or GRU layers, pooling over the valid steps, dropout, a linear layer.

    The embedding is drawn from N(0, 1) and the recurrent weights and biases from
    U(-1/sqrt(hidden_dim), 1/sqrt(hidden_dim)), as torch does; `initializer` is the linear layer's.
    """

    vocabulary_size: int = 20_000
    num_classes: int = 2
    embedding_dim: int = 128
    cell: Literal["lstm", "gru"] = "lstm"
    hidden_dim: int = 128
    num_layers: int = 1
    bidirectional: bool = False
    pooling: Literal["mean", "max", "last"] = "mean"
    dropout_rate: float = 0.0
    initializer: Initializer = "lecun-normal"

    def __post_init__(self) -> None:
        require_positive(self, "vocabulary_size", "num_classes", "embedding_dim", "hidden_dim")
        require_positive(self, "num_layers")
        require_choice(self, "cell", ("lstm", "gru"))
        require_choice(self, "pooling", ("mean", "max", "last"))
        require_choice(self, "initializer", tuple(INITIALIZERS))
        require_rate(self, "dropout_rate")


@dataclass(frozen=True)
class CharRNNConfig:
    """Embedding, LSTM or GRU layers and a linear layer that predict the next token of a text.

    Initialised as `TextClassifierConfig` says.
    """

    vocabulary_size: int = 128
    embedding_dim: int = 128
    cell: Literal["lstm", "gru"] = "lstm"
    hidden_dim: int = 256
    num_layers: int = 2
    dropout_rate: float = 0.0
    initializer: Initializer = "lecun-normal"

    def __post_init__(self) -> None:
        require_positive(self, "vocabulary_size", "embedding_dim", "hidden_dim", "num_layers")
        require_choice(self, "cell", ("lstm", "gru"))
        require_choice(self, "initializer", tuple(INITIALIZERS))
        require_rate(self, "dropout_rate")


@dataclass(frozen=True)
class RecurrentForecasterConfig:
    """LSTM or GRU layers over a window; its last step, dropout, a linear layer.

    Every horizon gets one output a quantile, of which 0.5 is the point forecast. Initialised as
    `TextClassifierConfig` says.
    """

    num_features: int = 1
    num_horizons: int = 3
    quantiles: tuple[float, ...] = (0.05, 0.5, 0.95)
    cell: Literal["lstm", "gru"] = "lstm"
    hidden_dim: int = 64
    num_layers: int = 1
    dropout_rate: float = 0.0
    initializer: Initializer = "lecun-normal"

    def __post_init__(self) -> None:
        require_positive(self, "num_features", "num_horizons", "hidden_dim", "num_layers")
        require_quantiles(self)
        require_choice(self, "cell", ("lstm", "gru"))
        require_choice(self, "initializer", tuple(INITIALIZERS))
        require_rate(self, "dropout_rate")
