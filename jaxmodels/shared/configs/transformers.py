"""The Transformers: of text, of reviews and of series."""

from dataclasses import dataclass
from typing import Literal

from jaxmodels.shared.configs.choices import (
    Activation,
    Initializer,
    require_choice,
    require_epsilon,
    require_positive,
    require_quantiles,
    require_rate,
    require_transformer,
)


@dataclass(frozen=True)
class GPT2Config:
    """A decoder of pre-norm blocks that predicts the next token (Radford et al. 2019).

    The defaults are a small character model; the paper's smallest has vocabulary_size 50257,
    context_length 1024, hidden_dim 768, num_layers and num_heads 12 and mlp_dim 3072. Embeddings
    are drawn from N(0, embedding_deviation^2), kernels as `initializer` says; the last kernel of
    each of the 2 * num_layers residual branches is then divided by sqrt(2 * num_layers).
    """

    vocabulary_size: int = 128
    context_length: int = 128
    hidden_dim: int = 128
    num_layers: int = 4
    num_heads: int = 4
    mlp_dim: int = 512
    head: Literal["language-model", "none"] = "language-model"
    activation: Activation = "gelu_tanh"
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-5
    embedding_deviation: float = 0.02
    initializer: Initializer = "gpt2"
    gradient_checkpointing: bool = False
    scan_layers: bool = False

    def __post_init__(self) -> None:
        require_positive(self, "vocabulary_size", "context_length")
        require_choice(self, "head", ("language-model", "none"))
        require_transformer(self)


# The published sizes, by the Hub's names.
GPT2_SIZES: dict[str, GPT2Config] = {
    name: GPT2Config(
        vocabulary_size=50_257,
        context_length=1024,
        hidden_dim=width,
        num_layers=layers,
        num_heads=heads,
        mlp_dim=4 * width,
    )
    for name, width, layers, heads in (
        ("gpt2", 768, 12, 12),
        ("gpt2-medium", 1024, 24, 16),
        ("gpt2-large", 1280, 36, 20),
        ("gpt2-xl", 1600, 48, 25),
    )
}


@dataclass(frozen=True)
class BERTConfig:
    """An encoder of post-norm blocks and the heads on it.

    `family` is BERT (Devlin et al. 2019), RoBERTa (Liu et al. 2019), which counts positions from
    padding_id + 1 and skips padding, or DistilBERT (Sanh et al. 2019), which has no token types
    (type_vocabulary_size 0). The defaults are bert-base-uncased. Embeddings are drawn from
    N(0, embedding_deviation^2).
    """

    family: Literal["bert", "roberta", "distilbert"] = "bert"
    head: Literal["none", "masked-lm", "sequence-classification", "token-classification"] = "none"
    num_classes: int = 2
    vocabulary_size: int = 30_522
    context_length: int = 512  # rows of the position embedding; RoBERTa cannot use them all
    type_vocabulary_size: int = 2
    padding_id: int = 0
    hidden_dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    activation: Activation = "gelu"
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    classifier_dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-12
    embedding_deviation: float = 0.02
    initializer: Initializer = "gpt2"
    gradient_checkpointing: bool = False
    scan_layers: bool = False

    def __post_init__(self) -> None:
        require_choice(self, "family", ("bert", "roberta", "distilbert"))
        heads = ("none", "masked-lm", "sequence-classification", "token-classification")
        require_choice(self, "head", heads)
        require_positive(self, "vocabulary_size", "num_classes")
        if self.type_vocabulary_size < 0 or (self.family == "distilbert") != (
            self.type_vocabulary_size == 0
        ):
            raise ValueError(
                f"type_vocabulary_size {self.type_vocabulary_size} does not fit {self.family}; "
                "DistilBERT has 0, BERT and RoBERTa at least 1"
            )
        if not 0 <= self.padding_id < self.vocabulary_size:
            raise ValueError(f"padding_id {self.padding_id} is no token of {self.vocabulary_size}")
        if self.context_length <= self.first_position:
            raise ValueError(
                f"context_length {self.context_length} must exceed {self.first_position}, "
                f"where the positions of {self.family} begin"
            )
        require_rate(self, "classifier_dropout_rate")
        require_transformer(self)

    @property
    def first_position(self) -> int:
        """The row of the position embedding that belongs to the first token."""
        return self.padding_id + 1 if self.family == "roberta" else 0

    @property
    def pooled(self) -> bool:
        """Whether the first token goes through a further linear layer, the pooler."""
        if self.head == "none":
            return self.family != "distilbert"
        return self.head == "sequence-classification"


@dataclass(frozen=True)
class TimeSeriesTransformerConfig:
    """An encoder of pre-norm blocks over a window, and a linear layer for all that it puts out.

    As it stands it is PatchTST (Nie et al. 2023): each feature is a channel of its own through
    shared weights, in overlapping patches of `patch_length` steps, `patch_stride` apart, and
    `instance_norm` takes every window's mean and scale out and puts them back into the forecast
    (Kim et al. 2022). With patch_length=1, patch_stride=1, channel_independent=False and
    instance_norm=False it is the plain encoder, whose steps hold all features together.

    Every horizon gets one output a quantile, of which 0.5 is the point forecast. The first feature
    is the one that is forecast. Positions are drawn from N(0, embedding_deviation^2).
    """

    num_features: int = 1
    window: int = 60
    num_horizons: int = 3
    quantiles: tuple[float, ...] = (0.05, 0.5, 0.95)
    patch_length: int = 8
    patch_stride: int = 4
    channel_independent: bool = True
    instance_norm: bool = True
    hidden_dim: int = 64
    num_layers: int = 2
    num_heads: int = 4
    mlp_dim: int = 128
    activation: Activation = "gelu"
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-5
    instance_norm_epsilon: float = 1e-5
    embedding_deviation: float = 0.02
    initializer: Initializer = "lecun-normal"
    gradient_checkpointing: bool = False
    scan_layers: bool = False

    def __post_init__(self) -> None:
        require_positive(self, "num_features", "window", "num_horizons")
        require_positive(self, "patch_length", "patch_stride")
        require_quantiles(self)
        if self.window < self.patch_length:
            raise ValueError(
                f"window {self.window} is shorter than patch_length {self.patch_length}; "
                f"try patch_length {self.window} or less"
            )
        if self.patch_stride > self.patch_length:
            raise ValueError(
                f"patch_stride {self.patch_stride} must not exceed patch_length "
                f"{self.patch_length}, or steps between the patches are never seen; "
                f"try {self.patch_length}"
            )
        require_epsilon(self, "instance_norm_epsilon")
        require_transformer(self)

    @property
    def num_patches(self) -> int:
        return (self.window - self.patch_length) // self.patch_stride + 1
