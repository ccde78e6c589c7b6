"""Several processes of JAX on this machine: python scripts/launch_local.py -n 2 -- SCRIPT ...

    python scripts/launch_local.py -n 2 -- scripts/train.py cifar10-cnn --engine flax --out runs/two
    python scripts/launch_local.py -n 2 --devices-per-process 4 -- scripts/doctor.py

Each sees its own simulated CPU devices, and all of them meet on the loopback, as the hosts of a pod
do in its network. What process 0 prints is shown as it is; what the others print, and all errors,
have the process's number before them. When one fails, all end, with its exit code; SIGTERM and
SIGINT are handed on.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import IO, TextIO

from jaxmodels.shared.command_line import run_script
from jaxmodels.shared.company import LIMIT_NAMES

_GRACE = 5.0  # seconds in which the others may still tell why they end
_AT_ONCE = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        usage="%(prog)s -n N [options] -- SCRIPT ...",
    )
    parser.add_argument("-n", "--processes", type=int, default=2, metavar="N")
    parser.add_argument("--devices-per-process", type=int, default=1, metavar="K")
    parser.add_argument("--start-seconds", help="until all must have started (300)")
    parser.add_argument("--silence-seconds", help="until a silent process is given up (60)")
    parser.add_argument("--stall-seconds", help="until a training that stands still is (1800)")
    parser.add_argument("command", nargs="+", metavar="SCRIPT", help="and its arguments")
    arguments = parser.parse_args()
    count, devices = arguments.processes, arguments.devices_per_process
    for flag, value in (("-n", count), ("--devices-per-process", devices)):
        if value < 1:
            raise ValueError(f"{flag} {value} must be at least 1")
    limits = {
        variable: value
        for name, variable in LIMIT_NAMES.items()
        if (value := getattr(arguments, f"{name}_seconds"))
    }
    environments = environments_of(count, devices)
    return launch(arguments.command, [each | limits for each in environments])


def environments_of(count: int, devices: int) -> list[dict[str, str]]:
    """What each process is told: who it is, where the main one coordinates, and its devices."""
    address = f"127.0.0.1:{free_ports()}"
    return [
        {
            "RANK": str(index),
            "WORLD_SIZE": str(count),
            "LOCAL_RANK": str(index),
            "LOCAL_WORLD_SIZE": str(count),
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
            # XLA's threads: a device that waits for the others holds one, and must leave some.
            "NPROC": str(max(os.cpu_count() or 1, 4 * devices)),
            "PYTHONUNBUFFERED": "1",
        }
        for index in range(count)
    ]


def free_ports() -> int:
    """A port that is free, as is the next: the coordinator's, and that of the roll call."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = first.getsockname()[1]
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except OSError:
                continue
            return port


def launch(command: list[str], environments: list[dict[str, str]]) -> int:
    """Runs a process an environment; the exit code of the first that fails, or 0."""
    children: list[subprocess.Popen[bytes]] = []
    codes: list[int] = []  # in the order in which they end
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: hand_on(number, children))
    threads = []
    for index, environment in enumerate(environments):
        child = subprocess.Popen(
            [sys.executable, *command],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches them through this process alone
        )
        children.append(child)
        number = f"[{index}] ".encode()
        threads += [
            threading.Thread(target=lambda child=child: codes.append(child.wait())),
            threading.Thread(target=copy, args=(child.stdout, sys.stdout, number * (index > 0))),
            threading.Thread(target=copy, args=(child.stderr, sys.stderr, number)),
        ]
    for thread in threads:
        thread.start()
    last = float("inf")
    while len(codes) < len(children):
        if any(codes):
            last = min(last, time.monotonic() + _GRACE)
        if time.monotonic() > last:
            hand_on(signal.SIGKILL, children)
        time.sleep(_AT_ONCE)
    for thread in threads:
        thread.join()
    first = next(filter(None, codes), 0)
    return first if first >= 0 else 128 - first  # as a shell tells of a signal


def hand_on(number: int, children: list[subprocess.Popen[bytes]]) -> None:
    for child in children:
        if child.poll() is None:
            child.send_signal(number)


def copy(source: IO[bytes], sink: TextIO, prefix: bytes) -> None:
    """Line for line."""
    for line in source:
        sink.buffer.write(prefix + line)
        sink.buffer.flush()


if __name__ == "__main__":
    run_script(main)
