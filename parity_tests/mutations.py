"""The mutation audit: every known difference between the frameworks, injected on purpose.

Each mutation changes the Flax side of a clean pair in one respect, and the ladder must catch it on
the rung it belongs to, with the rungs below silent. `audit()` runs them all.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxmodels import optim
from jaxmodels.frozen import FrozenBatchNorm, become
from jaxmodels.lora import LoRALinear
from jaxmodels.losses import cross_entropy, pinball_loss
from jaxmodels.models import BERT, SimpleCNN, attention, create
from jaxmodels.models.attention import MultiHeadAttention
from jaxmodels.models.layers import ACTIVATIONS, BatchNorm, Conv
from jaxmodels.models.recurrent import GRU, LSTM, State, gru_cell, lstm_cell
from jaxmodels.models.time_series import InstanceNorm, Statistics
from jaxmodels.models.transformer import Block
from jaxmodels.shared.configs import ForecasterConfig
from jaxmodels.shared.schedules import ScheduleConfig, learning_rate
from jaxmodels.shared.targets import IGNORED
from jaxmodels.shared.tasks import OptimizerConfig
from jaxmodels.shared.weights import LEAF_RULES, LeafRule, WeightRules
from parity_tests.cases import CASES, config_of
from parity_tests.ladder import climb
from parity_tests.pairs import Arrays, Pair
from parity_tests.results import AuditRow, Verdict
from parity_tests.surgery import flax_modules, replace_call

RUNGS = ("weights", "forward", "gradient", "step")

Injection = Callable[[Pair], Pair]


@dataclass(frozen=True)
class Mutation:
    """One known difference: where it shows, and how to inject it into a clean pair."""

    name: str
    topic: str
    case: str
    rung: str
    inject: Injection


def audit(mutations: Iterable[Mutation] | None = None) -> list[AuditRow]:
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


def _set(kind: type, name: str, value: object) -> Injection:
    """Gives every module of a kind another value of an attribute."""
    return lambda pair: _with_modules(pair, kind, lambda module: setattr(module, name, value))


def _replace(kind: type, call: Callable[..., Any]) -> Injection:
    """Gives every module of a kind another `__call__`."""
    return lambda pair: _with_modules(pair, kind, lambda module: replace_call(module, call))


@partial(_replace, BatchNorm)
def _biased_running_variance(self: BatchNorm, x: jax.Array, *, train: bool = False) -> jax.Array:
    before = self.var[...]
    y = BatchNorm.__call__(self, x, train=train)
    if train:
        count = x.size // x.shape[-1]
        batch = (self.var[...] - before) / self.momentum + before
        self.var[...] = before + self.momentum * (batch * (count - 1) / count - before)
    return y


@partial(_replace, BatchNorm)
def _fast_variance(self: BatchNorm, x: jax.Array, *, train: bool = False) -> jax.Array:
    y = BatchNorm.__call__(self, x, train=train)
    if not train:
        return y
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    variance = (x * x).mean(axes) - mean * mean
    return (x - mean) * jax.lax.rsqrt(variance + self.epsilon) * self.scale[...] + self.bias[...]


@partial(_replace, BatchNorm)
def _statistics_per_device(self: BatchNorm, x: jax.Array, *, train: bool = False) -> jax.Array:
    halves = jnp.split(x, 2)
    return jnp.concatenate([BatchNorm.__call__(self, half, train=train) for half in halves])


@partial(_replace, Conv)
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


@partial(_replace, nnx.Linear)
def _bfloat16_product(self: nnx.Linear, x: jax.Array) -> jax.Array:
    product = x.astype(jnp.bfloat16) @ self.kernel[...].astype(jnp.bfloat16)
    assert self.bias is not None
    return product.astype(x.dtype) + self.bias[...]


@partial(_replace, nnx.Linear)
def _float32_leak(self: nnx.Linear, x: jax.Array) -> jax.Array:
    return nnx.Linear.__call__(self, x.astype(jnp.float32).astype(x.dtype))


def _gates_i_f_o_g(projected: jax.Array, recurrent: jax.Array, state: State) -> State:
    """The order of Keras before 2, and of some papers: the last two blocks swapped."""

    def swap(gates: jax.Array) -> jax.Array:
        first, second, third, fourth = jnp.split(gates, 4, axis=-1)
        return jnp.concatenate([first, second, fourth, third], axis=-1)

    return lstm_cell(swap(projected), swap(recurrent), state)


def _update_gate_of_the_new(projected: jax.Array, recurrent: jax.Array, state: State) -> State:
    """Cho et al.'s first version: the gate weighs the candidate, where torch's weighs the old."""
    (new,) = gru_cell(projected, recurrent, state)
    update = jax.nn.sigmoid(
        sum(jnp.split(gates, 3, axis=-1)[1] for gates in (projected, recurrent))
    )
    candidate = (new - update * state[0]) / (1 - update)
    return (update * candidate + (1 - update) * state[0],)


@partial(_replace, LSTM)
def _padding_advances(
    self: LSTM, x: jax.Array, lengths: jax.Array | None = None, state: State | None = None
) -> tuple[jax.Array, State]:
    return LSTM.__call__(self, x, None, state)


@partial(_replace, LSTM)
def _one_trained_bias(
    self: LSTM, x: jax.Array, lengths: jax.Array | None = None, state: State | None = None
) -> tuple[jax.Array, State]:
    for suffix in self.suffixes:
        bias = getattr(self, f"bias_hh{suffix}")
        bias[...] = jax.lax.stop_gradient(bias[...])
    return LSTM.__call__(self, x, lengths, state)


Attended = tuple[jax.Array, jax.Array]  # (B, N, T, D), the weights (B, N, T, S)


def _attend(attend: Callable[..., Attended]) -> Injection:
    """Gives every attention layer another function than `attention`."""

    def call(self: MultiHeadAttention, *args: Any, **options: Any) -> Any:
        with mock.patch.object(attention, "attention", attend):
            return MultiHeadAttention.__call__(self, *args, **options)

    return _replace(MultiHeadAttention, call)


_attention = attention.attention  # the right one, which the wrong ones below call


@_attend
def _sees_the_next(query: Any, key: Any, value: Any, mask: Any, dropout: Any) -> Attended:
    return _attention(query, key, value, mask | jnp.eye(len(mask), k=1, dtype=bool), dropout)


@_attend
def _true_is_ignore(query: Any, key: Any, value: Any, mask: Any, dropout: Any) -> Attended:
    return _attention(query, key, value, ~mask, dropout)


@_attend
def _scale_by_width(query: Any, key: Any, value: Any, mask: Any, dropout: Any) -> Attended:
    num_heads = query.shape[1]
    return _attention(query * num_heads**-0.5, key, value, mask, dropout)


@_attend
def _mean_where_all_is_masked(
    query: Any, key: Any, value: Any, mask: Any, dropout: Any
) -> Attended:
    attended, weights = _attention(query, key, value, mask, dropout)
    some = mask.any(axis=-1, keepdims=True)
    return jnp.where(some, attended, value.mean(axis=-2, keepdims=True)), weights


@_attend
def _float32_softmax(query: Any, key: Any, value: Any, mask: Any, dropout: Any) -> Attended:
    def leak(weights: jax.Array) -> jax.Array:
        return dropout(weights.astype(jnp.float32).astype(weights.dtype))

    return _attention(query, key, value, mask, leak)


@partial(_replace, BERT)
def _positions_of_padding(self: BERT, input_ids: jax.Array, *args: Any, **options: Any) -> Any:
    """From 0, as BERT's, and not from padding_id + 1."""
    cumsum = jnp.cumsum
    with mock.patch.object(
        jnp, "cumsum", lambda *a, **b: cumsum(*a, **b) - 1 - self.config.padding_id
    ):
        return BERT.__call__(self, input_ids, *args, **options)


