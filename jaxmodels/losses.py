"""Losses, and what is shown beside them in training: the same formulas as `torchref.losses`."""

import jax
import jax.numpy as jnp

from jaxmodels.shared.targets import IGNORED, median_index


def cross_entropy(
    logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0
) -> jax.Array:
    """Mean cross-entropy: logits (..., K), integer labels (...) -> scalar, float32 at least.

    Labels of `IGNORED` count neither above nor below the line; where all are, the loss is 0.

    Smoothing gives every class smoothing / K, the true one included (Szegedy et al. 2016), as
    torch does; some Flax examples spread it over the K - 1 others.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    log_probabilities = jax.nn.log_softmax(logits)
    counted = labels != IGNORED
    places = jnp.where(counted, labels, 0)[..., None]
    of_label = jnp.take_along_axis(log_probabilities, places, axis=-1)[..., 0]
    smooth = log_probabilities.mean(axis=-1)
    losses = -((1 - label_smoothing) * of_label + label_smoothing * smooth)
    return jnp.where(counted, losses, 0).sum() / jnp.maximum(counted.sum(), 1)


def counted(labels: jax.Array) -> jax.Array:
    """How many labels the losses and metrics of classes are means over."""
    return (labels != IGNORED).sum()


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The fraction right of labels that count: logits (..., K), labels (...) -> scalar, float32."""
    counted = labels != IGNORED
    right = (logits.argmax(axis=-1) == labels) & counted
    return right.sum().astype(jnp.float32) / jnp.maximum(counted.sum(), 1)


def pinball_loss(
    outputs: jax.Array, targets: jax.Array, *, quantiles: tuple[float, ...]
) -> jax.Array:
    """Mean quantile loss: outputs (..., H, Q), targets (..., H) -> scalar, float32 at least.

    Koenker & Bassett 1978, "Regression quantiles": a target above the output of quantile q costs q
    a unit, one below 1 - q.
    """
    outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    short = targets[..., None] - outputs  # (..., H, Q)
    levels = jnp.asarray(quantiles, short.dtype)
    return jnp.maximum(levels * short, (levels - 1) * short).mean()


def absolute_error(
    outputs: jax.Array, targets: jax.Array, *, quantiles: tuple[float, ...]
) -> jax.Array:
    """Mean |median - target|: outputs (..., H, Q), targets (..., H) -> scalar, float32 at least."""
    outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    return jnp.abs(outputs[..., median_index(quantiles)] - targets).mean()


def half_squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Half the mean square of the errors: outputs (B,), targets (B,) -> scalar, float32 at least.

    Of one row (x, d), whose error is e, a step of gradient descent at rate mu is the LMS filter's
    w += mu * e * x (Widrow & Hoff 1960).
    """
    return squared_error(outputs, targets) / 2


def squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """The mean square of the errors: outputs (B,), targets (B,) -> scalar, float32 at least."""
    outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    return ((outputs - targets) ** 2).mean()
