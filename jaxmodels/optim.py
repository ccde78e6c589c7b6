"""The optimizers a task names, as optax transformations; the twins of `torchref.optim`.

The learning rate is not part of them: `apply_updates` multiplies by the rate that
`jaxmodels.shared.schedules` gives for the step, so every framework gets the same number.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxmodels.shared.parameter_groups import rate_scales
from jaxmodels.shared.tasks import OptimizerConfig
from jaxmodels.state import Leaves


def make_optimizer(
    config: OptimizerConfig, layers: Sequence[int] = ()
) -> optax.GradientTransformation:
    """Turns gradients (by dotted path) into the direction whose `rate` multiple is subtracted.

    `layers` are the model's, by `layers_of`; they matter where the rates differ by layer.
    """
    if config.layer_decay != 1:
        plain = make_optimizer(replace(config, layer_decay=1.0))
        return optax.chain(plain, scale_by_layer(config.layer_decay, layers))
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    subgradient = config.l1 and config.name != "proximal-sgd"
    l1 = add_sign(config) if subgradient else optax.identity()
    decay = optax.add_decayed_weights(config.weight_decay, mask=lambda p: decay_mask(config, p))
    if config.name in ("sgd", "proximal-sgd"):
        momentum = optax.identity()  # torch keeps no buffer either when there is no momentum
        if config.momentum:
            momentum = optax.trace(config.momentum, config.nesterov)
        return optax.chain(clip, l1, decay, momentum)
    return optax.chain(clip, l1, scale_by_adam(config), decay)


Apply = Callable[[Leaves, optax.Updates, jax.Array], Leaves]


def apply_updates(params: Leaves, direction: optax.Updates, rate: jax.Array) -> Leaves:
    """params - rate * direction, each leaf in its own dtype."""
    return jax.tree.map(lambda p, d: p - rate.astype(p.dtype) * d, params, direction)


def make_apply(config: OptimizerConfig) -> Apply:
    """`apply_updates`; for proximal-sgd the masked leaves are then shrunk towards 0."""
    if config.name != "proximal-sgd" or not config.l1:
        return apply_updates

    def apply(params: Leaves, direction: optax.Updates, rate: jax.Array) -> Leaves:
        mask = decay_mask(config, params)
        threshold = rate * (config.l1 / (1 - config.momentum))
        return {
            name: shrink(value, threshold.astype(value.dtype)) if mask[name] else value
            for name, value in apply_updates(params, direction, rate).items()
        }

    return apply


def shrink(x: jax.Array, threshold: jax.Array) -> jax.Array:
    """Each value moved towards 0 by the threshold, and no further than 0."""
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - threshold, 0)


def decay_mask(config: OptimizerConfig, params: Any) -> dict[str, bool]:
    """Which leaves decay: all of them, or those with more than one axis: no bias, no norm."""
    return {name: config.decay_mask == "all" or value.ndim > 1 for name, value in params.items()}


def scale_by_layer(decay: float, layers: Sequence[int]) -> optax.GradientTransformation:
    """Gives each parameter its layer's rate; decoupled weight decay follows it."""

    def update(direction: Leaves, state: optax.OptState, params: Leaves | None = None):
        scales = rate_scales(decay, direction, layers)
        return {name: scales[name] * value for name, value in direction.items()}, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)  # type: ignore[arg-type]


def add_sign(config: OptimizerConfig) -> optax.GradientTransformation:
    """Adds l1 * sign(parameter), the (sub)gradient of l1 * |parameter|, to masked gradients."""

    def update(gradients: Leaves, state: optax.OptState, params: Leaves | None = None):
        assert params is not None
        mask = decay_mask(config, params)
        return {
            name: g + config.l1 * jnp.sign(params[name]) if mask[name] else g
            for name, g in gradients.items()
        }, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)  # type: ignore[arg-type]


def scale_by_adam(config: OptimizerConfig) -> optax.GradientTransformation:
    """Adam's direction (Kingma & Ba 2015), with float32 bias corrections that keep their digits.

    optax forms 1 - beta2**step in float32, which for beta2 = 0.999 is wrong by 1e-5 at first;
    expm1 keeps it at rounding, as torch's float64 arithmetic on the host does.
    """
    init = optax.scale_by_adam(config.beta1, config.beta2, config.epsilon).init
    beta1, beta2 = config.beta1, config.beta2

    def correction(beta: float, count: Any) -> jax.Array:
        if beta == 0:
            return jnp.ones_like(count, jnp.result_type(float))
        return -jnp.expm1(count * math.log(beta))

    def update(gradients: Leaves, state: optax.OptState, params: Leaves | None = None):
        assert isinstance(state, optax.ScaleByAdamState)
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.mu, gradients)
        nu = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state.nu, gradients)
        scale1, scale2 = correction(beta1, count), correction(beta2, count)
        direction = jax.tree.map(
            lambda m, v: m / scale1 / (jnp.sqrt(v / scale2) + config.epsilon), mu, nu
        )
        return direction, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]


def slots(state: optax.OptState) -> dict[str, Leaves]:
    """The optimizer's per-parameter memory by its field's common name, for the ladder."""
    found: dict[str, Any] = {}
    for part in jax.tree.leaves(state, is_leaf=lambda s: isinstance(s, _MOMENTS)):
        if isinstance(part, optax.TraceState):
            found["momentum"] = part.trace
        elif isinstance(part, optax.ScaleByAdamState):
            found["first_moment"], found["second_moment"] = part.mu, part.nu
    return found


_MOMENTS = (optax.TraceState, optax.ScaleByAdamState)
