"""torch models from and to a folder with `config.json` and `model.safetensors`.

>>> model = from_pretrained("runs/first")
>>> logits = model(images)  # (B, num_classes); call `model.train()` to train on
"""

from pathlib import Path

from torch import nn

from jaxmodels.shared.configs import ModelConfig
from jaxmodels.shared.weights import load_checkpoint, save_checkpoint
from torchref.models import create
from torchref.weights import load_tensors, read_tensors


def from_pretrained(folder: str | Path) -> nn.Module:
    """The model that `config.json` names, in float32 and evaluation mode, with its tensors.

    Raises:
        ValueError: a file is missing or malformed, or the tensors are not the model's.
    """
    config, tensors = load_checkpoint(Path(folder))
    model = create(config)
    try:
        load_tensors(model, tensors)
    except ValueError as error:
        raise ValueError(f"{Path(folder) / 'model.safetensors'}: {error}") from None
    return model.eval()


def save_pretrained(model: nn.Module, config: ModelConfig, folder: str | Path) -> None:
    """Writes a model so that every engine, and `from_pretrained` in either framework, loads it."""
    save_checkpoint(Path(folder), config, read_tensors(model))
