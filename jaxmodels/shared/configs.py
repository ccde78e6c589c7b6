"""Model configurations: one frozen dataclass a model, every numerical default explicit.

`CONFIGS` names them all; `to_json` and `from_json` are the `config.json` of a checkpoint.

>>> config = ResNetConfig(depth=32)
>>> from_json(to_json(config)) == config
True
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

Activation = Literal["relu", "swish", "gelu", "gelu_tanh"]  # "gelu" is the exact one, by erf

# The standard deviation of a fresh kernel by its fan-in: he-normal of He et al. 2015, lecun-normal
# of LeCun et al. 1998, gpt2 of Radford et al. 2019. Biases start at zero. Flax's and torch's own
# defaults differ, and neither is used.
Initializer = Literal["he-normal", "lecun-normal", "gpt2", "zeros"]
INITIALIZERS: dict[str, Callable[[int], float]] = {
    "he-normal": lambda fan_in: (2 / fan_in) ** 0.5,
    "lecun-normal": lambda fan_in: (1 / fan_in) ** 0.5,
    "gpt2": lambda fan_in: 0.02,
    "zeros": lambda fan_in: 0.0,
}


@dataclass(frozen=True)
class LogisticRegressionConfig:
    """Multinomial logistic regression on raw pixels: the baseline of every image figure."""

    image_size: int = 32
    in_channels: int = 3
    num_classes: int = 10
    initializer: Initializer = "zeros"  # convex: every start ends at the same minimum

    def __post_init__(self) -> None:
        _require_positive(self, "image_size", "in_channels", "num_classes")
        _require_choice(self, "initializer", tuple(INITIALIZERS))


@dataclass(frozen=True)
class SimpleCNNConfig:
    """Two convolutions, two max-pools, three linear layers (LeCun et al. 1998, widened)."""

    image_size: int = 32
    in_channels: int = 3
    num_classes: int = 10
    channels: tuple[int, int] = (32, 64)
    kernel_size: int = 5
    hidden_dims: tuple[int, int] = (256, 128)
    activation: Activation = "relu"
    batch_norm: bool = False
    dropout_rate: float = 0.0
    batch_norm_momentum: float = 0.1  # the weight of the new statistic, torch's convention
    batch_norm_epsilon: float = 1e-5
    initializer: Initializer = "he-normal"

    def __post_init__(self) -> None:
        _require_positive(self, "image_size", "in_channels", "num_classes")
        _require_positive(self, "channels", "hidden_dims")
        _require_odd(self, "kernel_size")
        _require_divisible(self, "image_size", 4, "each of the two max-pools halves it")
        _require_choice(self, "activation", get_args(Activation))
        _require_rate(self, "dropout_rate")
        _require_training_defaults(self)


@dataclass(frozen=True)
class CNNConfig:
    """VGG-style stages of 3x3 convolutions, BatchNorm and dropout (Simonyan & Zisserman 2015)."""

    image_size: int = 32
    in_channels: int = 3
    num_classes: int = 10
    stage_channels: tuple[int, ...] = (32, 64, 128)
    convolutions_per_stage: int = 2
    hidden_dim: int = 256
    activation: Activation = "relu"
    stage_dropout_rate: float = 0.1
    dropout_rate: float = 0.3
    batch_norm_momentum: float = 0.1
    batch_norm_epsilon: float = 1e-5
    initializer: Initializer = "he-normal"

    def __post_init__(self) -> None:
        _require_positive(self, "image_size", "in_channels", "num_classes")
        _require_positive(self, "stage_channels", "convolutions_per_stage", "hidden_dim")
        halvings = 2 ** len(self.stage_channels)
        _require_divisible(self, "image_size", halvings, "each stage ends in a max-pool")
        _require_choice(self, "activation", get_args(Activation))
        _require_rate(self, "stage_dropout_rate")
        _require_rate(self, "dropout_rate")
        _require_training_defaults(self)


@dataclass(frozen=True)
class ResNetConfig:
    """CIFAR ResNet of He et al. 2016, section 4.2: depth 6n+2, three stages of n basic blocks.

    `shortcut` "A" subsamples and pads with zero channels, and has no parameters; "B" projects with
    a 1x1 convolution and BatchNorm where the shape changes.
    """

    depth: int = 20
    shortcut: Literal["A", "B"] = "A"
    stage_channels: tuple[int, int, int] = (16, 32, 64)
    image_size: int = 32
    in_channels: int = 3
    num_classes: int = 10
    batch_norm_momentum: float = 0.1
    batch_norm_epsilon: float = 1e-5
    initializer: Initializer = "he-normal"

    def __post_init__(self) -> None:
        if self.depth < 8 or (self.depth - 2) % 6:
            raise ValueError(
                f"depth {self.depth} is not 6n+2; He et al. use 20, 32, 44, 56 and 110"
            )
        _require_choice(self, "shortcut", ("A", "B"))
        _require_positive(self, "stage_channels", "image_size", "in_channels", "num_classes")
        _require_divisible(self, "image_size", 4, "two of the three stages halve it")
        if list(self.stage_channels) != sorted(self.stage_channels):
            raise ValueError(f"stage_channels {self.stage_channels} must not shrink")
        _require_training_defaults(self)

    @property
    def blocks_per_stage(self) -> int:
        return (self.depth - 2) // 6


@dataclass(frozen=True)
class ImageNetResNetConfig:
    """ResNet of He et al. 2016, section 4.1, in the layout of the Hugging Face Hub's ResNet-50.

    A 7x7 convolution and a 3x3 max-pool, stages of blocks that halve the image but for the first
    (unless `downsample_in_first_stage`), global average pooling and a linear layer. A "basic" block
    has two 3x3 convolutions; a "bottleneck" has 1x1, 3x3 and 1x1 at a quarter of the width, and its
    stride in the 3x3, or, as in the paper, in the first 1x1 if `downsample_in_bottleneck`.

    `activation` follows the stem and every block's sum; inside a block it is always a ReLU, as on
    the Hub. Images of any size will do: `image_size` is that of the training data.
    """

    image_size: int = 224
    in_channels: int = 3
    num_classes: int = 1000
    embedding_channels: int = 64
    stage_channels: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    block: Literal["basic", "bottleneck"] = "bottleneck"
    activation: Activation = "relu"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False
    batch_norm_momentum: float = 0.1
    batch_norm_epsilon: float = 1e-5
    initializer: Initializer = "he-normal"

    def __post_init__(self) -> None:
        _require_positive(self, "image_size", "in_channels", "num_classes")
        _require_positive(self, "embedding_channels", "stage_channels", "depths")
        if len(self.stage_channels) != len(self.depths):
            raise ValueError(
                f"stage_channels {self.stage_channels} and depths {self.depths} must name equally "
                "many stages"
            )
        _require_choice(self, "block", ("basic", "bottleneck"))
        if self.block == "bottleneck" and min(self.stage_channels) < 4:
            raise ValueError(
                f"stage_channels {self.stage_channels} must be 4 or more, for a bottleneck has a "
                "quarter of them"
            )
        _require_choice(self, "activation", get_args(Activation))
        _require_training_defaults(self)

    @property
    def blocks(self) -> list[tuple[int, int, int]]:
        """Of every block, in order, the channels that it takes and gives, and its stride."""
        found = []
        in_channels = self.embedding_channels
        for stage, (out_channels, depth) in enumerate(
            zip(self.stage_channels, self.depths, strict=True)
        ):
            stride = 2 if stage > 0 or self.downsample_in_first_stage else 1
            found += [(in_channels, out_channels, stride)]
            found += [(out_channels, out_channels, 1)] * (depth - 1)
            in_channels = out_channels
        return found


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
        _require_positive(self, "vocabulary_size", "num_classes", "embedding_dim", "hidden_dim")
        _require_positive(self, "num_layers")
        _require_choice(self, "cell", ("lstm", "gru"))
        _require_choice(self, "pooling", ("mean", "max", "last"))
        _require_choice(self, "initializer", tuple(INITIALIZERS))
        _require_rate(self, "dropout_rate")


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
        _require_positive(self, "vocabulary_size", "embedding_dim", "hidden_dim", "num_layers")
        _require_choice(self, "cell", ("lstm", "gru"))
        _require_choice(self, "initializer", tuple(INITIALIZERS))
        _require_rate(self, "dropout_rate")


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
        _require_positive(self, "num_features", "num_horizons", "hidden_dim", "num_layers")
        _require_quantiles(self)
        _require_choice(self, "cell", ("lstm", "gru"))
        _require_choice(self, "initializer", tuple(INITIALIZERS))
        _require_rate(self, "dropout_rate")


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
        _require_positive(self, "vocabulary_size", "context_length")
        _require_choice(self, "head", ("language-model", "none"))
        _require_transformer(self)


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
        _require_choice(self, "family", ("bert", "roberta", "distilbert"))
        heads = ("none", "masked-lm", "sequence-classification", "token-classification")
        _require_choice(self, "head", heads)
        _require_positive(self, "vocabulary_size", "num_classes")
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
        _require_rate(self, "classifier_dropout_rate")
        _require_transformer(self)

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
        _require_positive(self, "num_features", "window", "num_horizons")
        _require_positive(self, "patch_length", "patch_stride")
        _require_quantiles(self)
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
        _require_epsilon(self, "instance_norm_epsilon")
        _require_transformer(self)

    @property
    def num_patches(self) -> int:
        return (self.window - self.patch_length) // self.patch_stride + 1


ImageModelConfig = (
    LogisticRegressionConfig | SimpleCNNConfig | CNNConfig | ResNetConfig | ImageNetResNetConfig
)
TransformerConfig = GPT2Config | BERTConfig | TimeSeriesTransformerConfig
LanguageModelConfig = CharRNNConfig | GPT2Config
ForecasterConfig = RecurrentForecasterConfig | TimeSeriesTransformerConfig
ModelConfig = (
    ImageModelConfig | TextClassifierConfig | LanguageModelConfig | ForecasterConfig | BERTConfig
)

CONFIGS: dict[str, type[ModelConfig]] = {
    "LogisticRegression": LogisticRegressionConfig,
    "SimpleCNN": SimpleCNNConfig,
    "CNN": CNNConfig,
    "ResNet": ResNetConfig,
    "ImageNetResNet": ImageNetResNetConfig,
    "TextClassifier": TextClassifierConfig,
    "CharRNN": CharRNNConfig,
    "RecurrentForecaster": RecurrentForecasterConfig,
    "GPT2": GPT2Config,
    "BERT": BERTConfig,
    "TimeSeriesTransformer": TimeSeriesTransformerConfig,
}


def architecture(config: ModelConfig) -> str:
    """The model's class name, which both frameworks share: `"ResNet"` for a `ResNetConfig`."""
    return next(name for name, kind in CONFIGS.items() if type(config) is kind)


