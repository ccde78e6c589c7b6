"""How long a compiled step takes at least, by the chip's published rates, and what bounds it.

>>> estimate(facts, find_topology("v5e:16x16")).step_seconds

Four times, each of one device: the arithmetic at the peak rate; the bytes to and from HBM; the
bytes between chips; and the compiler's own estimate of its kernels' cycles, which knows how full
the matrix units are and what the vector units do. Where all overlap perfectly, the longest is the
step: a lower bound of its time, and so an upper bound of the throughput and of the MFU. Latencies,
hosts and input are not in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from jaxmodels.pod_plan.collectives import Collective
from jaxmodels.pod_plan.program import Facts
from jaxmodels.pod_plan.topology import Topology


@dataclass(frozen=True)
class Estimate:
    """Seconds of a step. `without_overlap` adds the interconnect to the longest of the others."""

    arithmetic_seconds: float
    hbm_seconds: float
    interconnect_seconds: float
    kernel_seconds: float
    mfu: float
    mfu_without_overlap: float
    samples_per_second: float
    tokens_per_second: float
    bound: str

    @property
    def step_seconds(self) -> float:
        return max(self.on_chip_seconds, self.interconnect_seconds)

    @property
    def on_chip_seconds(self) -> float:
        return max(self.arithmetic_seconds, self.hbm_seconds, self.kernel_seconds)

    @property
    def without_overlap(self) -> float:
        return self.on_chip_seconds + self.interconnect_seconds


def estimate(facts: Facts, topology: Topology) -> Estimate:
    chip, devices = topology.chip, prod(facts.mesh.values())
    coordinates = device_coordinates(facts.mesh, topology)
    times = {
        "arithmetic": facts.program_flops / devices / chip.peak_flops,
        "HBM": facts.traffic_bytes / chip.hbm_bandwidth,
        "kernels": facts.cycles / chip.clock,
        "interconnect": sum(
            collective.times * collective_seconds(collective, topology, coordinates)
            for collective in facts.collectives
        ),
    }
    on_chip = max(times["arithmetic"], times["HBM"], times["kernels"])
    step = max(times.values())
    useful = facts.model_flops / devices / chip.peak_flops
    return Estimate(
        arithmetic_seconds=times["arithmetic"],
        hbm_seconds=times["HBM"],
        interconnect_seconds=times["interconnect"],
        kernel_seconds=times["kernels"],
        mfu=useful / step,
        mfu_without_overlap=useful / (on_chip + times["interconnect"]),
        samples_per_second=facts.batch_size / step,
        tokens_per_second=facts.batch_size * facts.tokens_per_row / step,
        bound=max(times, key=lambda name: times[name]),
    )


def collective_seconds(
    collective: Collective, topology: Topology, coordinates: np.ndarray
) -> float:
    """What one run of it takes, of bytes over links alone; `coordinates` are the devices' (N, D).

    A ring's links carry both ways at once. Over n devices, each of b bytes: a gather or a scatter
    sends b (n - 1) / n, a reduction twice that; an exchange of all with all goes a quarter around
    each ring on the average, and a third along an open line.
    """
    group = coordinates[list(collective.group)]
    sides = [side for side in range(group.shape[1]) if len(set(group[:, side])) > 1]
    extents = {side: len(set(group[:, side])) for side in sides}
    links = sum(
        topology.links(side) if extents[side] == topology.sides[side] else 1 for side in sides
    )
    bandwidth, count = links * topology.chip.link_bandwidth, len(group)
    sent = collective.bytes * (count - 1) / count
    if collective.kind == "all-reduce":
        return 2 * sent / bandwidth
    if collective.kind == "collective-permute":
        return collective.bytes / topology.chip.link_bandwidth
    if collective.kind == "all-to-all":
        longest = max(sides, key=lambda side: extents[side])
        is_ring = topology.links(longest) == 2 and extents[longest] == topology.sides[longest]
        return collective.bytes * extents[longest] / (4 if is_ring else 3) / bandwidth
    return sent / bandwidth


def device_coordinates(mesh: Mapping[str, int], topology: Topology) -> np.ndarray:
    """Where the devices of the mesh are in the slice, in the mesh's order: (N, sides)."""
    from jaxmodels.sharding import make_mesh

    devices: Sequence = make_mesh(mesh, topology.devices).devices.reshape(-1).tolist()
    return np.array([device.coords[: len(topology.sides)] for device in devices])