def _transpose_square_kernel(pair: Pair) -> Pair:
    def call(self: nnx.Linear, x: jax.Array) -> jax.Array:
        assert self.bias is not None
        return x @ self.kernel[...].T + self.bias[...]

    return _with_modules(pair, MultiHeadAttention, lambda m: replace_call(m.output, call))  # type: ignore[attr-defined]


@partial(_replace, InstanceNorm)
def _deviation_of_n_minus_1(self: InstanceNorm, x: jax.Array) -> tuple[jax.Array, Statistics]:
    mean = x.mean(axis=1, keepdims=True)
    deviation = jnp.sqrt(x.var(axis=1, ddof=1, keepdims=True) + self.epsilon)
    return (x - mean) / deviation * self.scale[...] + self.bias[...], (mean, deviation)


def _alpha_without_rank(pair: Pair) -> Pair:
    def change(layer: Any) -> None:
        config = layer.lora_config
        layer.lora_config = dataclasses.replace(config, alpha=config.alpha * config.rank)

    return _with_modules(pair, LoRALinear, change)


def _frozen_statistics_go_on(pair: Pair) -> Pair:
    return _with_modules(pair, FrozenBatchNorm, lambda module: become(module, BatchNorm))


def _flatten_channels_first(pair: Pair) -> Pair:
    model = nnx.clone(pair.flax)
    assert isinstance(model, SimpleCNN)
    channels = model.block2.conv.kernel.shape[-1]

    def call(self: nnx.Linear, x: jax.Array) -> jax.Array:
        pixels = x.reshape(len(x), -1, channels)  # (B, H * W, C)
        return nnx.Linear.__call__(self, pixels.swapaxes(1, 2).reshape(x.shape))

    replace_call(model.linear1, call)
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
    config = dataclasses.replace(config_of(pair.name), initializer="lecun-normal")
    return dataclasses.replace(pair, fresh=(lambda seed: create(config, seed=seed), pair.fresh[1]))


