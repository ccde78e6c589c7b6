"""Flax <-> torch weights: rules by leaf, strict both ways, and the checkpoint on disk.

Attribute names are the same in both frameworks, so a Flax leaf such as `blocks.0.conv1.kernel`
finds its torch tensor `blocks.0.conv1.weight` by a rule on its last name alone. A checkpoint is a
folder with `config.json` and `model.safetensors` in torch's names and layout; every engine reads
and writes it. Loading is strict: every tensor is used once, and all mismatches are listed together.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from jaxmodels.shared.configs import ModelConfig, from_json, to_json


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
}
_RECURRENT_SUFFIX = re.compile(r"_l\d+(_reverse)?$")  # the same on both sides


@dataclass(frozen=True)
class WeightRules:
    """How Flax's leaves correspond to torch's.

    `renames` are (pattern, replacement) regular expressions on the path before the leaf's name,
    for pairs whose modules are named differently. `ignored` are torch's leaf names that have no
    counterpart: BatchNorm's batch counter changes nothing while the momentum is set.
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
    expected = {
        torch_names[name]: tuple(shape[axis] for axis in rules.axes(name, len(shape)))
        for name, shape in shapes.items()
    }
    tensors = without_ignored(tensors, rules)
    check_match({name: tensor.shape for name, tensor in tensors.items()}, expected)
    return {
        name: np.ascontiguousarray(
            tensors[torch_names[name]].transpose(np.argsort(rules.axes(name, len(shape))))
        )
        for name, shape in shapes.items()
    }


def without_ignored(
    tensors: Mapping[str, np.ndarray], rules: WeightRules | None = None
) -> dict[str, np.ndarray]:
    """The tensors that have a counterpart in Flax."""
    ignored = (rules or WeightRules()).ignored
    return {k: v for k, v in tensors.items() if k.rpartition(".")[2] not in ignored}


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


def save_checkpoint(folder: Path, config: ModelConfig, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes `config.json` and `model.safetensors`, each replaced whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with replaced(folder / "model.safetensors") as temporary:
        save_file(dict(tensors), temporary, metadata={"format": "pt"})
    write_json(folder / "config.json", to_json(config))


def load_checkpoint(folder: Path) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """Reads a folder that `save_checkpoint` wrote.

    Raises:
        ValueError: a file is missing or unreadable, or the config is not one of ours.
    """
    folder = Path(folder)
    try:
        config = from_json(read_json(folder / "config.json"))
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None
    path = folder / "model.safetensors"
    if not path.is_file():
        raise ValueError(f"{path} is missing; expected a folder that a finished run wrote")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}); copy it anew"
        ) from None
    wrong = [
        f"{name} ({value.dtype})" for name, value in tensors.items() if value.dtype != np.float32
    ]
    if wrong:
        raise ValueError(f"{path}: expected float32 tensors, found {', '.join(_sorted(wrong))}")
    return config, tensors


class replaced:  # noqa: N801 (reads as a verb: `with replaced(path) as temporary`)
    """Gives a temporary path beside `path`; moves it into place on success, removes it if not."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.temporary = self.path.with_name(f".{self.path.name}.tmp")

    def __enter__(self) -> Path:
        try:
            self.temporary.unlink(missing_ok=True)  # of a process that was killed
            self.temporary.touch()
            self.mode = self.temporary.stat().st_mode
        except OSError as error:
            raise could_not_write(self.path, error) from error
        return self.temporary

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        try:
            if error is None:
                os.chmod(self.temporary, self.mode)  # safetensors makes its files private
                with open(self.temporary, "rb") as file:
                    os.fsync(file.fileno())  # a crash after the rename must not leave an empty file
                os.replace(self.temporary, self.path)
                return
        except OSError as failure:
            error = failure
        self.temporary.unlink(missing_ok=True)
        if isinstance(error, OSError | SafetensorError):
            raise could_not_write(self.path, error) from error


def could_not_write(path: Path, error: Exception) -> OSError:
    """A failed write in one line: Python names no file when a disk is full."""
    reason = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0][:200]
    return OSError(
        f"{path} could not be written ({reason}); what was there is kept; free space or mend the "
        "permissions, and continue a training with --resume"
    )


def write_json(path: Path, content: object) -> None:
    """Writes strict JSON (no NaN), replacing the file whole or not at all."""
    with replaced(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> object:
    """Reads JSON; a missing or malformed file is a ValueError that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{path} is missing; expected a folder that a finished run wrote"
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def _sorted(names: Iterable[str]) -> list[str]:
    """Sorted with numbers in their order, so that layer 10 comes after layer 9."""
    return sorted(
        names, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]
    )
