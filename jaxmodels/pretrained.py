"""Flax models from and to a folder of the Hugging Face Hub's layout, or the Hub itself.

>>> model = from_pretrained("bert-base-uncased")
>>> model(input_ids, attention_mask).logits  # in evaluation mode unless told `train=True`
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

from jaxmodels.models import create
from jaxmodels.shared.configs import ModelConfig
from jaxmodels.shared.hub.download import find_folder
from jaxmodels.shared.hub.folder import open_checkpoint, save_checkpoint
from jaxmodels.shared.hub.tensor_files import read_all
from jaxmodels.shared.weights import WeightRules, to_flax_layout, to_torch_layout
from jaxmodels.state import read_leaves, write_leaves


def from_pretrained(
    path: str | Path, *, dtype: jnp.dtype | None = None, seed: int = 0, **changes: Any
) -> nnx.Module:
    """The model that `config.json` names, with its weights in float32.

    Args:
        path: a folder, or the Hub's id of a model. The weights may be safetensors or torch's
            pickles, or what transformers' Flax classes wrote, in one file or sharded.
        dtype: what linear layers and convolutions compute in (None: float32).
        seed: draws what a new head lacks.
        changes: fields of the config, such as `head="sequence-classification", num_classes=3`: a
            head that the checkpoint lacks is drawn anew.

    Raises:
        ValueError: a file is missing or malformed, the config asks for what we do not have, or the
            tensors are not the model's.
    """
    checkpoint = open_checkpoint(find_folder(path), **changes)
    model = create(checkpoint.config, seed=seed, dtype=dtype)
    leaves = read_leaves(model)
    shapes = {name: leaf.shape for name, leaf in leaves.items()}
    rules = WeightRules()
    tensors, missing = checkpoint.match(rules.torch_shapes(shapes))
    fresh = {n: v for n, v in to_torch_layout(leaves).items() if n in missing}
    write_leaves(model, to_flax_layout(read_all(tensors) | fresh, shapes))
    return model


def save_pretrained(model: nnx.Module, config: ModelConfig, folder: str | Path) -> None:
    """Writes a model so that every engine, `from_pretrained` in either framework and, where the Hub
    knows its architecture, transformers load it."""
    save_checkpoint(Path(folder), config, to_torch_layout(read_leaves(model)))