def _sample_deviation(name: str, count: int) -> Injection:
    """As if divided by the deviation with n - 1, of `count` values."""
    factor = (1 - 1 / count) ** 0.5

    def change(batch: Arrays) -> Arrays:
        return batch | {name: batch[name].astype(np.float64) * factor}

    return lambda pair: dataclasses.replace(pair, flax_batch=change)


def _label_out_of_range(pair: Pair) -> Pair:
    def change(batch: Arrays) -> Arrays:
        label = batch["label"].copy()
        label[0] = 7  # the cases have seven classes
        return batch | {"label": label}

    return dataclasses.replace(pair, flax_batch=change)


# --- Changes to the recipe ------------------------------------------------------------------------


def _recipe(pair: Pair, **changes: object) -> Pair:
    return dataclasses.replace(pair, flax_recipe=dataclasses.replace(pair.flax_recipe, **changes))


def _optimizer(**changes: Any) -> Injection:
    def inject(pair: Pair) -> Pair:
        optimizer = dataclasses.replace(pair.flax_recipe.optimizer, **changes)
        return _recipe(pair, optimizer=optimizer)

    return inject


def _replace_optimizer(
    make: Callable[[OptimizerConfig, Sequence[int]], optax.GradientTransformation],
) -> Injection:
    return lambda pair: _recipe(pair, make_optimizer=make)


@_replace_optimizer
def _two_steps_to_the_head(
    config: OptimizerConfig, layers: Sequence[int]
) -> optax.GradientTransformation:
    """As in ELECTRA's own code: the last layer has decay ** 2, the head 1."""
    return optim.make_optimizer(config, (*layers, 1))


