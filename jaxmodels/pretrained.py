"""Flax models from and to a folder of the Hugging Face Hub's layout, or the Hub itself.

>>> model = from_pretrained("bert-base-uncased")
>>> model(input_ids, attention_mask).logits  # in evaluation mode unless told `train=True`
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, serialization, traverse_util
from jax.sharding import Mesh

from jaxmodels.models import create
from jaxmodels.sharding import parameter_sharding
from jaxmodels.shared.configs import ImageNetResNetConfig, ModelConfig, architecture
from jaxmodels.shared.files import replaced, write_json
from jaxmodels.shared.hub.download import find_folder
from jaxmodels.shared.hub.folder import (
    config_content,
    flax_module,
    hub_name,
    is_transposed,
    open_checkpoint,
    save_checkpoint,
    with_metadata,
)
from jaxmodels.shared.hub.tensor_files import read_values
from jaxmodels.shared.weights import WeightRules, to_torch_layout
from jaxmodels.state import read_leaves, read_shapes, write_leaves


def from_pretrained(
    path: str | Path,
    *,
    dtype: jnp.dtype | None = None,
    mesh: Mesh | None = None,
    seed: int = 0,
    **changes: Any,
) -> nnx.Module:
    """The model that `config.json` names, with its weights in float32.

    Args:
        path: a folder, or the Hub's id of a model. The weights may be safetensors or torch's
            pickles, or what transformers' Flax classes wrote, in one file or sharded.
        dtype: what linear layers and convolutions compute in (None: float32).
        mesh: of devices with the axes of `jaxmodels.sharding`, whose table says how the weights lie
            on it. Every device's part is read from the disk by itself; a process never holds more
            than its own devices' parts and one tensor.
        seed: draws what a new head lacks.
        changes: fields of the config, such as `head="sequence-classification", num_classes=3`: a
            head that the checkpoint lacks is drawn anew.

    Raises:
        ValueError: a file is missing or malformed, the config asks for what we do not have, or the
            tensors are not the model's; the mesh has an axis that is not known.
    """
    checkpoint = open_checkpoint(find_folder(path), **changes)
    rules = WeightRules()
    # Of the model only the shapes: its weights are never drawn, nor held twice.
    model = nnx.eval_shape(lambda: create(checkpoint.config, dtype=dtype))
    shapes = read_shapes(model)
    tensors, missing = checkpoint.match(rules.torch_shapes(shapes))
    fresh = read_leaves(create(checkpoint.config, seed=seed, dtype=dtype)) if missing else {}
    leaves = {}
    for name, shape in shapes.items():
        sharding = None if mesh is None else parameter_sharding(name, shape, mesh)
        stored = tensors.get(rules.torch_name(name))
        if stored is None:
            leaves[name] = jax.device_put(fresh[name], sharding)
            continue
        in_flax = np.argsort(rules.axes(name, len(shape)))
        stored = stored.transposed(tuple(int(axis) for axis in in_flax))
        read = partial(read_values, hub_name(checkpoint.config, rules.torch_name(name)), stored)
        if sharding is None:
            leaves[name] = jnp.asarray(read())
        else:
            leaves[name] = jax.make_array_from_callback(shape, sharding, read)
    write_leaves(model, leaves)
    return model


def save_pretrained(
    model: nnx.Module,
    config: ModelConfig,
    folder: str | Path,
    *,
    layout: Literal["hub", "flax"] = "hub",
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes a folder that every engine, `from_pretrained` and, if it knows the architecture,
    transformers load.

    Args:
        layout: "flax" writes `flax_model.msgpack`, as transformers' Flax classes did until 4.57.
        metadata: the content of another `config.json`, of which the names of classes, special
            tokens and the like are kept.

    Raises:
        ValueError: transformers has no such model, or none with such a setting.
    """
    leaves = read_leaves(model)
    if layout == "hub":
        save_checkpoint(Path(folder), config, to_torch_layout(leaves), metadata=metadata)
        return
    content = with_metadata(config_content(config), metadata or {})
    if "model_type" not in content:
        raise ValueError(
            f"{architecture(config)} is no architecture of the Hub's, so nothing else reads its "
            'flax_model.msgpack; save it with layout="hub"'
        )
    Path(folder).mkdir(parents=True, exist_ok=True)
    with replaced(Path(folder) / "flax_model.msgpack") as temporary:
        temporary.write_bytes(serialization.msgpack_serialize(_flax_tree(config, leaves)))
    write_json(Path(folder) / "config.json", content)


def _flax_tree(config: ModelConfig, leaves: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The leaves in the tree of transformers' Flax class: the Hub's modules, Flax's leaves."""
    rules = WeightRules()
    flat: dict[tuple[str, ...], np.ndarray] = {}
    for name, value in leaves.items():
        hub = hub_name(config, rules.torch_name(name))
        leaf = name.rpartition(".")[2]
        path = flax_module(config, hub.rpartition(".")[0]).split(".")
        if isinstance(config, ImageNetResNetConfig):  # the one with more than parameters
            path.insert(0, "batch_stats" if leaf in ("mean", "var") else "params")
        flat[*path, leaf] = value.T if is_transposed(config, hub) else value
    return traverse_util.unflatten_dict(flat)
