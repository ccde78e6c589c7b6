"""A model's folder, `config.json` and weights, as the Hugging Face Hub and this project have it.

>>> checkpoint = open_checkpoint(Path("runs/first"))
>>> tensors, missing = checkpoint.match(shapes)  # by our names, in torch's layout
>>> save_checkpoint(Path("copy"), checkpoint.config, dict(checkpoint.read(tensors)))

Models that the Hub knows are written as transformers reads them, with its names; others have our
own names and a `config.json` with the `architecture`. Reading is strict: every tensor is used once,
every parameter filled once, and all that does not match is listed together.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from jaxmodels.shared import configs
from jaxmodels.shared.configs import ModelConfig
from jaxmodels.shared.files import read_json, replaced, write_json
from jaxmodels.shared.hub import bert, gpt2, resnet
from jaxmodels.shared.hub.fields import METADATA
from jaxmodels.shared.hub.stored_tensors import StoredTensor
from jaxmodels.shared.hub.tensor_files import open_tensors, read_values
from jaxmodels.shared.weights import check_match, without_ignored

# The architectures of the Hub by `model_type`. Each is a module with `from_hub_config`,
# `to_hub_config` and `hub_modules`, and where they apply
#   PREFIXES    what goes before a base model's names in a model with a head
#   TRANSPOSED  patterns of tensors whose two axes the Hub has the other way round
#   TIED        tensors that are copies of others
#   DROPPED     patterns of tensors that are no parameters of the model, though they are there
#   RENAMED     (pattern, replacement) of names that transformers' Flax classes wrote otherwise
ARCHITECTURES: dict[str, Any] = {
    "bert": bert,
    "roberta": bert,
    "distilbert": bert,
    "gpt2": gpt2,
    "resnet": resnet,
}
_OF_CONFIG: dict[type[ModelConfig], Any] = {
    configs.BERTConfig: bert,
    configs.GPT2Config: gpt2,
    configs.ImageNetResNetConfig: resnet,
}
# The head: the fields of a config that choose it, and its modules, which are drawn anew where a
# checkpoint is asked for another head than it has.
_HEAD_FIELDS = ("head", "num_classes")
_HEAD_MODULES = ("pooler", "classifier", "masked_lm", "linear")


@dataclass(frozen=True)
class Checkpoint:
    """A model's config, and its tensors on disk by the names they have there."""

    config: ModelConfig
    stored: dict[str, StoredTensor]
    content: dict[str, Any]  # of config.json
    other_head: bool = False  # than the checkpoint's own is asked for

    def match(
        self, shapes: Mapping[str, tuple[int, ...]]
    ) -> tuple[dict[str, StoredTensor], tuple[str, ...]]:
        """The tensors by our names, in torch's layout, and what a new head lacks.

        `shapes` are the model's, in torch's names and layout.

        Raises:
            ValueError: tensors are missing, left over or of another shape; all are listed.
        """
        file = next(iter(self.stored.values())).path
        names = {ours: hub_name(self.config, ours) for ours in shapes}
        turned = {ours for ours, name in names.items() if is_transposed(self.config, name)}
        expected = {
            names[ours]: shape[::-1] if ours in turned else shape for ours, shape in shapes.items()
        }
        try:
            found = _usable(_OF_CONFIG.get(type(self.config)), self.stored, expected)
            missing: set[str] = set()
            if self.other_head:
                head = {name for ours, name in names.items() if ours.startswith(_HEAD_MODULES)}
                missing = {name for name in head if not _fits(found.get(name), expected[name])}
                expected = {name: s for name, s in expected.items() if name not in missing}
                found = _without_other_head(found, expected, missing)
            check_match({name: tensor.shape for name, tensor in found.items()}, expected)
        except ValueError as error:
            raise ValueError(
                str(error) if str(file) in str(error) else f"{file}: {error}"
            ) from None
        tensors = {
            ours: found[name].transposed((1, 0)) if ours in turned else found[name]
            for ours, name in names.items()
            if name in expected
        }
        return tensors, tuple(ours for ours, name in names.items() if name in missing)

    def read(self, tensors: Mapping[str, StoredTensor]) -> Iterator[tuple[str, np.ndarray]]:
        """What `match` found, one by one, in float32: never two at a time in memory.

        Raises:
            ValueError: a value is NaN or infinite.
        """
        for ours, tensor in tensors.items():
            yield ours, read_values(hub_name(self.config, ours), tensor)

    def read_over(
        self, own: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        """(all tensors, `own` where a new head lacks them; the names of these).

        `own` are a model's, by our names and in torch's layout.

        Raises:
            ValueError: the checkpoint's tensors are not the model's.
        """
        tensors, missing = self.match({name: value.shape for name, value in own.items()})
        return dict(self.read(tensors)) | {name: own[name] for name in missing}, missing


def open_checkpoint(folder: Path, **changes: Any) -> Checkpoint:
    """Reads the config and the headers of the weights; the values are read when asked for.

    `changes` are fields of the config that differ from the file's, such as another `head` or
    `num_classes`: the checkpoint's own head is then left out, and the new one may be missing.

    Raises:
        ValueError: a file is missing or malformed, or the config asks for what we do not have.
    """
    folder = Path(folder)
    path = folder / "config.json"
    content: Any = read_json(path)
    try:
        config = read_config(content)
        strange = changes.keys() - dataclasses.asdict(config).keys()
        if strange:
            raise ValueError(f"{configs.architecture(config)} has no {' or '.join(strange)}")
        changed = replace(config, **changes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    heads = [[getattr(c, name, None) for name in _HEAD_FIELDS] for c in (config, changed)]
    return Checkpoint(changed, open_tensors(folder), content, other_head=heads[0] != heads[1])


def read_config(content: Any) -> ModelConfig:
    """The config that a `config.json` describes, the Hub's or ours.

    Raises:
        ValueError: its architecture or a field is unknown or malformed.
    """
    if not isinstance(content, dict) or "model_type" not in content:
        return configs.from_json(content)
    if content["model_type"] not in ARCHITECTURES:
        raise ValueError(
            f"model_type {content['model_type']!r} is not served; expected one of "
            f"{sorted(ARCHITECTURES)}"
        )
    return ARCHITECTURES[content["model_type"]].from_hub_config(content)


def config_content(config: ModelConfig) -> dict[str, Any]:
    """What `save_checkpoint` writes as `config.json`."""
    module = _OF_CONFIG.get(type(config))
    return configs.to_json(config) if module is None else module.to_hub_config(config)


def with_metadata(content: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """A `config.json` with the fields of another that say nothing about the function."""
    if "model_type" not in content:
        return content
    labels = other.get("id2label")
    own = {"architectures", "model_type", "transformers_version", "dtype", "torch_dtype"}
    if not isinstance(labels, dict) or len(labels) != len(content.get("id2label", {})):
        own |= {"id2label", "label2id", "num_labels"}
    return content | {k: other[k] for k in METADATA - own if other.get(k) is not None}


def hub_name(config: ModelConfig, ours: str) -> str:
    """The name on disk of our tensor: the Hub's, or our own for models it does not know."""
    if type(config) not in _OF_CONFIG:
        return ours
    modules = _hub_modules(config)
    path, _, leaf = ours.rpartition(".")
    if path in modules:
        return f"{modules[path]}.{leaf}"
    number = next(part for part in path.split(".") if part.isdigit())
    return f"{modules[path.replace(number, '{}', 1)].format(number)}.{leaf}"


@functools.cache  # asked for every tensor
def _hub_modules(config: ModelConfig) -> dict[str, str]:
    return _OF_CONFIG[type(config)].hub_modules(config)


def flax_module(config: ModelConfig, path: str) -> str:
    """The name that transformers' Flax classes give a module of the Hub's."""
    if isinstance(config, configs.ImageNetResNetConfig) and config.block == "basic":
        return re.sub(r"\.layer\.(\d+)\.", r".layer.layer_\1.", path)
    return path


def is_transposed(config: ModelConfig, name: str) -> bool:
    """Whether the Hub has the two axes of its tensor `name` the other way round than torch."""
    return _any(getattr(_OF_CONFIG.get(type(config)), "TRANSPOSED", ()), name)


def save_checkpoint(
    folder: Path,
    config: ModelConfig,
    tensors: Mapping[str, np.ndarray],
    *,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes `config.json` and `model.safetensors`, each replaced whole or not at all.

    `tensors` are by our names and in torch's layout. `metadata` is the content of another
    `config.json`, of which the names of classes, special tokens and the like are kept.
    """
    folder = Path(folder)
    content = with_metadata(config_content(config), metadata or {})
    folder.mkdir(parents=True, exist_ok=True)
    module = _OF_CONFIG.get(type(config))
    named = {hub_name(config, ours): value for ours, value in tensors.items()}
    for name, value in named.items():
        if is_transposed(config, name):
            named[name] = np.ascontiguousarray(value.T)
    if module is resnet:  # transformers misses the counters of batches where they are not there
        counters = [name for name in named if name.endswith("running_mean")]
        named |= {
            name.replace("running_mean", "num_batches_tracked"): np.zeros((), np.int64)
            for name in counters
        }
    with replaced(folder / "model.safetensors") as temporary:
        save_file(named, temporary, metadata={"format": "pt"})
    write_json(folder / "config.json", content)


def _usable(
    module: Any, stored: Mapping[str, StoredTensor], expected: Mapping[str, tuple[int, ...]]
) -> dict[str, StoredTensor]:
    """The stored tensors by the names that are expected of them, less copies and buffers."""
    found: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        for pattern, replacement in getattr(module, "RENAMED", ()):
            name = re.sub(pattern, replacement, name)
        for prefix in getattr(module, "PREFIXES", ()):
            # A base model's checkpoint may go into a model with a head, and the other way round.
            for other in (prefix + name, name.removeprefix(prefix)):
                if name not in expected and other in expected:
                    name = other
        if name in found:
            raise ValueError(f"two tensors are both {name}")
        found[name] = tensor
    for copy, original in getattr(module, "TIED", {}).items():
        if copy in found and copy not in expected and original in found:
            if not np.array_equal(found[copy].read(), found[original].read()):
                raise ValueError(
                    f"{copy} differs from {original}, of which it should be a copy; a model whose "
                    "output layer is not tied to its embedding is not served"
                )
            del found[copy]
    dropped = getattr(module, "DROPPED", ())
    return without_ignored(
        {name: t for name, t in found.items() if name in expected or not _any(dropped, name)}
    )


def _fits(tensor: StoredTensor | None, shape: tuple[int, ...]) -> bool:
    return tensor is not None and tensor.shape == shape


def _without_other_head(
    found: Mapping[str, StoredTensor], expected: Mapping[str, tuple[int, ...]], missing: set[str]
) -> dict[str, StoredTensor]:
    """The stored tensors less the checkpoint's own head; what is strange in the body stays."""
    body = {name.partition(".")[0] for name in expected}
    return {
        name: tensor
        for name, tensor in found.items()
        if name in expected or (name not in missing and name.partition(".")[0] in body)
    }


def _any(patterns: tuple[str, ...], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)
