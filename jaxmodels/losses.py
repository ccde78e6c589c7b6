"""Losses, the same formulas as `torchref.losses`."""

import jax
import jax.numpy as jnp


def cross_entropy(
    logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0
) -> jax.Array:
    """Mean cross-entropy: logits (..., K), integer labels (...) -> scalar, float32 at least.

    Smoothing gives every class smoothing / K, the true one included (Szegedy et al. 2016), as
    torch does; some Flax examples spread it over the K - 1 others.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    log_probabilities = jax.nn.log_softmax(logits)
    of_label = jnp.take_along_axis(log_probabilities, labels[..., None], axis=-1)[..., 0]
    smooth = log_probabilities.mean(axis=-1)
    return -((1 - label_smoothing) * of_label + label_smoothing * smooth).mean()
