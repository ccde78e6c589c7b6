"""Several processes of JAX: who they are, and that they start, agree and end together.

>>> with together({"task": "houses-ridge"}):
...     train()

Before anything touches a device. On a TPU pod JAX itself finds the processes; elsewhere the
environment tells, as `scripts/launch_local.py` sets it: RANK and WORLD_SIZE as torchrun has them,
and JAX_COORDINATOR_ADDRESS.
"""

import contextlib
import glob
import importlib.util
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from jaxmodels.shared.company import Company, limits_of
from jaxmodels.shared.machine import installed
from jaxmodels.shared.processes import Process, this_process
from jaxmodels.shared.relay import relay
from jaxmodels.shared.roll_call import roll_call
from jaxmodels.shared.tpu import DEVICE_FILES, check_uses_tpu, signs_of_a_tpu

_TELLS_FIRST = 10.0  # seconds in which the company says who ended, if an error comes of that


@contextlib.contextmanager
def together(described: Mapping[str, Any]) -> Iterator[None]:
    """Within, JAX knows all processes, which have come with the same description and versions.

    The only process goes straight on.

    Raises:
        ValueError: another process has come with another description, and which field differs; or
            this machine has a TPU that JAX does not use.
        ConnectionError: not all came within the limits.
    """
    process, coordinator = find_processes()
    if process.count == 1:
        check_platform()
        yield
        return
    host, _, port = coordinator.rpartition(":")
    with roll_call(process, f"{host}:{int(port) + 1}") as company:
        company.agree({**described, **installed()})
        connect(company, host, int(port))
        check_platform()
        with _others_told_first():
            try:
                yield
            except KeyboardInterrupt:
                if company.stop:  # all were asked to, and have saved
                    part(company)
                raise
            part(company)


def find_processes() -> tuple[Process, str]:
    """This process, and the address at which the main one coordinates; "" of the only one.

    On a pod, RANK and WORLD_SIZE are set to what JAX has found.

    Raises:
        ValueError: the environment tells of several processes, but not where they meet.
    """
    process = this_process()
    if process.count > 1:
        if not (address := os.environ.get("JAX_COORDINATOR_ADDRESS")):
            raise ValueError(
                f"--engine flax finds no coordinator of the {process.count} processes "
                "(JAX_COORDINATOR_ADDRESS); start them by scripts/launch_local.py -n "
                f"{process.count} -- ..., or in one process without WORLD_SIZE"
            )
        return process, address
    if not signs_of_a_tpu(os.environ, device_files()):
        return process, ""
    # What jax.distributed.initialize() would find, before it waits for those who never come.
    from jax._src.clusters import ClusterEnv

    seconds = int(limits_of(os.environ).start)
    found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, seconds)
    address, count, index, _ = found
    if address is None or count is None or index is None or count == 1:
        return process, ""
    here = {"RANK": index, "WORLD_SIZE": count, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    os.environ.update({name: str(value) for name, value in here.items()})
    return this_process(), address


def connect(company: Company, host: str, port: int) -> None:
    """`jax.distributed.initialize`, so that the company notices a lost process before JAX does."""
    process, limits = company.process, company.limits
    # It would take SIGTERM for itself, and the process would go on.
    jax.config.update("jax_enable_preemption_service", False)
    # Of several programs in flight, a process's CPU devices may each wait for another.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.distributed.initialize(
        f"{host}:{port}" if process.is_main else f"127.0.0.1:{relay(host, port)}",
        process.count,
        process.index,
        initialization_timeout=int(limits.start),
        heartbeat_timeout_seconds=int(2 * limits.silence) + 100,
        shutdown_timeout_seconds=30,
    )


def part(company: Company) -> None:
    """Waits for all to be done; then JAX may let go of the others."""
    company.leave()
    jax.distributed.shutdown()


def mesh_by_default() -> str:
    """Of several processes the rows of a batch are cut over all devices; one has its first."""
    return f"data={jax.device_count()}" if jax.process_count() > 1 else ""


def check_platform() -> None:
    """Raises a ValueError where this machine has a TPU and JAX took the CPU unasked."""
    paths = device_files()
    if signs_of_a_tpu(os.environ, paths):
        libtpu = importlib.util.find_spec("libtpu") is not None
        check_uses_tpu(os.environ, paths, jax.default_backend(), libtpu=libtpu)


def device_files() -> list[str]:
    """The files of this machine that may be a TPU's."""
    return [path for pattern in DEVICE_FILES for path in glob.glob(pattern)]


@contextlib.contextmanager
def _others_told_first() -> Iterator[None]:
    """Gives the company time to end this process by its own words.

    A collective with a process that has ended fails too, in words of addresses and sockets.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError:
        time.sleep(_TELLS_FIRST)
        raise
