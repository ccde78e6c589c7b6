"""Known differences between the frameworks that lie in weights, data, loss, optimizer or schedule.

>>> pair = with_optimizer(nesterov=False)(CASES["logistic"]())
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmodels import optim
from jaxmodels.losses import cross_entropy, pinball_loss
from jaxmodels.models import create
from jaxmodels.shared.configs import ForecasterConfig
from jaxmodels.shared.schedules import ScheduleConfig, learning_rate
from jaxmodels.shared.targets import IGNORED
from jaxmodels.shared.tasks import OptimizerConfig
from jaxmodels.shared.weights import LEAF_RULES, LeafRule, WeightRules
from parity_tests.model_mutations import Injection
from parity_tests.pairs import Arrays, Pair
from parity_tests.tiny_configs import config_of


def transpose_taps(pair: Pair) -> Pair:
    """Height and width of every kernel swapped: square, so that no shape gives it away."""
    kernel = LeafRule("weight", {2: (1, 0), 4: (3, 2, 1, 0)})
    rules = WeightRules(leaves={**LEAF_RULES, "kernel": kernel})
    return dataclasses.replace(pair, rules=rules)


def unmatched_name(pair: Pair) -> Pair:
    return dataclasses.replace(pair, rules=WeightRules(renames=(("^linear$", "classifier"),)))


def lecun_initializer(pair: Pair) -> Pair:
    assert pair.fresh is not None
    config = dataclasses.replace(config_of(pair.name), initializer="lecun-normal")
    return dataclasses.replace(pair, fresh=(lambda seed: create(config, seed=seed), pair.fresh[1]))


def sample_deviation(name: str, count: int) -> Injection:
    """As if divided by the deviation with n - 1, of `count` values."""
    factor = (1 - 1 / count) ** 0.5

    def change(batch: Arrays) -> Arrays:
        return batch | {name: batch[name].astype(np.float64) * factor}

    return lambda pair: dataclasses.replace(pair, flax_batch=change)


def label_out_of_range(pair: Pair) -> Pair:
    def change(batch: Arrays) -> Arrays:
        label = batch["label"].copy()
        label[0] = 7  # the cases have seven classes
        return batch | {"label": label}

    return dataclasses.replace(pair, flax_batch=change)


def _recipe(pair: Pair, **changes: object) -> Pair:
    return dataclasses.replace(pair, flax_recipe=dataclasses.replace(pair.flax_recipe, **changes))


def with_optimizer(**changes: Any) -> Injection:
    def inject(pair: Pair) -> Pair:
        optimizer = dataclasses.replace(pair.flax_recipe.optimizer, **changes)
        return _recipe(pair, optimizer=optimizer)

    return inject


def _replace_optimizer(
    make: Callable[[OptimizerConfig, Sequence[int]], optax.GradientTransformation],
) -> Injection:
    return lambda pair: _recipe(pair, make_optimizer=make)


@_replace_optimizer
def two_steps_to_the_head(
    config: OptimizerConfig, layers: Sequence[int]
) -> optax.GradientTransformation:
    """As in ELECTRA's own code: the last layer has decay ** 2, the head 1."""
    return optim.make_optimizer(config, (*layers, 1))


@_replace_optimizer
def coupled_decay(config: OptimizerConfig, layers: Sequence[int]) -> optax.GradientTransformation:
    plain = optim.make_optimizer(dataclasses.replace(config, weight_decay=0.0))
    mask = partial(optim.decay_mask, config)
    return optax.chain(optax.add_decayed_weights(config.weight_decay, mask), plain)


@_replace_optimizer
def clip_with_epsilon(
    config: OptimizerConfig, layers: Sequence[int]
) -> optax.GradientTransformation:
    def update(updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None):
        norm = optax.global_norm(updates)
        scale = jnp.minimum(1.0, config.clip_norm / (norm + 1e-6))
        return jax.tree.map(lambda g: g * scale, updates), state

    clip = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    return optax.chain(clip, optim.make_optimizer(dataclasses.replace(config, clip_norm=0.0)))


@_replace_optimizer
def optax_adam(config: OptimizerConfig, layers: Sequence[int]) -> optax.GradientTransformation:
    clip = optax.clip_by_global_norm(config.clip_norm)
    adam = optax.scale_by_adam(config.beta1, config.beta2, config.epsilon)
    decay = optax.add_decayed_weights(config.weight_decay, partial(optim.decay_mask, config))
    return optax.chain(clip, optim.add_sign(config), adam, decay)


def one_cycle_to_total(pair: Pair) -> Pair:
    schedule = ScheduleConfig(name="one-cycle", warmup_fraction=0.3)
    return _recipe(pair, rate=lambda step, total: learning_rate(schedule, 0.001, step, total + 1))


def smooth_others(pair: Pair) -> Pair:
    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        classes = logits.shape[-1]
        smoothing = pair.flax_recipe.label_smoothing
        onehot = jax.nn.one_hot(labels, classes, dtype=logits.dtype)
        target = onehot * (1 - smoothing) + (1 - onehot) * smoothing / (classes - 1)
        return -(target * jax.nn.log_softmax(logits)).sum(axis=-1).mean()

    return _recipe(pair, loss=loss)


def mean_over_padding(pair: Pair) -> Pair:
    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return cross_entropy(logits, labels) * (labels != IGNORED).mean()

    return _recipe(pair, loss=loss)


def swap_asymmetry(pair: Pair) -> Pair:
    config = config_of(pair.name)
    assert isinstance(config, ForecasterConfig)
    swapped = tuple(1 - quantile for quantile in config.quantiles)
    return _recipe(pair, loss=partial(pinball_loss, quantiles=swapped))
