"""Which parameters train, and at what rate: functions of their dotted paths, one for all engines.

>>> layers = layers_of(BERTConfig(num_layers=2))  # (1, 1): two layers of one block each
>>> rate_scales(0.5, ["token_embedding.weight", "blocks.1.linear1.bias", "pooler.bias"], layers)
{'token_embedding.weight': 0.125, 'blocks.1.linear1.bias': 0.5, 'pooler.bias': 1.0}

Rates that fall from layer to layer towards the inputs are the discriminative ones of Howard & Ruder
2018 (ULMFiT), in the geometric form of Clark et al. 2020 (ELECTRA). Module paths are the same in
both frameworks. Where a parameter's own name matters it is torch's (`weight`, not `kernel`).
"""

import re
from collections.abc import Iterable, Sequence

from jaxmodels.shared.configs import (
    BERTConfig,
    CNNConfig,
    GPT2Config,
    ImageNetResNetConfig,
    ModelConfig,
    ResNetConfig,
    TimeSeriesTransformerConfig,
    architecture,
)
from jaxmodels.shared.patterns import find_paths

_BLOCK = re.compile(r"^(?:blocks|stages)\.(\d+)\.")
# What comes before the first block. All else outside the blocks comes after the last.
_INPUTS = re.compile(
    r"^(stem|instance_norm|(token|position|type|patch)_embedding|embedding_norm)\."
)


def layers_of(config: ModelConfig) -> tuple[int, ...]:
    """How many blocks each layer of a model has, from the inputs to the head.

    A layer is a Transformer's block, or a ResNet's or CNN's stage.

    Raises:
        ValueError: the model is no stack of blocks.
    """
    if isinstance(config, ResNetConfig):
        return (config.blocks_per_stage,) * len(config.stage_channels)
    if isinstance(config, ImageNetResNetConfig):
        return config.depths
    if isinstance(config, CNNConfig):
        return (1,) * len(config.stage_channels)
    if isinstance(config, BERTConfig | GPT2Config | TimeSeriesTransformerConfig):
        return (1,) * config.num_layers
    raise ValueError(
        f"optimizer.layer_decay: {architecture(config)} is no stack of blocks, whose rates could "
        "differ by their depth; leave it at 1"
    )


def rate_scales(decay: float, names: Iterable[str], layers: Sequence[int]) -> dict[str, float]:
    """By what each parameter's learning rate is multiplied.

    Of `depth` layers, layer i has decay ** (depth - i), what comes before them (embeddings, stem)
    decay ** (depth + 1), and what comes after them (head, last norm) 1. `layers` is `layers_of`'s.
    """
    layer_of_block = [layer for layer, blocks in enumerate(layers) for _ in range(blocks)]

    def exponent(name: str) -> int:
        if block := _BLOCK.match(name):
            return len(layers) - layer_of_block[int(block[1])]
        return len(layers) + 1 if _INPUTS.match(name) else 0

    return {name: float(decay ** exponent(name)) for name in names}


def find_frozen(patterns: tuple[str, ...], names: Iterable[str]) -> set[str]:
    """Of the parameters with these (torch's) names, those in which a pattern is found.

    Raises:
        ValueError: a pattern is found in none, or nothing is left to train.
    """
    names = list(names)
    frozen = set(find_paths("optimizer.freeze", patterns, names, "parameter's"))
    if len(frozen) == len(names):
        raise ValueError(f"optimizer.freeze {' '.join(patterns)} leaves nothing to train")
    return frozen
