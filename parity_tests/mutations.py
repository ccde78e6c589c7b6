"""The mutation audit: every known difference between the frameworks, injected on purpose.

Each mutation changes the Flax side of a clean pair in one respect, and the ladder must catch it on
the rung it belongs to, with the rungs below silent. `audit()` runs them all.
"""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxmodels import optim
from jaxmodels.models import create
from jaxmodels.models.layers import BatchNorm, Conv
from jaxmodels.shared.schedules import ScheduleConfig, learning_rate
from jaxmodels.shared.tasks import OptimizerConfig
from jaxmodels.shared.weights import LEAF_RULES, LeafRule, WeightRules
from parity_tests.cases import CASES
from parity_tests.ladder import climb
from parity_tests.pairs import Arrays, Pair
from parity_tests.results import AuditRow, Verdict
from parity_tests.surgery import flax_modules, replace_call

RUNGS = ("weights", "forward", "gradient", "step")


@dataclass(frozen=True)
class Mutation:
    """One known difference: where it shows, and how to inject it into a clean pair."""

    name: str
    topic: str
    case: str
    rung: str
    inject: Callable[[Pair], Pair]


def audit(mutations: "Iterable[Mutation] | None" = None) -> list[AuditRow]:
    """Injects each mutation and climbs until a rung catches it."""
    return [audit_one(mutation) for mutation in mutations or MUTATIONS]


def audit_one(mutation: Mutation) -> AuditRow:
    """Climbs the mutated pair's rungs up to the first that fails, or to the top."""
    pair = mutation.inject(CASES[mutation.case]())
    caught: list[Verdict] = []
    highest: Verdict | None = None
    for rung in RUNGS:
        verdicts = climb(pair, [rung])
        caught = [verdict for verdict in verdicts if not verdict.ok]
        highest = max(caught or verdicts, key=_factor)
        if caught:
            break
    assert highest is not None
    return AuditRow(
        mutation=mutation.name,
        topic=mutation.topic,
        pair=mutation.case,
        expected_rung=mutation.rung,
        caught_by=tuple(dict.fromkeys(verdict.rung for verdict in caught)),
        factor=_factor(highest),
        where=f"{highest.first_divergence or highest.where} ({highest.dtype})",
    )


def _factor(verdict: Verdict) -> float:
    """By what factor a verdict exceeds its bound; where the bound is zero, the count itself."""
    return verdict.value / verdict.bound if verdict.bound else verdict.value


# --- Changes to the model -------------------------------------------------------------------------


def _with_modules(pair: Pair, kind: type, change: Callable[[nnx.Module], None]) -> Pair:
    """The pair with `change` applied to every Flax module of a kind."""
    model = nnx.clone(pair.flax)
    changed = [module for _, module in flax_modules(model) if isinstance(module, kind)]
    assert changed, f"{pair.name} has no {kind.__name__}"
    for module in changed:
        change(module)
    return dataclasses.replace(pair, flax=model)


def _set(kind: type, name: str, value: object, pair: Pair) -> Pair:
    return _with_modules(pair, kind, lambda module: setattr(module, name, value))


def _call(kind: type, call: Callable[..., jax.Array], pair: Pair) -> Pair:
    return _with_modules(pair, kind, lambda module: replace_call(module, call))


def _biased_running_variance(self: BatchNorm, x: jax.Array, *, train: bool = False) -> jax.Array:
    before = self.var[...]
    y = BatchNorm.__call__(self, x, train=train)
    if train:
        count = x.size // x.shape[-1]
        batch = (self.var[...] - before) / self.momentum + before
        self.var[...] = before + self.momentum * (batch * (count - 1) / count - before)
    return y


def _fast_variance(self: BatchNorm, x: jax.Array, *, train: bool = False) -> jax.Array:
    y = BatchNorm.__call__(self, x, train=train)
    if not train:
        return y
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    variance = (x * x).mean(axes) - mean * mean
    return (x - mean) * jax.lax.rsqrt(variance + self.epsilon) * self.scale[...] + self.bias[...]


def _statistics_per_device(self: BatchNorm, x: jax.Array, *, train: bool = False) -> jax.Array:
    halves = jnp.split(x, 2)
    return jnp.concatenate([BatchNorm.__call__(self, half, train=train) for half in halves])


