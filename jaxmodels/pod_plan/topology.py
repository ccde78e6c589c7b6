"""A TPU slice on a machine without one: its devices, for which programs can be compiled.

>>> prepare_environment()  # before jax is imported
>>> devices = find_topology("v5e:16x16").devices

They can run nothing. The compiler is libtpu, of the very version that the installed jax names.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from math import prod
from typing import Any

from jaxmodels.pod_plan.chips import CHIPS, Chip

# What libtpu would otherwise ask Google's metadata server for, and no lock on devices it never
# touches. jax itself has only the CPU.
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}

_ALIASES = {
    "v5litepod": "v5e",
    "v5lite": "v5e",
    "trillium": "v6e",
}


@dataclass(frozen=True)
class Topology:
    """A slice: `sides` are its extents in chips, and `devices` jax's, one a chip."""

    name: str
    chip: Chip
    sides: tuple[int, ...]
    devices: Sequence[Any]

    def links(self, side: int) -> int:
        """How many of a chip's links go along a side: 2 of a ring, 1 of an open line's end."""
        return 2 if self.sides[side] % self.chip.wraps == 0 else 1


def prepare_environment() -> None:
    """Sets what libtpu needs to start without a TPU; nothing that is set already is kept."""
    os.environ.update(_ENVIRONMENT)


def parse_topology(name: str) -> tuple[Chip, tuple[int, ...]]:
    """ "v5e:4x4" -> the chip and (4, 4).

    Raises:
        ValueError: the chip is unknown, or it is not connected in so many dimensions.
    """
    match = re.fullmatch(r"([\w]+):(\d+(?:x\d+)*)", name.lower())
    kind = _ALIASES.get(match[1], match[1]) if match else ""
    if not match or kind not in CHIPS:
        raise ValueError(
            f"--topology {name}: expected CHIP:SIDES with a chip of {', '.join(CHIPS)}, as in "
            "v5e:4x4 or v5p:2x4x4"
        )
    chip, sides = CHIPS[kind], tuple(map(int, match[2].split("x")))
    example = "x".join(["4"] * chip.dimensions)
    if len(sides) != chip.dimensions:
        raise ValueError(
            f"--topology {name}: a slice of {chip.name} has {chip.dimensions} sides, as in "
            f"{chip.name}:{example}"
        )
    if prod(sides) > 1 and (any(s % 2 for s in sides[:2]) or min(sides) < 1):
        near = "x".join(str(max(2, s + s % 2)) for s in sides[:2]) + "".join(
            f"x{max(1, s)}" for s in sides[2:]
        )
        raise ValueError(
            f"--topology {name}: its first two sides must be even, for a host holds 2x2 chips; "
            f"try {chip.name}:{near}"
        )
    return chip, sides


def find_topology(name: str) -> Topology:
    """The slice of this name, such as v5e:16x16.

    Raises:
        ValueError: no such slice exists; libtpu is missing, or not the one that jax names.
    """
    chip, sides = parse_topology(name)
    check_compiler()
    import jax
    from jax.experimental import topologies

    # Of one chip alone; the default, 2x2 chips a host, cannot hold it.
    options = {"chips_per_host_bounds": [1, 1, 1]} if prod(sides) == 1 else {}
    full = f"{chip.name}:{'x'.join(map(str, sides))}"
    try:
        found = topologies.get_topology_desc(full, "tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"--topology {name}: {str(error).splitlines()[0]}") from None
    return Topology(full, chip, sides, found.devices)


def check_compiler() -> None:
    """Raises a ValueError unless libtpu is installed, in the version that jax names."""
    if find_spec("libtpu") is None:
        raise ValueError(
            "the pod plan needs libtpu, the TPU's compiler, which is not installed; "
            "run: pip install 'jaxmodels[pod-plan]'"
        )
    installed, named = metadata.version("libtpu"), required_compiler()
    if named and not re.fullmatch(re.escape(named).replace(r"\*", r".*"), installed):
        raise ValueError(
            f"libtpu {installed} is installed, and jax {metadata.version('jax')} is made "
            f"for {named}; run: pip install 'libtpu=={named}'"
        )


def required_compiler() -> str:
    """The version of libtpu that the installed jax names for its extra tpu: "0.0.42.*"."""
    for requirement in metadata.requires("jax") or []:
        if match := re.match(r"libtpu\s*==\s*([\w.*]+)", requirement):
            return match[1]
    return ""
