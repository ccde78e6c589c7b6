"""How much a training step computes, and of what the chips could.

Counted are the products and convolutions of the traced step, forward and backward, each multiply
and add (a loop's as often as it turns: XLA's own cost analysis counts its body once). What is
computed anew to save memory counts again.
"""

from typing import Any

import jax

from jaxmodels.pod_plan.chips import CHIPS

_CHIP_OF = {"TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v6 lite": "v6e"}  # by JAX's device kind


def flops(step: Any, *arguments: Any) -> int:
    """Of one call of a jitted function on all its devices; the trace is that of the call itself."""
    # Imported late: it makes models through the engine.
    from jaxmodels.inspection import count_macs

    return 2 * count_macs(step.trace(*arguments).jaxpr.jaxpr)


def peak_flops() -> float | None:
    """FLOP/s that a device could do, as published; None where nobody says, as of CPUs."""
    chip = _CHIP_OF.get(jax.devices()[0].device_kind)
    return CHIPS[chip].peak_flops if chip else None