IGNORED = -100  # the label of a place that no loss or metric counts, as in torch and transformers


def median_index(quantiles: tuple[float, ...]) -> int:
    """The place of the quantile nearest 0.5, whose output is the point forecast."""
    return min(range(len(quantiles)), key=lambda place: abs(quantiles[place] - 0.5))


def check_length(length: int, limit: int) -> None:
    """Raises a ValueError where a model is given more tokens than it has positions."""
    if length > limit:
        raise ValueError(
            f"{length} tokens exceed the model's context of {limit}; pass {limit} of them at most"
        )


def to_json(config: ModelConfig) -> dict[str, Any]:
    """The content of `config.json`: the architecture and every field."""
    return {"architecture": architecture(config)} | dataclasses.asdict(config)


def from_json(content: Any) -> ModelConfig:
    """The inverse of `to_json`. Every field must be known and, as JSON, of its default's type.

    Raises:
        ValueError: the architecture or a field is unknown, missing or malformed.
    """
    name = content.get("architecture") if isinstance(content, dict) else None
    if name not in CONFIGS:
        raise ValueError(f"architecture {name!r} is unknown; expected one of {sorted(CONFIGS)}")
    kind = CONFIGS[name]
    fields = {field.name: field for field in dataclasses.fields(kind)}
    given = {key: value for key, value in content.items() if key != "architecture"}
    if given.keys() != fields.keys():
        unknown, missing = (
            sorted(given.keys() - fields.keys()),
            sorted(fields.keys() - given.keys()),
        )
        raise ValueError(f"{name} config has unknown fields {unknown} and lacks {missing}")
    values = {}
    for key, value in given.items():
        default = fields[key].default
        value = tuple(value) if isinstance(value, list) else value
        same_type = type(value) is type(default) or (type(value), type(default)) == (int, float)
        if not same_type:
            raise ValueError(
                f"{name} config: {key} is {value!r}; expected something like {default!r}"
            )
        values[key] = value
    return kind(**values)


