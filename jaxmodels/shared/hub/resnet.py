"""The Hub's ResNets, such as microsoft/resnet-50: their configs and tensors' names.

They are those of transformers' `ResNetForImageClassification`. Our BatchNorm's momentum, the
initialiser and the image size are not in its config.
"""

from collections.abc import Mapping
from typing import Any

from jaxmodels.shared.configs import ImageNetResNetConfig
from jaxmodels.shared.hub import fields

# By their names there, less `microsoft/`.
SIZES: dict[str, ImageNetResNetConfig] = {
    "resnet-18": ImageNetResNetConfig(
        stage_channels=(64, 128, 256, 512), depths=(2, 2, 2, 2), block="basic"
    ),
    "resnet-34": ImageNetResNetConfig(
        stage_channels=(64, 128, 256, 512), depths=(3, 4, 6, 3), block="basic"
    ),
    "resnet-50": ImageNetResNetConfig(),
}

HEADS = {"ResNetForImageClassification": "linear"}
FIELDS = {
    "num_channels": "in_channels",
    "embedding_size": "embedding_channels",
    "hidden_sizes": "stage_channels",
    "depths": "depths",
    "layer_type": "block",
    "downsample_in_first_stage": "downsample_in_first_stage",
    "downsample_in_bottleneck": "downsample_in_bottleneck",
}
# Names of stages that are of interest to a backbone alone.
_OWN = ("hidden_act", "out_features", "out_indices", "stage_names")
# transformers' Flax classes number the layers of a basic block by another name.
RENAMED = ((r"\.layer\.layer_(\d+)\.", r".layer.\1."),)


def from_hub_config(content: Mapping[str, Any]) -> ImageNetResNetConfig:
    """The config that the content of a `config.json` describes.

    Raises:
        ValueError: a field has a value that we do not have, or is unknown.
    """
    fields.check_fields(content, frozenset({*FIELDS, *_OWN}), {})
    fields.head_of(content, HEADS)
    default = ImageNetResNetConfig()
    values = fields.read_fields(content, FIELDS, default)
    if values.get("block", "basic") not in ("basic", "bottleneck"):
        raise ValueError(f"layer_type is {values['block']!r}, expected 'basic' or 'bottleneck'")
    return ImageNetResNetConfig(
        num_classes=fields.num_classes(content),
        activation=fields.read_activation(content, "hidden_act", default.activation),
        **values,
    )


def to_hub_config(config: ImageNetResNetConfig) -> dict[str, Any]:
    """The content of the `config.json` that transformers reads.

    Raises:
        ValueError: transformers' model has no such epsilon.
    """
    epsilon = ImageNetResNetConfig().batch_norm_epsilon
    if config.batch_norm_epsilon != epsilon:
        raise ValueError(
            f"batch_norm_epsilon is {config.batch_norm_epsilon}, expected {epsilon}: the Hub's "
            "ResNet has no other; train with it to export"
        )
    values = {theirs: getattr(config, ours) for theirs, ours in FIELDS.items()}
    return (
        {"model_type": "resnet", "architectures": list(HEADS)}
        | {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
        | {"hidden_act": fields.activation_name(config.activation)}
        | fields.label_fields(config.num_classes)
    )


def hub_modules(config: ImageNetResNetConfig) -> dict[str, str]:
    """The Hub's name of each of our modules that has tensors, by our own dotted path."""
    places = [(stage, layer) for stage, depth in enumerate(config.depths) for layer in range(depth)]
    convnorms = {"stem": "resnet.embedder.embedder"}
    for index, ((stage, layer), block) in enumerate(zip(places, config.blocks, strict=True)):
        theirs = f"resnet.encoder.stages.{stage}.layers.{layer}"
        for number in range(2 if config.block == "basic" else 3):
            convnorms[f"blocks.{index}.convnorms.{number}"] = f"{theirs}.layer.{number}"
        in_channels, out_channels, stride = block
        if stride != 1 or in_channels != out_channels:
            convnorms[f"blocks.{index}.projection"] = f"{theirs}.shortcut"
    modules = {f"{ours}.conv": f"{theirs}.convolution" for ours, theirs in convnorms.items()}
    modules |= {f"{ours}.norm": f"{theirs}.normalization" for ours, theirs in convnorms.items()}
    return modules | {"linear": "classifier.1"}
