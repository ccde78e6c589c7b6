"""What this machine has for a training, and what is wrong with it: python scripts/doctor.py

usage: doctor.py
       launch_local.py -n 2 -- scripts/doctor.py          # that several processes find each other
       tpu_pod.sh run NAME -- python scripts/doctor.py    # on every host of a pod

Each line of what is wrong says what was found, what was expected and how to mend it; then the exit
code is 1.
"""

import os
import shutil
import sys
from collections import Counter
from pathlib import Path

from jaxmodels.shared import machine
from jaxmodels.shared.command_line import run_script


def main() -> int:
    if sys.argv[1:]:
        print(__doc__)
        return 0 if sys.argv[1] in ("-h", "--help") else 2
    folder = Path.cwd()
    print(*machine.describe(folder, os.environ), sep="\n")
    packages = machine.installed()
    wrong = machine.wrong(
        packages,
        machine.pinned_libtpu(),
        os.environ,
        free_memory=machine.memory()[1],
        free_disk=shutil.disk_usage(folder).free,
    )
    if packages["jax"]:
        wrong += show_devices()
    print(*(f"WRONG      {line}" for line in wrong), sep="\n") if wrong else print("all is well")
    return 1 if wrong else 0


def show_devices() -> list[str]:
    """Prints the processes and their devices; what is wrong with them."""
    import jax

    from jaxmodels.distributed import together

    try:
        with together({"script": "doctor"}):
            here = jax.local_devices()
            print(
                f"process    {jax.process_index()} of {jax.process_count()}\n"
                f"platform   {here[0].platform}, {here[0].device_kind}\n"
                f"devices    {len(here)} here of {jax.device_count()}"
            )
            each = Counter(device.process_index for device in jax.devices())
            for device in here:
                limit = (device.memory_stats() or {}).get("bytes_limit")
                if limit:
                    print(f"           {device}: {machine.gigabytes(limit)}")
            if len(set(each.values())) > 1:
                return [
                    f"the processes have {dict(each)} devices; expected as many each; look at the "
                    "process with fewest"
                ]
    except (ValueError, OSError) as error:  # not all came, or the TPU is not used
        return [str(error)]
    except (RuntimeError, AssertionError) as error:  # no platform that JAX was told to take
        return [
            f"JAX finds no device: {str(error).partition(chr(10))[0] or 'none'}; expected those of "
            f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}; unset it, or mend the driver"
        ]
    return []


if __name__ == "__main__":
    run_script(main)