def _require_positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else (value,)
        if not values or any(not isinstance(item, int) or item < 1 for item in values):
            raise ValueError(f"{name} {value} must be positive integers")


def _require_odd(config: Any, name: str) -> None:
    value = getattr(config, name)
    if value < 1 or value % 2 == 0:
        raise ValueError(f"{name} {value} must be odd, so that the padding keeps the image's size")


def _require_divisible(config: Any, name: str, divisor: int, why: str) -> None:
    value = getattr(config, name)
    if value % divisor:
        near = max(divisor, value // divisor * divisor)
        raise ValueError(f"{name} {value} must divide by {divisor} ({why}); try {near}")


def _require_choice(config: Any, name: str, choices: tuple[str, ...]) -> None:
    if getattr(config, name) not in choices:
        raise ValueError(f"{name} {getattr(config, name)!r} must be one of {choices}")


def _require_rate(config: Any, name: str) -> None:
    if not 0 <= getattr(config, name) < 1:
        raise ValueError(f"{name} {getattr(config, name)} must be in [0, 1)")


def _require_epsilon(config: Any, name: str) -> None:
    if not getattr(config, name) > 0:
        raise ValueError(f"{name} {getattr(config, name)} must be positive; try 1e-5")


def _require_quantiles(config: Any) -> None:
    quantiles = config.quantiles
    between = all(isinstance(item, float) and 0 < item < 1 for item in quantiles)
    if not between or list(quantiles) != sorted(set(quantiles)) or 0.5 not in quantiles:
        raise ValueError(
            f"quantiles {quantiles} must ascend, lie in (0, 1) and hold 0.5; try 0.05 0.5 0.95"
        )


def _require_transformer(config: Any) -> None:
    """What the blocks of every transformer need."""
    _require_positive(config, "hidden_dim", "num_layers", "num_heads", "mlp_dim")
    width, heads = config.hidden_dim, config.num_heads
    if width % heads:
        near = [size for size in (width // heads * heads, width // heads * heads + heads) if size]
        raise ValueError(
            f"hidden_dim {width} must divide by num_heads {heads}; "
            f"try {' or '.join(map(str, near))}"
        )
    if not config.embedding_deviation >= 0:
        raise ValueError(
            f"embedding_deviation {config.embedding_deviation} must not be negative; try 0.02"
        )
    _require_choice(config, "activation", get_args(Activation))
    _require_choice(config, "initializer", tuple(INITIALIZERS))
    _require_rate(config, "dropout_rate")
    _require_rate(config, "attention_dropout_rate")
    _require_epsilon(config, "layer_norm_epsilon")


def _require_training_defaults(config: Any) -> None:
    if not 0 < config.batch_norm_momentum <= 1 or config.batch_norm_epsilon <= 0:
        raise ValueError("batch_norm_momentum must be in (0, 1] and batch_norm_epsilon positive")
    _require_choice(config, "initializer", tuple(INITIALIZERS))