@_replace_optimizer
def _coupled_decay(config: OptimizerConfig, layers: Sequence[int]) -> optax.GradientTransformation:
    plain = optim.make_optimizer(dataclasses.replace(config, weight_decay=0.0))
    mask = partial(optim.decay_mask, config)
    return optax.chain(optax.add_decayed_weights(config.weight_decay, mask), plain)


@_replace_optimizer
def _clip_with_epsilon(
    config: OptimizerConfig, layers: Sequence[int]
) -> optax.GradientTransformation:
    def update(updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None):
        norm = optax.global_norm(updates)
        scale = jnp.minimum(1.0, config.clip_norm / (norm + 1e-6))
        return jax.tree.map(lambda g: g * scale, updates), state

    clip = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    return optax.chain(clip, optim.make_optimizer(dataclasses.replace(config, clip_norm=0.0)))


@_replace_optimizer
def _optax_adam(config: OptimizerConfig, layers: Sequence[int]) -> optax.GradientTransformation:
    clip = optax.clip_by_global_norm(config.clip_norm)
    adam = optax.scale_by_adam(config.beta1, config.beta2, config.epsilon)
    decay = optax.add_decayed_weights(config.weight_decay, partial(optim.decay_mask, config))
    return optax.chain(clip, optim.add_sign(config), adam, decay)


def _one_cycle_to_total(pair: Pair) -> Pair:
    schedule = ScheduleConfig(name="one-cycle", warmup_fraction=0.3)
    return _recipe(pair, rate=lambda step, total: learning_rate(schedule, 0.001, step, total + 1))


def _smooth_others(pair: Pair) -> Pair:
    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        classes = logits.shape[-1]
        smoothing = pair.flax_recipe.label_smoothing
        onehot = jax.nn.one_hot(labels, classes, dtype=logits.dtype)
        target = onehot * (1 - smoothing) + (1 - onehot) * smoothing / (classes - 1)
        return -(target * jax.nn.log_softmax(logits)).sum(axis=-1).mean()

    return _recipe(pair, loss=loss)


def _mean_over_padding(pair: Pair) -> Pair:
    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return cross_entropy(logits, labels) * (labels != IGNORED).mean()

    return _recipe(pair, loss=loss)


def _swap_asymmetry(pair: Pair) -> Pair:
    config = config_of(pair.name)
    assert isinstance(config, ForecasterConfig)
    swapped = tuple(1 - quantile for quantile in config.quantiles)
    return _recipe(pair, loss=partial(pinball_loss, quantiles=swapped))


# --- The table ------------------------------------------------------------------------------------


def _on(rung: str, *rows: tuple[str, str, str, Injection]) -> tuple[Mutation, ...]:
    return tuple(Mutation(name, topic, case, rung, inject) for name, topic, case, inject in rows)


_NORM = "simplecnn-norm"

