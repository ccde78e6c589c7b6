"""Low-rank adapters in peft's files, both ways.

>>> write_adapter(Path("adapter"), GPT2Config(), lora, tensors, shapes, linears)
>>> lora, tensors = read_adapter(Path("adapter"), GPT2Config(), shapes, linears)

In a folder, `adapter_config.json` and `adapter_model.safetensors` are what peft writes and reads,
with the Hub's names for the models it knows and our own for others. In memory, tensors are by our
names and in torch's layout: the adapters', and those of the modules that train in full beside them.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from jaxmodels.shared.configs import ModelConfig
from jaxmodels.shared.files import read_json, replaced, write_json
from jaxmodels.shared.hub.fields import check_fields, read_fields
from jaxmodels.shared.hub.folder import hub_name, is_transposed
from jaxmodels.shared.hub.tensor_files import read_all, read_safetensors
from jaxmodels.shared.lora import (
    Linears,
    LoRAConfig,
    adapter_shapes,
    find_saved,
    find_targets,
    is_adapter,
    modules_of,
)
from jaxmodels.shared.patterns import kinds
from jaxmodels.shared.weights import check_match

Shapes = Mapping[str, tuple[int, ...]]  # of all tensors of a model without adapters

_FIELDS = {"r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout_rate"}
# Fields of peft that say nothing about what a trained adapter computes. peft itself corrects
# `fan_in_fan_out`, which says that a base layer's weight is (in, out).
_METADATA = frozenset(
    {
        *("peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision"),
        *("inference_mode", "fan_in_fan_out", "megatron_core", "qalora_group_size"),
        *("runtime_config", "eva_config"),
    }
)
# How A and B were drawn. The others (PiSSA, OLoRA, CorDA, LoftQ) change the base's weights too.
_DRAWS = (True, False, None, "gaussian", "orthogonal", "eva")
# The others' models (classification) would have peft save the head whether it trains or not; peft
# loads an adapter of no task for a model of any.
_TASK_TYPES = {"language-model": "CAUSAL_LM", "none": "FEATURE_EXTRACTION"}
# Of these the output layer is the token embedding itself, which peft would train as two.
_TIED_HEADS = ("language-model", "masked-lm")
_PREFIX = "base_model.model."


def write_adapter(
    folder: Path,
    config: ModelConfig,
    lora: LoRAConfig,
    tensors: Mapping[str, np.ndarray],
    shapes: Shapes,
    linears: Iterable[str],
    *,
    base: str = "",
) -> None:
    """Writes the folder that `PeftModel.from_pretrained(base_model, folder)` loads.

    `tensors` are the adapters' and the saved modules', `linears` all linear layers of the model.
    `base` is the folder or the Hub's id of the model without adapters.

    Raises:
        ValueError: peft cannot say what trains: see `_check_saved`.
    """
    folder = Path(folder)
    adapted = {name.rpartition(".")[0] for name in tensors if is_adapter(name)}
    names = {path: _hub_module(config, path) for path in linears}
    others = {name for path, name in names.items() if path not in adapted}
    saved = find_saved(lora, shapes, adapted)
    _check_saved(config, saved, shapes)
    content = {
        "peft_type": "LORA",
        "task_type": _TASK_TYPES.get(getattr(config, "head", "")),
        "base_model_name_or_path": base or None,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        "lora_dropout": lora.dropout_rate,
        "target_modules": sorted({_shortest(names[path], others) for path in adapted}),
        "modules_to_save": sorted(_hub_module(config, path) for path in saved) or None,
        "fan_in_fan_out": any(is_transposed(config, f"{names[path]}.weight") for path in adapted),
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }
    turned = _turned(config, tensors)
    stored = {
        theirs: np.ascontiguousarray(tensors[ours].T if ours in turned else tensors[ours])
        for ours, theirs in _peft_names(config, tensors).items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    with replaced(folder / "adapter_model.safetensors") as temporary:
        save_file(stored, temporary, metadata={"format": "pt"})
    write_json(folder / "adapter_config.json", content)


def read_adapter(
    folder: Path, config: ModelConfig, shapes: Shapes, linears: Linears
) -> tuple[LoRAConfig, dict[str, np.ndarray]]:
    """What peft or `write_adapter` wrote for this model: the config, the tensors by our names.

    Raises:
        ValueError: a file is missing or malformed, the adapter is of a kind that computes something
            else, or a tensor is missing, left over, misshapen or not finite.
    """
    folder = Path(folder)
    path = folder / "adapter_config.json"
    content = read_json(path)
    try:
        lora = _read_config(content, config, shapes, linears)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise ValueError(f"{path} is missing; expected what peft's save_pretrained writes")
    stored, _ = read_safetensors(path)
    adapted = find_targets(lora, linears)
    saved = set(find_saved(lora, shapes, adapted))
    own = adapter_shapes(lora.rank, {name: linears[name] for name in adapted})
    own |= {name: shape for name, shape in shapes.items() if name.rpartition(".")[0] in saved}
    names, turned = _peft_names(config, own), _turned(config, own)
    try:
        check_match(
            {name: tensor.shape for name, tensor in stored.items()},
            {names[o]: shape[::-1] if o in turned else shape for o, shape in own.items()},
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    tensors = read_all(stored)
    return lora, {o: tensors[n].T if o in turned else tensors[n] for o, n in names.items()}


def _read_config(content: Any, config: ModelConfig, shapes: Shapes, linears: Linears) -> LoRAConfig:
    """Our config of peft's, where each adapted layer and saved module is a pattern of its own."""
    if not isinstance(content, dict) or content.get("peft_type") != "LORA":
        kind = content.get("peft_type") if isinstance(content, dict) else content
        raise ValueError(f"peft_type is {kind!r}, and only 'LORA' is supported")
    own = {"peft_type", "target_modules", "modules_to_save", "init_lora_weights", *_FIELDS}
    check_fields(content, _METADATA | own, {"bias": "none"})
    draw = content.get("init_lora_weights")
    if draw not in _DRAWS:
        raise ValueError(
            f"init_lora_weights is {draw!r}, which changes the base model's weights too; expected "
            f"one of {_DRAWS}; let peft convert the adapter (`save_pretrained` of peft tells how)"
        )
    # Not our defaults: what a file leaves out is peft's own.
    values = {"rank": 8, "alpha": 8.0} | read_fields(content, _FIELDS, LoRAConfig())
    wanted = content.get("target_modules")
    if not (isinstance(wanted, str) or (_is_list_of_names(wanted) and wanted)):
        raise ValueError(f"target_modules is {wanted!r}, expected names of layers, or a pattern")
    adapted = [path for path in linears if _selects(wanted, _hub_module(config, path))]
    if not adapted:
        found = kinds(_hub_module(config, path) for path in linears)
        raise ValueError(f"target_modules is {wanted!r}, and the model's linear layers are {found}")
    saved = _read_saved(content.get("modules_to_save"), config, shapes)
    return LoRAConfig(**values, targets=_exactly(adapted), modules_to_save=_exactly(saved))


