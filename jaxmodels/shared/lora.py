"""Low-rank adapters (LoRA, Hu et al. 2022): their config, and peft's files of them.

>>> lora = LoRAConfig(rank=4, targets=(r"attention\\.query_key_value$", r"linear[12]$"))
>>> write_adapter(Path("adapter"), GPT2Config(), lora, tensors)
>>> lora, tensors = read_adapter(Path("adapter"), GPT2Config(), linears)

An adapted linear layer computes W x + alpha / rank * B A dropout(x). Tensors are by our names and
in torch's layout: `blocks.0.linear1.lora_a` is A (rank, in), `blocks.0.linear1.lora_b` B (out,
rank). In a folder, `adapter_config.json` and `adapter_model.safetensors` are what peft writes and
reads, with the Hub's names for the models it knows and our own for others.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from jaxmodels.shared.configs import ModelConfig
from jaxmodels.shared.files import read_json, replaced, write_json
from jaxmodels.shared.hub.fields import check_fields, read_fields
from jaxmodels.shared.hub.folder import hub_name, is_transposed
from jaxmodels.shared.hub.tensor_files import read_all, read_safetensors
from jaxmodels.shared.weights import check_match

Linears = Mapping[str, tuple[int, ...]]  # (out, in) of a model's linear layers by dotted path

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
# The others' models (classification) train and save the head beside the adapter, or are refused
# without it; peft loads an adapter of no task for a model of any.
_TASK_TYPES = {"language-model": "CAUSAL_LM", "none": "FEATURE_EXTRACTION"}
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class LoRAConfig:
    """Which linear layers are adapted, and how.

    `targets` are regular expressions, searched for in the layers' dotted paths, such as
    `blocks.0.attention.query`. The default is the paper's: the queries and the values, which are
    GPT-2's one kernel with the keys.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout_rate: float = 0.0
    targets: tuple[str, ...] = (r"attention\.(query|value|query_key_value)$",)

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"rank is {self.rank!r}, expected an integer of 1 or more")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha is {self.alpha!r}, expected a number above 0")
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(f"dropout_rate is {self.dropout_rate!r}, expected 0 <= rate < 1")
        if isinstance(self.targets, str) or not self.targets:
            raise ValueError(
                f"targets is {self.targets!r}, expected patterns of layers' paths, such as "
                r"('attention\\.query$',)"
            )
        for pattern in self.targets:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"targets: {pattern!r} is no regular expression ({error})"
                ) from None

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def find_targets(config: LoRAConfig, linears: Iterable[str]) -> list[str]:
    """The paths of the linear layers that are adapted, in the model's order.

    Raises:
        ValueError: a pattern finds none.
    """
    linears = list(linears)
    for pattern in config.targets:
        if not any(re.search(pattern, path) for path in linears):
            raise ValueError(
                f"targets: {pattern!r} is found in no linear layer's path; the model has "
                f"{_kinds(linears)}"
            )
    return [path for path in linears if any(re.search(p, path) for p in config.targets)]


def adapter_shapes(rank: int, linears: Linears) -> dict[str, tuple[int, ...]]:
    """The adapters' tensors of these layers."""
    shapes = {}
    for path, (num_outputs, num_inputs) in linears.items():
        shapes[f"{path}.lora_a"] = (rank, num_inputs)
        shapes[f"{path}.lora_b"] = (num_outputs, rank)
    return shapes


def write_adapter(
    folder: Path,
    config: ModelConfig,
    lora: LoRAConfig,
    tensors: Mapping[str, np.ndarray],
    linears: Iterable[str],
    *,
    base: str = "",
) -> None:
    """Writes the folder that `PeftModel.from_pretrained(base_model, folder)` loads.

    `linears` are all of the model's, from which the adapted ones are told. `base` is the folder or
    the Hub's id of the model without adapters.
    """
    folder = Path(folder)
    adapted = {name.rpartition(".")[0] for name in tensors}
    names = {path: _hub_module(config, path) for path in linears}
    others = {name for path, name in names.items() if path not in adapted}
    content = {
        "peft_type": "LORA",
        "task_type": _TASK_TYPES.get(getattr(config, "head", "")),
        "base_model_name_or_path": base or None,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        "lora_dropout": lora.dropout_rate,
        "target_modules": sorted({_shortest(names[path], others) for path in adapted}),
        "fan_in_fan_out": any(is_transposed(config, f"{names[path]}.weight") for path in adapted),
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }
    stored = {
        theirs: np.ascontiguousarray(tensors[ours])
        for ours, theirs in _peft_names(config, tensors).items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    with replaced(folder / "adapter_model.safetensors") as temporary:
        save_file(stored, temporary, metadata={"format": "pt"})
    write_json(folder / "adapter_config.json", content)


def read_adapter(
    folder: Path, config: ModelConfig, linears: Linears
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
        lora = _read_config(content, config, linears)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise ValueError(f"{path} is missing; expected what peft's save_pretrained writes")
    stored, _ = read_safetensors(path)
    adapted = {name: linears[name] for name in find_targets(lora, linears)}
    shapes = adapter_shapes(lora.rank, adapted)
    names = _peft_names(config, shapes)
    try:
        check_match(
            {name: tensor.shape for name, tensor in stored.items()},
            {names[ours]: shape for ours, shape in shapes.items()},
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    tensors = read_all(stored)
    return lora, {ours: tensors[theirs] for ours, theirs in names.items()}


def _read_config(content: Any, config: ModelConfig, linears: Linears) -> LoRAConfig:
    """Our config of peft's, where each adapted layer is a target of its own."""
    if not isinstance(content, dict) or content.get("peft_type") != "LORA":
        kind = content.get("peft_type") if isinstance(content, dict) else content
        raise ValueError(f"peft_type is {kind!r}, and only 'LORA' is supported")
    own = {"peft_type", "target_modules", "init_lora_weights", *_FIELDS}
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
        found = _kinds(_hub_module(config, path) for path in linears)
        raise ValueError(f"target_modules is {wanted!r}, and the model's linear layers are {found}")
    return LoRAConfig(**values, targets=tuple(f"^{re.escape(path)}$" for path in adapted))


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _selects(target_modules: str | list[str], name: str) -> bool:
    """Whether peft adapts the layer of that name."""
    if isinstance(target_modules, str):
        return re.fullmatch(target_modules, name) is not None
    return f".{name}".endswith(tuple(f".{target}" for target in target_modules))


def _shortest(name: str, others: set[str]) -> str:
    """The shortest end of a dotted name by which peft selects none of the others."""
    parts = name.split(".")
    ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
    return next(end for end in ends if not any(_selects([end], other) for other in others))


def _hub_module(config: ModelConfig, path: str) -> str:
    return hub_name(config, f"{path}.weight").removesuffix(".weight")


def _peft_names(config: ModelConfig, names: Iterable[str]) -> dict[str, str]:
    """peft's name of each of our adapters' tensors."""
    found = {}
    for name in names:
        path, _, leaf = name.rpartition(".")
        matrix = {"lora_a": "lora_A", "lora_b": "lora_B"}[leaf]
        found[name] = f"{_PREFIX}{_hub_module(config, path)}.{matrix}.weight"
    return found


def _kinds(paths: Iterable[str]) -> str:
    """The paths with their numbers left out, for an error."""
    return ", ".join(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", path) for path in paths)) or "none"
