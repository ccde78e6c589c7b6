"""The models of images."""

from dataclasses import dataclass
from typing import Literal, get_args

from jaxmodels.shared.configs.choices import (
    INITIALIZERS,
    Activation,
    Initializer,
    require_choice,
    require_divisible,
    require_odd,
    require_positive,
    require_rate,
    require_training_defaults,
)


@dataclass(frozen=True)
class LogisticRegressionConfig:
    """Multinomial logistic regression on raw pixels: the baseline of every image figure."""

    image_size: int = 32
    in_channels: int = 3
    num_classes: int = 10
    initializer: Initializer = "zeros"  # convex: every start ends at the same minimum

    def __post_init__(self) -> None:
        require_positive(self, "image_size", "in_channels", "num_classes")
        require_choice(self, "initializer", tuple(INITIALIZERS))


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
        require_positive(self, "image_size", "in_channels", "num_classes")
        require_positive(self, "channels", "hidden_dims")
        require_odd(self, "kernel_size")
        require_divisible(self, "image_size", 4, "each of the two max-pools halves it")
        require_choice(self, "activation", get_args(Activation))
        require_rate(self, "dropout_rate")
        require_training_defaults(self)


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
        require_positive(self, "image_size", "in_channels", "num_classes")
        require_positive(self, "stage_channels", "convolutions_per_stage", "hidden_dim")
        halvings = 2 ** len(self.stage_channels)
        require_divisible(self, "image_size", halvings, "each stage ends in a max-pool")
        require_choice(self, "activation", get_args(Activation))
        require_rate(self, "stage_dropout_rate")
        require_rate(self, "dropout_rate")
        require_training_defaults(self)


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
        require_choice(self, "shortcut", ("A", "B"))
        require_positive(self, "stage_channels", "image_size", "in_channels", "num_classes")
        require_divisible(self, "image_size", 4, "two of the three stages halve it")
        if list(self.stage_channels) != sorted(self.stage_channels):
            raise ValueError(f"stage_channels {self.stage_channels} must not shrink")
        require_training_defaults(self)

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
        require_positive(self, "image_size", "in_channels", "num_classes")
        require_positive(self, "embedding_channels", "stage_channels", "depths")
        if len(self.stage_channels) != len(self.depths):
            raise ValueError(
                f"stage_channels {self.stage_channels} and depths {self.depths} must name equally "
                "many stages"
            )
        require_choice(self, "block", ("basic", "bottleneck"))
        if self.block == "bottleneck" and min(self.stage_channels) < 4:
            raise ValueError(
                f"stage_channels {self.stage_channels} must be 4 or more, for a bottleneck has a "
                "quarter of them"
            )
        require_choice(self, "activation", get_args(Activation))
        require_training_defaults(self)

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
