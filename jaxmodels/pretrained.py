"""Flax models from and to a folder with `config.json` and `model.safetensors`.

>>> model = from_pretrained("runs/first")
>>> logits = model(images)  # (B, num_classes), in evaluation mode unless told `train=True`
"""

from pathlib import Path

from flax import nnx

from jaxmodels.models import create
from jaxmodels.shared.configs import ModelConfig
from jaxmodels.shared.weights import (
    load_checkpoint,
    save_checkpoint,
    to_flax_layout,
    to_torch_layout,
)
from jaxmodels.state import read_leaves, write_leaves


def from_pretrained(folder: str | Path) -> nnx.Module:
    """The model that `config.json` names, in float32, with the tensors of `model.safetensors`.

    Raises:
        ValueError: a file is missing or malformed, or the tensors are not the model's.
    """
    config, tensors = load_checkpoint(Path(folder))
    model = create(config)
    try:
        leaves = to_flax_layout(tensors, {n: leaf.shape for n, leaf in read_leaves(model).items()})
    except ValueError as error:
        raise ValueError(f"{Path(folder) / 'model.safetensors'}: {error}") from None
    write_leaves(model, leaves)
    return model


def save_pretrained(model: nnx.Module, config: ModelConfig, folder: str | Path) -> None:
    """Writes a model so that every engine, and `from_pretrained` in either framework, loads it."""
    save_checkpoint(Path(folder), config, to_torch_layout(read_leaves(model)))
