"""Whether a machine has a TPU that JAX does not use: JAX trains on the CPU then, without a word."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatch

# Chips as Google's VMs show them: /dev/accel0 up to v5p, an IOMMU group each from v5e on.
DEVICE_FILES = ("/dev/accel*", "/dev/vfio/[0-9]*")
_OF_A_TPU_VM = ("TPU_ACCELERATOR_TYPE", "TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES")


def signs_of_a_tpu(environment: Mapping[str, str], paths: Iterable[str]) -> list[str]:
    """What tells that this machine has a TPU: device files among `paths`, and variables."""
    files = [path for path in paths if any(fnmatch(path, pattern) for pattern in DEVICE_FILES)]
    # Who compiles for a TPU without one says that its only worker is this machine.
    names = [name for name in _OF_A_TPU_VM if environment.get(name, "localhost") != "localhost"]
    return sorted(files)[:1] + [f"{name}={environment[name]}" for name in names]


def check_uses_tpu(
    environment: Mapping[str, str], paths: Iterable[str], platform: str, *, libtpu: bool
) -> None:
    """Raises a ValueError on a machine with a TPU whose JAX took the CPU, unless told to.

    `platform` is JAX's default one, `libtpu` whether the TPU's library is installed.
    """
    signs = signs_of_a_tpu(environment, paths)
    asked = environment.get("JAX_PLATFORMS", "").split(",")[0] == "cpu"
    if platform != "cpu" or asked or not signs:
        return
    mend = (
        "another process may hold it: end that (`sudo lsof -w /dev/accel* /dev/vfio/*` shows it)"
        if libtpu
        else "libtpu is not installed: pip install 'jaxmodels[tpu]'"
    )
    raise ValueError(
        f"this machine has a TPU ({', '.join(signs)}), and JAX fell back to the CPU; {mend}; or "
        "ask for the CPU by JAX_PLATFORMS=cpu"
    )