def _read_saved(wanted: Any, config: ModelConfig, shapes: Shapes) -> list[str]:
    """The modules that peft saves in full. It may name some that no model of this kind has."""
    if not (wanted is None or _is_list_of_names(wanted)):
        raise ValueError(f"modules_to_save is {wanted!r}, expected names of modules")
    saved = [path for path in modules_of(shapes) if _saves(wanted or [], _hub_module(config, path))]
    _check_saved(config, saved, shapes)
    return saved


def _check_saved(config: ModelConfig, saved: list[str], shapes: Shapes) -> None:
    """Raises a ValueError where peft would save other modules, or another function."""
    if "token_embedding" in saved and getattr(config, "head", "") in _TIED_HEADS:
        raise ValueError(
            f"modules_to_save is to hold {_hub_module(config, 'token_embedding')}, which is the "
            "output layer too; peft would train the two apart"
        )
    names = [_hub_module(config, path) for path in saved]
    for path in modules_of(shapes):
        if path not in saved and _saves(names, _hub_module(config, path)):
            raise ValueError(
                f"modules_to_save: with {', '.join(saved)} peft saves {path} as well, by the end "
                f"of its name; add '^{path}$'"
            )


def _exactly(paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"^{re.escape(path)}$" for path in paths)


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _selects(target_modules: str | list[str], name: str) -> bool:
    """Whether peft adapts the layer of that name."""
    if isinstance(target_modules, str):
        return re.fullmatch(target_modules, name) is not None
    return f".{name}".endswith(tuple(f".{target}" for target in target_modules))


def _saves(modules_to_save: list[str], name: str) -> bool:
    """Whether peft saves the module of that name, or one that it is in: by the ends of names."""
    parts = name.split(".")
    above = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
    return any(module.endswith(tuple(modules_to_save)) for module in above)


def _shortest(name: str, others: set[str]) -> str:
    """The shortest end of a dotted name by which peft selects none of the others."""
    parts = name.split(".")
    ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
    return next(end for end in ends if not any(_selects([end], other) for other in others))


def _hub_module(config: ModelConfig, path: str) -> str:
    return hub_name(config, f"{path}.weight").removesuffix(".weight")


def _peft_names(config: ModelConfig, names: Iterable[str]) -> dict[str, str]:
    """peft's name of each of our tensors."""
    found = {}
    for name in names:
        path, _, leaf = name.rpartition(".")
        theirs = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight"}.get(leaf, leaf)
        found[name] = f"{_PREFIX}{_hub_module(config, path)}.{theirs}"
    return found


def _turned(config: ModelConfig, names: Iterable[str]) -> set[str]:
    """Those of our tensors whose two axes the Hub has the other way round."""
    return {n for n in names if not is_adapter(n) and is_transposed(config, hub_name(config, n))}
