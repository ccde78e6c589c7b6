"""The mutation audit: every known difference between the frameworks, injected on purpose.

Each mutation changes the Flax side of a clean pair in one respect, and the ladder must catch it on
the rung it belongs to, with the rungs below silent. How each is injected is in `model_mutations`
and `recipe_mutations`.
"""

from dataclasses import dataclass

from flax import nnx

from jaxmodels.models.layers import ACTIVATIONS, BatchNorm
from jaxmodels.models.recurrent import GRU, LSTM
from jaxmodels.models.transformer import Block
from parity_tests import model_mutations as model
from parity_tests import recipe_mutations as recipe
from parity_tests.cases import CASES
from parity_tests.ladder import climb
from parity_tests.model_mutations import Injection, set_attribute
from parity_tests.recipe_mutations import with_optimizer
from parity_tests.results import AuditRow, Verdict

RUNGS = ("weights", "forward", "gradient", "step")


@dataclass(frozen=True)
class Mutation:
    """One known difference: where it shows, and how to inject it into a clean pair."""

    name: str
    topic: str
    case: str
    rung: str
    inject: Injection


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


def _on(rung: str, *rows: tuple[str, str, str, Injection]) -> tuple[Mutation, ...]:
    return tuple(Mutation(name, topic, case, rung, inject) for name, topic, case, inject in rows)


_NORM = "simplecnn-norm"

_ON_WEIGHTS = _on(
    "weights",
    ("a tensor under another name", "weights", "logistic", recipe.unmatched_name),
    ("LeCun for He", "initialisers", "simplecnn", recipe.lecun_initializer),
)
_ON_FORWARD = _on(
    "forward",
    ("kernel height and width swapped", "kernel layout", "simplecnn", recipe.transpose_taps),
    ("channels-first flatten", "memory order", "simplecnn", model.flatten_channels_first),
    ("SAME padding at stride 2", "conv / pool padding", "resnet-a", model.pad_same),
    ("epsilon 1e-3", "BatchNorm epsilon", _NORM, set_attribute(BatchNorm, "epsilon", 1e-3)),
    ("E[x^2] - E[x]^2", "fast variance", "norm-offset", model.fast_variance),
    ("statistics of half a batch", "BatchNorm under sharding", _NORM, model.statistics_per_device),
    (
        "the gates in the order i f o g",
        "gate order",
        "text-lstm",
        set_attribute(LSTM, "cell", model.gates_i_f_o_g),
    ),
    (
        "z weighs the new",
        "GRU update gate",
        "text-gru",
        set_attribute(GRU, "cell", model.update_gate_of_the_new),
    ),
    ("padded steps move the state", "padding", "text-lstm", model.padding_advances),
    (
        "LayerNorm epsilon 1e-6",
        "LayerNorm eps",
        "gpt2",
        set_attribute(nnx.LayerNorm, "epsilon", 1e-6),
    ),
    ("GELU by erf", "GELU", "gpt2", set_attribute(Block, "activation", ACTIVATIONS["gelu"])),
    (
        "GELU by tanh",
        "BERT's GELU",
        "bert",
        set_attribute(Block, "activation", ACTIVATIONS["gelu_tanh"]),
    ),
    (
        "epsilon 1e-6 for 1e-12",
        "BERT's LayerNorm",
        "bert",
        set_attribute(nnx.LayerNorm, "epsilon", 1e-6),
    ),
    ("positions from 0", "RoBERTa's positions", "roberta", model.positions_of_padding),
    ("a step sees the next", "causal mask", "gpt2", model.sees_the_next),
    ("True means ignore", "mask polarity", "gpt2", model.true_is_ignore),
    ("1 / sqrt(hidden_dim)", "softmax scale", "gpt2", model.scale_by_width),
    ("a float32 softmax", "attention in float64", "gpt2", model.float32_softmax),
    ("a square kernel transposed", "GPT-2 Hub weights", "gpt2", model.transpose_square_kernel),
    (
        "the mean of v where all is masked",
        "fully masked attention row",
        "attention-masked",
        model.mean_where_all_is_masked,
    ),
    ("n - 1 in a window", "instance norm ddof", "series-patch", model.deviation_of_n_minus_1),
    ("alpha for alpha / rank", "LoRA's scale", "bert-lora", model.alpha_without_rank),
    ("statistics of the batch", "frozen BatchNorm", "resnet-layers", model.frozen_statistics_go_on),
    ("rate means keep", "dropout", "simplecnn", set_attribute(nnx.Dropout, "rate", 0.7)),
    ("bfloat16 passes", "matmul precision", "logistic", model.bfloat16_product),
    ("a float32 cast inside", "float64", "simplecnn", model.float32_leak),
    (
        "sample standard deviation of 50,000 images",
        "std",
        "logistic",
        recipe.sample_deviation("image", 50_000 * 1024),
    ),
    (
        "sample standard deviation of 2,000 days",
        "scaler ddof",
        "series-lstm",
        recipe.sample_deviation("inputs", 2_000),
    ),
)
_ON_GRADIENT = _on(
    "gradient",
    ("the mean over padding too", "ignore_index -100", "roberta", recipe.mean_over_padding),
    ("label K of K classes", "out-of-range id", "logistic", recipe.label_out_of_range),
    ("one of the two biases is trained", "LSTM biases", "char-lstm", model.one_trained_bias),
    ("eps / (K - 1) on the others", "label smoothing", "logistic-adamw", recipe.smooth_others),
    ("1 - q above and q below", "pinball asymmetry", "series-gru", recipe.swap_asymmetry),
)
_ON_STEP = _on(
    "step",
    ("biased running variance", "BatchNorm running variance", _NORM, model.biased_running_variance),
    (
        "momentum weighs the old",
        "BatchNorm momentum",
        _NORM,
        set_attribute(BatchNorm, "momentum", 0.9),
    ),
    (
        "decay 1e-4 for 5e-2",
        "AdamW decay default",
        "logistic-adamw",
        with_optimizer(weight_decay=1e-4),
    ),
    (
        "biases decay too",
        "AdamW decay mask",
        "logistic-adamw",
        with_optimizer(decay_mask="all"),
    ),
    ("L2 in the gradient", "Adam(weight_decay)", "logistic-adamw", recipe.coupled_decay),
    ("optax's own Adam, float32", "Adam bias correction", "simplecnn", recipe.optax_adam),
    ("norm + 1e-6", "clipping", "logistic", recipe.clip_with_epsilon),
    ("no Nesterov", "momentum", "logistic", with_optimizer(nesterov=False)),
    ("two steps to the head", "layer-wise rates", "resnet-layers", recipe.two_steps_to_the_head),
    ("one-cycle ends at the total", "schedules", "logistic-adamw", recipe.one_cycle_to_total),
)

MUTATIONS = _ON_WEIGHTS + _ON_FORWARD + _ON_GRADIENT + _ON_STEP
