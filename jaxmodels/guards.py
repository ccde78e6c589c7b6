"""Skips a step whose loss or gradients are no numbers, or whose loss leaps; within the jitted step.

`jaxmodels.shared.guards` says what is skipped; the twin of `torchref.guards`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmodels.shared.guards import NOT_FINITE, SPIKE, TAKEN, WINDOW, is_guarded
from jaxmodels.shared.tasks import TrainingConfig

State = dict[str, Any]
# (state before, state after, loss, gradients) -> (state to go on with, what `skipped` says)
Guard = Callable[[State, State, jax.Array, Any], tuple[State, jax.Array]]


def initial_guard(training: TrainingConfig) -> dict[str, jax.Array]:
    """The part "guard" of a fresh state: the last losses; {} where none is compared with them."""
    if not training.spike_factor:
        return {}
    return {"losses": jnp.zeros(WINDOW, jnp.float32), "count": jnp.zeros((), jnp.int32)}


def make_guard(training: TrainingConfig) -> Guard | None:
    """None where every step is taken."""
    if not is_guarded(training):
        return None

    def guard(
        before: State, after: State, loss: jax.Array, gradients: Any
    ) -> tuple[State, jax.Array]:
        skipped = jnp.int32(TAKEN)
        last = before.get("guard", {})
        if last:
            median = jnp.sort(last["losses"])[WINDOW // 2]
            leaps = (last["count"] >= WINDOW) & (loss > training.spike_factor * median)
            skipped = jnp.where(leaps, SPIKE, skipped)
        if training.on_nonfinite == "skip":
            finite = [jnp.isfinite(value).all() for value in (loss, *jax.tree.leaves(gradients))]
            skipped = jnp.where(jnp.stack(finite).all(), skipped, NOT_FINITE)
        if last:
            place = last["count"] % WINDOW
            losses = last["losses"].at[place].set(loss.astype(jnp.float32))
            after = after | {"guard": {"losses": losses, "count": last["count"] + 1}}
        kept = jax.tree.map(lambda old, new: jnp.where(skipped == TAKEN, new, old), before, after)
        return kept | {"step": after["step"]}, skipped

    return guard
