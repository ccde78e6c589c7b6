"""What this machine has, and what is wrong with it for a training: `scripts/doctor.py` prints it.

No framework is imported here: the versions are those of the installed packages.
"""

import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

PACKAGES = (
    *("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "numpy"),
    *("torch", "lightning", "accelerate", "torch_xla"),
)
NEEDED = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")  # by the Flax engine
_VARIABLES = re.compile(
    r"(JAX|JAXMODELS|XLA|TPU|PJRT|LIBTPU|MEGASCALE|CUDA_VISIBLE)_|"
    r"(LOCAL_)?RANK$|(LOCAL_)?WORLD_SIZE$|\w*_proxy$|OMP_NUM_THREADS$",
    re.IGNORECASE,
)
_LITTLE = 2**30  # bytes


def installed() -> dict[str, str | None]:
    """The version of each package; None where it is not installed."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Those that change what a training does, or where."""
    return {name: value for name, value in sorted(environment.items()) if _VARIABLES.match(name)}


def memory() -> tuple[int, int]:
    """Bytes of this machine's memory: all, and what a program may still take; 0 if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return 0, 0
    kilobytes = {name: int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines)}
    return kilobytes["MemTotal"] * 1024, kilobytes["MemAvailable"] * 1024


def describe(folder: Path, environment: Mapping[str, str]) -> list[str]:
    """Lines for people."""
    total, free = memory()
    space = shutil.disk_usage(folder)
    packages = ", ".join(f"{name} {found or '-'}" for name, found in installed().items())
    return [
        f"machine    {platform.node()}, {platform.platform()}, {os.cpu_count()} cores",
        f"python     {platform.python_version()} at {sys.executable}",
        f"packages   {packages}",
        f"memory     {gigabytes(free)} free of {gigabytes(total)}",
        f"disk       {gigabytes(space.free)} free of {gigabytes(space.total)} in {folder}",
        *(f"variable   {name}={value}" for name, value in variables(environment).items()),
    ]


def wrong(
    packages: Mapping[str, str | None],
    pinned_libtpu: str,
    environment: Mapping[str, str],
    *,
    free_memory: int,
    free_disk: int,
) -> list[str]:
    """What is wrong, a line each: what it is, what was expected, and how to mend it.

    `pinned_libtpu` is the version that jax asks for, such as "0.0.42.*", or "".
    """
    found = []
    if missing := [name for name in NEEDED if not packages.get(name)]:
        found.append(
            f"{', '.join(missing)} not installed; the Flax engine needs them; run: pip install "
            "'jaxmodels[jax]'"
        )
    jax, jaxlib, libtpu = (packages.get(name) for name in ("jax", "jaxlib", "libtpu"))
    if jax and jaxlib and jax != jaxlib:
        found.append(
            f"jax {jax} with jaxlib {jaxlib}; expected the same version of both; run: pip install "
            f"jaxlib=={jax}"
        )
    if libtpu and pinned_libtpu and not _matches(libtpu, pinned_libtpu):
        found.append(
            f"libtpu {libtpu}; jax {jax} expects {pinned_libtpu}; run: pip install "
            f"'jax[tpu]=={jax}'"
        )
    proxies = [name for name in environment if name.lower() in ("http_proxy", "https_proxy")]
    if proxies and int(environment.get("WORLD_SIZE") or 1) > 1:
        found.append(
            f"{proxies[0]} is set; the processes would look for each other behind the proxy; "
            f"expected none: unset {' '.join(proxies)}"
        )
    for what, size, mend in (
        ("memory", free_memory, "end other programs"),
        ("disk", free_disk, "remove old runs, or change to a folder of another disk"),
    ):
        if 0 < size < _LITTLE:
            found.append(f"{gigabytes(size)} of {what} free; expected 1 GiB at least; {mend}")
    return found


def pinned_libtpu() -> str:
    """The version of libtpu that the installed jax asks for; "" where that is not known."""
    try:
        asked = requires("jax") or []
    except PackageNotFoundError:
        return ""
    matches = (re.match(r"libtpu\s*\(?==\s*([\d.*]+)", line) for line in asked)
    return next((match[1] for match in matches if match), "")


def gigabytes(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB"


def _matches(found: str, asked: str) -> bool:
    """Whether a version is the asked one, whose end may be a star."""
    if asked.endswith(".*"):
        return (found + ".").startswith(asked[:-1])
    return found == asked