def _pad_same(self: Conv, x: jax.Array) -> jax.Array:
    if self.stride == 1:
        return Conv.__call__(self, x)
    return jax.lax.conv_general_dilated(
        x,
        self.kernel[...],
        (self.stride, self.stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _bfloat16_product(self: nnx.Linear, x: jax.Array) -> jax.Array:
    product = x.astype(jnp.bfloat16) @ self.kernel[...].astype(jnp.bfloat16)
    assert self.bias is not None
    return product.astype(x.dtype) + self.bias[...]


def _float32_leak(self: nnx.Linear, x: jax.Array) -> jax.Array:
    return nnx.Linear.__call__(self, x.astype(jnp.float32).astype(x.dtype))


def _flatten_channels_first(pair: Pair) -> Pair:
    config_channels, model = pair.flax.block2.conv.kernel.shape[-1], nnx.clone(pair.flax)  # type: ignore[attr-defined]

    def call(self: nnx.Linear, x: jax.Array) -> jax.Array:
        pixels = x.reshape(len(x), -1, config_channels)  # (B, H * W, C)
        return nnx.Linear.__call__(self, pixels.swapaxes(1, 2).reshape(x.shape))

    replace_call(model.linear1, call)  # type: ignore[attr-defined]
    return dataclasses.replace(pair, flax=model)


# --- Changes to the weights and the data ----------------------------------------------------------


def _transpose_taps(pair: Pair) -> Pair:
    """Height and width of every kernel swapped: square, so that no shape gives it away."""
    kernel = LeafRule("weight", {2: (1, 0), 4: (3, 2, 1, 0)})
    rules = WeightRules(leaves={**LEAF_RULES, "kernel": kernel})
    return dataclasses.replace(pair, rules=rules)


def _unmatched_name(pair: Pair) -> Pair:
    return dataclasses.replace(pair, rules=WeightRules(renames=(("^linear$", "classifier"),)))


def _lecun_initializer(pair: Pair) -> Pair:
    assert pair.fresh is not None
    config = dataclasses.replace(_config_of(pair.name), initializer="lecun-normal")
    return dataclasses.replace(pair, fresh=(lambda seed: create(config, seed=seed), pair.fresh[1]))


def _config_of(case: str):
    from parity_tests.cases import _CONFIGS

    return _CONFIGS[case][0]


def _scale_images(factor: float, pair: Pair) -> Pair:
    def change(batch: Arrays) -> Arrays:
        return batch | {"image": batch["image"].astype(np.float64) * factor}

    return dataclasses.replace(pair, flax_batch=change)


def _label_out_of_range(pair: Pair) -> Pair:
    def change(batch: Arrays) -> Arrays:
        label = batch["label"].copy()
        label[0] = 7  # the cases have seven classes
        return batch | {"label": label}

    return dataclasses.replace(pair, flax_batch=change)


# --- Changes to the recipe ------------------------------------------------------------------------


def _recipe(pair: Pair, **changes: object) -> Pair:
    return dataclasses.replace(pair, flax_recipe=dataclasses.replace(pair.flax_recipe, **changes))


def _optimizer(changes: dict[str, object], pair: Pair) -> Pair:
    return _recipe(pair, optimizer=dataclasses.replace(pair.flax_recipe.optimizer, **changes))


def _make_optimizer(
    make: Callable[[OptimizerConfig], optax.GradientTransformation], pair: Pair
) -> Pair:
    return _recipe(pair, make_optimizer=make)


def _coupled_decay(config: OptimizerConfig) -> optax.GradientTransformation:
    plain = optim.make_optimizer(dataclasses.replace(config, weight_decay=0.0))
    mask = partial(optim.decay_mask, config)
    return optax.chain(optax.add_decayed_weights(config.weight_decay, mask), plain)


def _clip_with_epsilon(config: OptimizerConfig) -> optax.GradientTransformation:
    def update(gradients: optim.Leaves, state: optax.OptState, params: object = None):
        norm = optax.global_norm(gradients)
        scale = jnp.minimum(1.0, config.clip_norm / (norm + 1e-6))
        return jax.tree.map(lambda g: g * scale, gradients), state

    clip = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    return optax.chain(clip, optim.make_optimizer(dataclasses.replace(config, clip_norm=0.0)))


def _optax_adam(config: OptimizerConfig) -> optax.GradientTransformation:
    clip = optax.clip_by_global_norm(config.clip_norm)
    adam = optax.scale_by_adam(config.beta1, config.beta2, config.epsilon)
    decay = optax.add_decayed_weights(config.weight_decay, partial(optim.decay_mask, config))
    return optax.chain(clip, optim.add_sign(config), adam, decay)


def _one_cycle_to_total(step: int, total: int) -> float:
    schedule = ScheduleConfig(name="one-cycle", warmup_fraction=0.3)
    return learning_rate(schedule, 0.001, step, total + 1)


def _smooth_others(pair: Pair) -> Pair:
    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        classes = logits.shape[-1]
        smoothing = pair.flax_recipe.label_smoothing
        onehot = jax.nn.one_hot(labels, classes, dtype=logits.dtype)
        target = onehot * (1 - smoothing) + (1 - onehot) * smoothing / (classes - 1)
        return -(target * jax.nn.log_softmax(logits)).sum(axis=-1).mean()

    return _recipe(pair, loss=loss)


_NORM = "simplecnn-norm"

MUTATIONS: tuple[Mutation, ...] = (
    Mutation("a tensor under another name", "weights", "logistic", "weights", _unmatched_name),
    Mutation("LeCun for He", "initialisers", "simplecnn", "weights", _lecun_initializer),
    Mutation("kernel height and width swapped", "kernel layout", "simplecnn", "forward", _transpose_taps),
    Mutation("channels-first flatten", "memory order", "simplecnn", "forward", _flatten_channels_first),
    Mutation("SAME padding at stride 2", "conv / pool padding", "resnet-a", "forward", partial(_call, Conv, _pad_same)),
    Mutation("epsilon 1e-3", "BatchNorm epsilon", _NORM, "forward", partial(_set, BatchNorm, "epsilon", 1e-3)),
    Mutation("E[x^2] - E[x]^2", "fast variance", "norm-offset", "forward", partial(_call, BatchNorm, _fast_variance)),
    Mutation("statistics of half a batch", "BatchNorm under sharding", _NORM, "forward", partial(_call, BatchNorm, _statistics_per_device)),
    Mutation("rate means keep", "dropout", "simplecnn", "forward", partial(_set, nnx.Dropout, "rate", 0.7)),
    Mutation("bfloat16 passes", "matmul precision", "logistic", "forward", partial(_call, nnx.Linear, _bfloat16_product)),
    Mutation("a float32 cast inside", "float64", "simplecnn", "forward", partial(_call, nnx.Linear, _float32_leak)),
    Mutation("sample standard deviation of 50,000 images", "std", "logistic", "forward", partial(_scale_images, (1 - 1 / (50_000 * 1024)) ** 0.5)),
    Mutation("label K of K classes", "out-of-range id", "logistic", "gradient", _label_out_of_range),
    Mutation("eps / (K - 1) on the others", "label smoothing", "logistic-adamw", "gradient", _smooth_others),
    Mutation("biased running variance", "BatchNorm running variance", _NORM, "step", partial(_call, BatchNorm, _biased_running_variance)),
    Mutation("momentum weighs the old", "BatchNorm momentum", _NORM, "step", partial(_set, BatchNorm, "momentum", 0.9)),
    Mutation("decay 1e-4 for 5e-2", "AdamW decay default", "logistic-adamw", "step", partial(_optimizer, {"weight_decay": 1e-4})),
    Mutation("biases decay too", "AdamW decay mask", "logistic-adamw", "step", partial(_optimizer, {"decay_mask": "all"})),
    Mutation("L2 in the gradient", "Adam(weight_decay)", "logistic-adamw", "step", partial(_make_optimizer, _coupled_decay)),
    Mutation("optax's own Adam, float32", "Adam bias correction", "simplecnn", "step", partial(_make_optimizer, _optax_adam)),
    Mutation("norm + 1e-6", "clipping", "logistic", "step", partial(_make_optimizer, _clip_with_epsilon)),
    Mutation("no Nesterov", "momentum", "logistic", "step", partial(_optimizer, {"nesterov": False})),
    Mutation("one-cycle ends at the total", "schedules", "logistic-adamw", "step", lambda pair: _recipe(pair, rate=_one_cycle_to_total)),
)  # fmt: skip
