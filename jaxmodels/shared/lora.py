"""Low-rank adapters (LoRA, Hu et al. 2022): their config, which layers it means, how they start.

>>> lora = LoRAConfig(rank=4, targets=(r"attention\\.query_key_value$", r"linear[12]$"))
>>> find_targets(lora, linears)
['blocks.0.attention.query_key_value', 'blocks.0.linear1', ...]

An adapted linear layer computes W x + alpha / rank * B A dropout(x). Tensors are by our names and
in torch's layout: `blocks.0.linear1.lora_a` is A (rank, in), `blocks.0.linear1.lora_b` B (out,
rank).
"""

import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from jaxmodels.shared.patterns import check_patterns, find_paths

Linears = Mapping[str, tuple[int, ...]]  # (out, in) of a model's linear layers by dotted path


@dataclass(frozen=True)
class LoRAConfig:
    """Which linear layers are adapted, how, and what trains beside them.

    `rank` 0 is none at all. `targets` are regular expressions, searched for in the layers' dotted
    paths, such as `blocks.0.attention.query`. The default is the paper's: the queries and the
    values, which are GPT-2's one kernel with the keys. `modules_to_save` (peft's word) are such
    patterns too, of modules of any kind whose own parameters train and are saved in full beside the
    adapters: a new head.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout_rate: float = 0.0
    targets: tuple[str, ...] = (r"attention\.(query|value|query_key_value)$",)
    modules_to_save: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 0:
            raise ValueError(f"lora.rank is {self.rank!r}, expected an integer of 0 (off) or more")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"lora.alpha is {self.alpha!r}, expected a number above 0")
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(f"lora.dropout_rate is {self.dropout_rate!r}, expected 0 <= rate < 1")
        if not self.targets:
            raise ValueError("lora.targets is empty, expected patterns of linear layers' paths")
        for name in ("targets", "modules_to_save"):
            check_patterns(f"lora.{name}", getattr(self, name))

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


NO_ADAPTERS = LoRAConfig(rank=0)


def find_targets(config: LoRAConfig, linears: Iterable[str]) -> list[str]:
    """The paths of the linear layers that are adapted, in the model's order.

    Raises:
        ValueError: the rank is 0, or a pattern finds none.
    """
    if not config.rank:
        raise ValueError("lora.rank is 0, which is no adapter; expected 1 or more")
    return find_paths("lora.targets", config.targets, linears, "linear layer's")


def find_saved(config: LoRAConfig, tensors: Iterable[str], targets: Iterable[str]) -> list[str]:
    """The paths of the modules that train in full, in the model's order.

    `tensors` are the names of all the model's, `targets` the paths of its adapted layers.

    Raises:
        ValueError: a pattern finds none, or one that is adapted.
    """
    if not config.modules_to_save:
        return []
    patterns = config.modules_to_save
    found = find_paths("lora.modules_to_save", patterns, modules_of(tensors), "module's")
    both = [path for path in found if path in set(targets)]
    if both:
        raise ValueError(
            f"lora.modules_to_save: {both[0]} is among the targets too; a layer is adapted or "
            "trained in full"
        )
    return found


def is_adapter(name: str) -> bool:
    """Whether a tensor of that name is an adapter's."""
    return name.endswith((".lora_a", ".lora_b"))


def modules_of(tensors: Iterable[str]) -> list[str]:
    """The paths of the modules that have these tensors, in their order."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in tensors))


def adapter_shapes(rank: int, linears: Linears) -> dict[str, tuple[int, ...]]:
    """The adapters' tensors of these layers."""
    shapes = {}
    for path, (num_outputs, num_inputs) in linears.items():
        shapes[f"{path}.lora_a"] = (rank, num_inputs)
        shapes[f"{path}.lora_b"] = (num_outputs, rank)
    return shapes


def fresh_adapters(rank: int, linears: Linears, *, seed: int) -> dict[str, np.ndarray]:
    """The adapters' first values, the same in every framework: float64.

    A is drawn from U(-in ** -0.5, in ** -0.5) by the seed and the layer's path, and B is zero, so
    that the function is the base's.
    """
    tensors = {}
    for name, shape in adapter_shapes(rank, linears).items():
        tensors[name] = np.zeros(shape)
        if name.endswith(".lora_a"):
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            tensors[name] = rng.uniform(-1, 1, shape) * shape[1] ** -0.5
    return tensors
