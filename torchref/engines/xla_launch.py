"""Starts a script in one process a chip: python -m torchref.engines.xla_launch scripts/train.py ...

Under torchrun each process runs it, which is how several train on CPUs:
    torchrun --nproc-per-node 2 -m torchref.engines.xla_launch scripts/train.py TASK --engine xla
"""

# torch_xla has an environment of its own.
# pyright: reportMissingImports=false

import os
import runpy
import sys

import torch_xla
import torch_xla.runtime


def run(index: int, arguments: list[str]) -> None:
    """Runs the script as the main program, told which process it is, as torchrun tells it."""
    own = {
        "RANK": torch_xla.runtime.global_ordinal(),
        "WORLD_SIZE": torch_xla.runtime.world_size(),
        "LOCAL_RANK": torch_xla.runtime.local_ordinal(),
    }
    for name, value in own.items():
        os.environ.setdefault(name, str(value))
    sys.argv = arguments
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise


if __name__ == "__main__":
    torch_xla.launch(run, args=(sys.argv[1:],))