_ON_WEIGHTS = _on(
    "weights",
    ("a tensor under another name", "weights", "logistic", _unmatched_name),
    ("LeCun for He", "initialisers", "simplecnn", _lecun_initializer),
)
_ON_FORWARD = _on(
    "forward",
    ("kernel height and width swapped", "kernel layout", "simplecnn", _transpose_taps),
    ("channels-first flatten", "memory order", "simplecnn", _flatten_channels_first),
    ("SAME padding at stride 2", "conv / pool padding", "resnet-a", _pad_same),
    ("epsilon 1e-3", "BatchNorm epsilon", _NORM, _set(BatchNorm, "epsilon", 1e-3)),
    ("E[x^2] - E[x]^2", "fast variance", "norm-offset", _fast_variance),
    ("statistics of half a batch", "BatchNorm under sharding", _NORM, _statistics_per_device),
    (
        "the gates in the order i f o g",
        "gate order",
        "text-lstm",
        _set(LSTM, "cell", _gates_i_f_o_g),
    ),
    ("z weighs the new", "GRU update gate", "text-gru", _set(GRU, "cell", _update_gate_of_the_new)),
    ("padded steps move the state", "padding", "text-lstm", _padding_advances),
    ("LayerNorm epsilon 1e-6", "LayerNorm eps", "gpt2", _set(nnx.LayerNorm, "epsilon", 1e-6)),
    ("GELU by erf", "GELU", "gpt2", _set(Block, "activation", ACTIVATIONS["gelu"])),
    ("GELU by tanh", "BERT's GELU", "bert", _set(Block, "activation", ACTIVATIONS["gelu_tanh"])),
    ("epsilon 1e-6 for 1e-12", "BERT's LayerNorm", "bert", _set(nnx.LayerNorm, "epsilon", 1e-6)),
    ("positions from 0", "RoBERTa's positions", "roberta", _positions_of_padding),
    ("a step sees the next", "causal mask", "gpt2", _sees_the_next),
    ("True means ignore", "mask polarity", "gpt2", _true_is_ignore),
    ("1 / sqrt(hidden_dim)", "softmax scale", "gpt2", _scale_by_width),
    ("a float32 softmax", "attention in float64", "gpt2", _float32_softmax),
    ("a square kernel transposed", "GPT-2 Hub weights", "gpt2", _transpose_square_kernel),
    (
        "the mean of v where all is masked",
        "fully masked attention row",
        "attention-masked",
        _mean_where_all_is_masked,
    ),
    ("n - 1 in a window", "instance norm ddof", "series-patch", _deviation_of_n_minus_1),
    ("alpha for alpha / rank", "LoRA's scale", "bert-lora", _alpha_without_rank),
    ("statistics of the batch", "frozen BatchNorm", "resnet-layers", _frozen_statistics_go_on),
    ("rate means keep", "dropout", "simplecnn", _set(nnx.Dropout, "rate", 0.7)),
    ("bfloat16 passes", "matmul precision", "logistic", _bfloat16_product),
    ("a float32 cast inside", "float64", "simplecnn", _float32_leak),
    (
        "sample standard deviation of 50,000 images",
        "std",
        "logistic",
        _sample_deviation("image", 50_000 * 1024),
    ),
    (
        "sample standard deviation of 2,000 days",
        "scaler ddof",
        "series-lstm",
        _sample_deviation("inputs", 2_000),
    ),
)
_ON_GRADIENT = _on(
    "gradient",
    ("the mean over padding too", "ignore_index -100", "roberta", _mean_over_padding),
    ("label K of K classes", "out-of-range id", "logistic", _label_out_of_range),
    ("one of the two biases is trained", "LSTM biases", "char-lstm", _one_trained_bias),
    ("eps / (K - 1) on the others", "label smoothing", "logistic-adamw", _smooth_others),
    ("1 - q above and q below", "pinball asymmetry", "series-gru", _swap_asymmetry),
)
_ON_STEP = _on(
    "step",
    ("biased running variance", "BatchNorm running variance", _NORM, _biased_running_variance),
    ("momentum weighs the old", "BatchNorm momentum", _NORM, _set(BatchNorm, "momentum", 0.9)),
    ("decay 1e-4 for 5e-2", "AdamW decay default", "logistic-adamw", _optimizer(weight_decay=1e-4)),
    ("biases decay too", "AdamW decay mask", "logistic-adamw", _optimizer(decay_mask="all")),
    ("L2 in the gradient", "Adam(weight_decay)", "logistic-adamw", _coupled_decay),
    ("optax's own Adam, float32", "Adam bias correction", "simplecnn", _optax_adam),
    ("norm + 1e-6", "clipping", "logistic", _clip_with_epsilon),
    ("no Nesterov", "momentum", "logistic", _optimizer(nesterov=False)),
    ("two steps to the head", "layer-wise rates", "resnet-layers", _two_steps_to_the_head),
    ("one-cycle ends at the total", "schedules", "logistic-adamw", _one_cycle_to_total),
)

MUTATIONS = _ON_WEIGHTS + _ON_FORWARD + _ON_GRADIENT + _ON_STEP
