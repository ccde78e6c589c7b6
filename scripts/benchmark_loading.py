"""Peak memory of loading a checkpoint onto a mesh: python scripts/benchmark_loading.py

Writes a GPT-2 of the XL size (1.56 billion random parameters, 6.2 GB of float32) in the Hub's
layout, then loads it by `jaxmodels.from_pretrained(folder, mesh=...)` with fsdp over 8 simulated
devices, in one process and in several, each of which has its share of the devices. Prints what a
process's parts of the parameters take and by how much its memory peaked over that.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from flax import nnx

import jaxmodels
from jaxmodels.models import create
from jaxmodels.sharding import make_mesh
from jaxmodels.shared.command_line import run_script
from jaxmodels.shared.configs import GPT2_SIZES
from jaxmodels.shared.hub.folder import save_checkpoint
from jaxmodels.shared.memory import peak_memory_bytes
from jaxmodels.shared.weights import WeightRules
from jaxmodels.state import read_shapes

XL = GPT2_SIZES["gpt2-xl"]
DEVICES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--layers", type=int, default=48, help="of the model [default: 48]")
    parser.add_argument("--processes", default="1,2", help="comma-separated [default: 1,2]")
    parser.add_argument("--load", nargs=3, help=argparse.SUPPRESS)  # FOLDER ADDRESS RANK/OF
    arguments = parser.parse_args()
    if arguments.load:
        folder, address, place = arguments.load
        rank, processes = map(int, place.split("/"))
        load(folder, address, rank, processes)
        return
    if arguments.layers < 1:
        raise ValueError(f"--layers {arguments.layers} must be at least 1")
    counts = [int(count) if count.isdigit() else 0 for count in arguments.processes.split(",")]
    if any(count < 1 or DEVICES % count for count in counts):
        raise ValueError(f"--processes {arguments.processes}: each must divide {DEVICES}")
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), arguments.layers)
        for processes in counts:
            measure(folder, processes)


def write(folder: Path, layers: int) -> None:
    """The checkpoint, of random values."""
    config = replace(XL, num_layers=layers)
    shapes = WeightRules().torch_shapes(read_shapes(nnx.eval_shape(lambda: create(config))))
    rng = np.random.default_rng(0)
    tensors = {name: rng.random(shape, np.float32) for name, shape in shapes.items()}
    save_checkpoint(folder, config, tensors)
    total = sum(value.nbytes for value in tensors.values())
    print(f"GPT-2 of {layers} layers of {config.hidden_dim}, {total / 1e9:.2f} GB of float32")


def measure(folder: str, processes: int) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(DEVICES // processes)}
    command = [sys.executable, __file__, "--load", folder, address]
    started = [
        subprocess.Popen([*command, f"{rank}/{processes}"], env=environment)
        for rank in range(processes)
    ]
    codes = [process.wait() for process in started]
    if any(codes):
        raise SystemExit(1)


def load(folder: str, address: str, rank: int, processes: int) -> None:
    if processes > 1:
        jax.distributed.initialize(address, processes, rank)
    mesh = make_mesh({"fsdp": DEVICES})
    before = peak_memory_bytes() or 0  # Windows says nothing
    model = jaxmodels.from_pretrained(folder, mesh=mesh)
    after = peak_memory_bytes() or 0
    own = sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(nnx.state(model))
        for shard in leaf.addressable_shards
    )
    print(
        f"process {rank + 1} of {processes}: parts {own / 1e9:.2f} GB, peak {after / 1e9:.2f} GB "
        f"({before / 1e9:.2f} GB before), {after / own:.2f} times the parts",
        flush=True,
    )


if __name__ == "__main__":
    run_script(main)
