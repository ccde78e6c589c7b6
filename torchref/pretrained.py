"""torch models from and to a folder of the Hugging Face Hub's layout, or the Hub itself.

>>> model = from_pretrained("bert-base-uncased")
>>> model(input_ids, attention_mask).logits  # call `model.train()` to train on
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from jaxmodels.shared.configs import ModelConfig
from jaxmodels.shared.hub.download import find_folder
from jaxmodels.shared.hub.folder import open_checkpoint, save_checkpoint
from torchref.models import create
from torchref.weights import load_tensors, read_tensors


def from_pretrained(path: str | Path, *, seed: int = 0, **changes: Any) -> nn.Module:
    """The model that `config.json` names, in float32 and evaluation mode, with its weights.

    Args:
        path: a folder, or the Hub's id of a model. The weights may be safetensors or torch's
            pickles, or what transformers' Flax classes wrote, in one file or sharded.
        seed: draws what a new head lacks.
        changes: fields of the config, such as `head="sequence-classification", num_classes=3`: a
            head that the checkpoint lacks is drawn anew.

    Raises:
        ValueError: a file is missing or malformed, the config asks for what we do not have, or the
            tensors are not the model's.
    """
    checkpoint = open_checkpoint(find_folder(path), **changes)
    model = create(checkpoint.config, seed=seed)
    load_tensors(model, checkpoint.read_over(read_tensors(model))[0])
    return model.eval()


def save_pretrained(
    model: nn.Module,
    config: ModelConfig,
    folder: str | Path,
    *,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes a folder that every engine, `from_pretrained` and, if it knows the architecture,
    transformers load.

    `metadata` is the content of another `config.json`, of which the names of classes, special
    tokens and the like are kept.
    """
    save_checkpoint(Path(folder), config, read_tensors(model), metadata=metadata)
