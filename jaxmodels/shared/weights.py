"""Flax <-> torch weights: rules by leaf, strict both ways.

Attribute names are the same in both frameworks, so a Flax leaf such as `blocks.0.conv1.kernel`
finds its torch tensor `blocks.0.conv1.weight` by a rule on its last name alone. Loading is strict:
every tensor is used once, and all mismatches are listed together.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

T = TypeVar("T")  # whatever stands for a tensor


@dataclass(frozen=True)
class LeafRule:
    """torch's name for a Flax leaf, and by rank which Flax axis each torch axis is."""

    torch_name: str
    axes: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


LEAF_RULES: dict[str, LeafRule] = {
    "kernel": LeafRule("weight", {2: (1, 0), 4: (3, 2, 0, 1)}),  # (in, out), (H, W, in, out)
    "bias": LeafRule("bias"),
    "scale": LeafRule("weight"),
    "mean": LeafRule("running_mean"),
    "var": LeafRule("running_var"),
    "embedding": LeafRule("weight"),
    "weight_ih": LeafRule("weight_ih"),  # recurrent layers have torch's names and layout
    "weight_hh": LeafRule("weight_hh"),
    "bias_ih": LeafRule("bias_ih"),
    "bias_hh": LeafRule("bias_hh"),
    "lora_a": LeafRule("lora_a", {2: (1, 0)}),  # (in, rank) and (rank, out), as kernels have it
    "lora_b": LeafRule("lora_b", {2: (1, 0)}),
}
_RECURRENT_SUFFIX = re.compile(r"_l\d+(_reverse)?$")  # the same on both sides


@dataclass(frozen=True)
class WeightRules:
    """How Flax's leaves correspond to torch's.

    `renames` are (pattern, replacement) regular expressions on the path before the leaf's name,
    for pairs whose modules are named differently. `ignored` are the ends of torch's names that have
    no counterpart: BatchNorm's batch counter changes nothing while the momentum is set.
    """

    leaves: Mapping[str, LeafRule] = field(default_factory=lambda: LEAF_RULES)
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ("num_batches_tracked",)

    def torch_name(self, flax_name: str) -> str:
        path, _, leaf = flax_name.rpartition(".")
        suffix = leaf.removeprefix(_without_suffix(leaf))
        return f"{self.module_name(path)}.{self._rule(flax_name).torch_name}{suffix}".lstrip(".")

    def _rule(self, flax_name: str) -> LeafRule:
        leaf = _without_suffix(flax_name.rpartition(".")[2])
        if leaf not in self.leaves:
            raise ValueError(
                f"{flax_name}: no rule for a leaf called {leaf!r}; add a LeafRule to "
                "WeightRules.leaves"
            )
        return self.leaves[leaf]

    def module_name(self, path: str) -> str:
        """torch's path of a Flax module."""
        for pattern, replacement in self.renames:
            path = re.sub(pattern, replacement, path)
        return path

    def torch_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """torch's names and shapes of the Flax leaves with these."""
        return {
            self.torch_name(name): tuple(shape[axis] for axis in self.axes(name, len(shape)))
            for name, shape in shapes.items()
        }

    def to_flax(self, flax_name: str, tensor: np.ndarray) -> np.ndarray:
        """A torch tensor in the layout of its Flax leaf."""
        return np.ascontiguousarray(tensor.transpose(np.argsort(self.axes(flax_name, tensor.ndim))))

    def axes(self, flax_name: str, rank: int) -> tuple[int, ...]:
        return self._rule(flax_name).axes.get(rank, tuple(range(rank)))


def _without_suffix(leaf: str) -> str:
    return _RECURRENT_SUFFIX.sub("", leaf)


def to_torch_layout(
    leaves: Mapping[str, np.ndarray], rules: WeightRules | None = None
) -> dict[str, np.ndarray]:
    """Flax's leaves by dotted path -> torch's names and axes."""
    rules = rules or WeightRules()
    tensors: dict[str, np.ndarray] = {}
    for name, value in leaves.items():
        torch_name = rules.torch_name(name)
        if torch_name in tensors:
            raise ValueError(f"two leaves map to {torch_name}, the second is {name}")
        tensors[torch_name] = np.ascontiguousarray(value.transpose(rules.axes(name, value.ndim)))
    return tensors


def to_flax_layout(
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    rules: WeightRules | None = None,
) -> dict[str, np.ndarray]:
    """torch's tensors -> the Flax leaves whose dotted paths and shapes are given.

    Raises:
        ValueError: tensors are missing, left over or of another shape; all are listed.
    """
    rules = rules or WeightRules()
    torch_names = {name: rules.torch_name(name) for name in shapes}
    tensors = without_ignored(tensors, rules)
    check_match({n: tensor.shape for n, tensor in tensors.items()}, rules.torch_shapes(shapes))
    return {name: rules.to_flax(name, tensors[torch_names[name]]) for name in shapes}


def without_ignored(tensors: Mapping[str, T], rules: WeightRules | None = None) -> dict[str, T]:
    """The tensors that have a counterpart in Flax."""
    ignored = (rules or WeightRules()).ignored
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not f".{name}".endswith(tuple(f".{end}" for end in ignored))
    }


def count_parameters(tensors: Mapping[str, np.ndarray]) -> int:
    """How many numbers of a model's tensors, by torch's names, are parameters: no statistics."""
    statistics = ("running_mean", "running_var")
    return sum(v.size for k, v in tensors.items() if k.rpartition(".")[2] not in statistics)


def check_match(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises a ValueError that lists every missing, unexpected and misshapen tensor."""
    lines = [
        f"- missing {name} {expected[name]}" for name in _sorted(expected.keys() - found.keys())
    ]
    lines += [
        f"+ unexpected {name} {found[name]}" for name in _sorted(found.keys() - expected.keys())
    ]
    lines += [
        f"! {name} has shape {tuple(found[name])}, expected {tuple(expected[name])}"
        for name in _sorted(expected.keys() & found.keys())
        if tuple(found[name]) != tuple(expected[name])
    ]
    if lines:
        raise ValueError(
            f"{len(lines)} tensors do not match (is this the checkpoint of another model?):\n  "
            + "\n  ".join(lines)
        )


def _sorted(names: Iterable[str]) -> list[str]:
    """Sorted with numbers in their order, so that layer 10 comes after layer 9."""
    return sorted(
        names, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]
    )
