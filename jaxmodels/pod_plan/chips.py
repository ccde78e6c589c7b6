"""The TPU chips' published rates.

>>> CHIPS["v5e"].peak_flops
197000000000000.0
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """One chip's rates, as its maker publishes them (`source`).

    peak_flops: bfloat16 FLOP/s, which float32 products at JAX's default precision run at too
    (their operands are rounded to bfloat16). hbm_bandwidth: bytes/s. link_bandwidth: bytes/s in one
    direction of one of the links to a neighbour; the published figure is the sum of all links in
    both directions. usable_hbm: what the compiler lets a program take, of the published capacity.

    `wraps` is what the size of a side of a slice must divide by for its ends to be joined to a
    ring; other sides are open lines. clock: Hz, at which the compiler's cycle estimates are read.
    """

    name: str
    peak_flops: float
    usable_hbm: int
    hbm_bandwidth: float
    link_bandwidth: float
    dimensions: int
    wraps: int
    clock: float
    source: str


_GIB = 2**30

CHIPS = {
    "v5e": Chip(
        name="v5e",
        peak_flops=197e12,
        usable_hbm=int(15.75 * _GIB),
        hbm_bandwidth=819e9,
        link_bandwidth=400e9 / 2 / 4,
        dimensions=2,
        wraps=16,
        clock=1.5e9,
        source="cloud.google.com/tpu/docs/v5e",
    ),
    "v5p": Chip(
        name="v5p",
        peak_flops=459e12,
        usable_hbm=int(95.74 * _GIB),
        hbm_bandwidth=2765e9,
        link_bandwidth=1200e9 / 2 / 6,
        dimensions=3,
        wraps=4,
        clock=1.75e9,
        source="cloud.google.com/tpu/docs/v5p",
    ),
    "v6e": Chip(
        name="v6e",
        peak_flops=918e12,
        usable_hbm=int(31.25 * _GIB),
        hbm_bandwidth=1600e9,
        link_bandwidth=800e9 / 2 / 4,
        dimensions=2,
        wraps=16,
        clock=1.75e9,
        source="cloud.google.com/tpu/docs/v6e",
    ),
}
