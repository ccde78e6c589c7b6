"""The rungs that need no data: every pair holds in float64 and float32, and the rungs can fail."""

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jaxmodels.models import LogisticRegression
from jaxmodels.modules import replace_call
from jaxmodels.shared.tasks import TASKS
from jaxmodels.shared.weights import LeafRule, WeightRules, to_flax_layout, to_torch_layout
from parity_tests import ladder, surgery
from parity_tests.cases import CASES, FlaxMasked, task_pair
from parity_tests.ladder import climb, compare, error_ratio, module_norms, relative_error
from parity_tests.pairs import (
    Recipe,
    hot_leaves,
    observe_forward,
    observe_gradient,
    stored_channels_first,
)
from parity_tests.tiny_configs import config_of

# Their ten steps in two precisions take the longest; transformers' own classes are compared in
# float64 among the fast tests.
SLOW_STEPS = (
    *("bert", "roberta", "distilbert", "gpt2-lora", "bert-lora", "bert-layers", "series-patch"),
    *("resnet-a", "resnet-layers", "imagenet-resnet-basic", "imagenet-resnet-bottleneck"),
)
PAIRS = [
    pytest.param(case, rung, marks=[pytest.mark.slow] * (rung == "step" and case in SLOW_STEPS))
    for case in CASES
    for rung in ("weights", "forward", "gradient", "step")
]


@pytest.mark.parametrize(("case", "rung"), PAIRS)
def test_pair_holds(case, rung):
    for verdict in climb(CASES[case](), [rung]):
        assert verdict.ok, f"{verdict.dtype} {verdict.where}: {verdict.value} > {verdict.bound}"


def test_hot_weights_are_exact_in_float32_and_far_from_their_initial_values():
    leaves = hot_leaves(CASES["resnet-a"](), 0)
    for name, value in leaves.items():
        assert np.array_equal(value, value.astype(np.float32).astype(np.float64)), name
        assert value.std() > 0.05, name


def test_case_sizes_are_pairwise_distinct_within_a_layer():
    for case in CASES:
        for name, shape in CASES[case]().shapes().items():
            # Attention's are square; the audit transposes one and sees it caught. So are those of
            # BERT's heads, which transformers' own classes and Flax's golden files judge too.
            square = re.search(r"norm2|(^|\.)attention\.|pooler|masked_lm", name)
            if name.endswith("kernel") and not square:
                assert shape[-1] != shape[-2] or len(shape) == 4, f"{case} {name} {shape}"


def test_every_block_is_observed_in_both_modes_and_in_order():
    ((flax, other),) = observe_forward(
        CASES["resnet-b"](), [hot_leaves(CASES["resnet-b"](), 0)], "float32"
    )
    assert flax.keys() == other.keys()
    names = list(other)
    assert names.index("eval stem.conv") < names.index("eval blocks.1.projection.conv")
    assert names.index("eval blocks.1") < names.index("eval blocks.2")
    assert {"train logits", "eval logits", "train blocks.2.convnorm2.norm"} <= other.keys()
    assert not np.array_equal(other["train logits"], other["eval logits"])


def test_dropout_masks_are_shared_and_change_the_logits():
    pair = CASES["simplecnn"]()
    leaves = [hot_leaves(pair, 0)]
    ((flax, other),) = observe_forward(pair, leaves, "float64")
    assert relative_error(flax["train logits"], other["train logits"]) < 1e-12
    dropped = other["train dropout1"] == 0
    assert 0.1 < dropped.mean() < 0.9
    assert np.array_equal(dropped, flax["train dropout1"] == 0)


def test_dropout_mask_keeps_the_mean():
    mask = surgery.dropout_mask("layer", (400, 500), 0.3)
    assert abs(mask.mean() - 1) < 0.01
    assert set(np.unique(mask)) == {0.0, 1 / 0.7}


def test_relative_error_is_by_norm_and_infinite_for_nan_or_shape():
    truth = np.array([3.0, 4.0])
    assert relative_error(np.array([3.0, 4.5]), truth) == pytest.approx(0.1)
    assert relative_error(np.array([np.nan, 4.0]), truth) == np.inf
    assert relative_error(np.zeros(3), truth) == np.inf
    assert relative_error(None, truth) == np.inf
    assert relative_error(np.array([1e-30, 0.0]), np.zeros(2)) == np.inf


def test_a_truth_that_vanishes_is_judged_beside_its_module():
    noise, other_noise, wrong = np.array([3e-17]), np.array([-4e-17]), np.array([5e-10])
    assert relative_error(other_noise, noise) > 1
    assert relative_error(other_noise, noise, module_norm=1.0) == pytest.approx(7e-17)
    assert relative_error(wrong, noise, module_norm=1.0) == pytest.approx(5e-10)
    small, near = np.array([1e-11]), np.array([1.5e-11])  # small is not nothing
    assert relative_error(near, small, module_norm=1.0) == pytest.approx(0.5)
    assert relative_error(np.array([np.nan]), noise, module_norm=1.0) == np.inf
    arrays = {"a.key.kernel": np.array([3.0]), "a.key.bias": np.array([4.0]), "loss": np.ones(1)}
    assert module_norms(arrays) == {"a.key": 5, "": 1}


def test_error_ratio_goes_both_ways_and_ignores_what_is_below_two_ulp():
    assert error_ratio([8e-6] * 3, [1e-6] * 3) == pytest.approx(8)
    assert error_ratio([1e-6] * 3, [8e-6] * 3) == pytest.approx(8)
    assert error_ratio([1e-9], [1e-7]) == 1
    assert error_ratio([np.inf], [1e-7]) == np.inf


def test_error_ratio_forgives_luck_but_not_what_shows_in_nearly_every_draw():
    calm, flipped = [1e-7] * 16, [1e-7] * 8 + [1e-4] * 8
    assert error_ratio(calm, flipped) == error_ratio(flipped, calm) == 1
    worse = [1e-5] * 14 + [1e-7] * 2
    assert error_ratio(worse, [5e-7] * 16) == pytest.approx(20)
    assert error_ratio([5e-7] * 16, worse) == pytest.approx(20)
    assert error_ratio([1e-7] * 3 + worse[:13], [5e-7] * 16) == 1


@pytest.mark.parametrize(("flips", "factor", "low", "high"), [(0.5, 1, 0, 0.01), (0, 20, 0.99, 1)])
def test_error_ratio_is_right_about_chance(flips, factor, low, high):
    """Half of the draws off 300-fold, on either side, raise no alarm; 20-fold worse errors do."""
    rng = np.random.default_rng(0)

    def errors(scale):
        return list(scale * np.exp(rng.normal(0, 0.5, 16)) * 300 ** (rng.random(16) < flips))

    alarms = [error_ratio(errors(1e-6 * factor), errors(1e-6)) > 4 for _ in range(1000)]
    assert low <= np.mean(alarms) <= high


def test_error_ratio_is_infinite_for_a_nan_in_one_draw_of_many():
    assert error_ratio([1e-7, np.inf, 1e-7], [1e-7] * 3) == np.inf
    assert error_ratio([1e-7] * 3, [1e-7, 1e-7, np.inf]) == np.inf


def test_torch_images_are_stored_where_its_float32_batch_norm_is_accurate():
    rng = np.random.default_rng(0)
    arrays = [mean + rng.normal(size=(10, 16, 16, 4)) for mean in (0.5, 0.05)]

    def gradients(order, dtype):
        images, cotangent = (torch.from_numpy(order(a.astype("f"))).to(dtype) for a in arrays)
        norm = torch.nn.BatchNorm2d(4).to(dtype)
        y, dy = norm(images.permute(0, 3, 1, 2)), cotangent.permute(0, 3, 1, 2)
        return torch.cat(torch.autograd.grad(y, [norm.weight, norm.bias], dy)).double().numpy()

    truth = gradients(stored_channels_first, torch.float64)
    stored, given = (
        relative_error(gradients(order, torch.float32), truth)
        for order in (stored_channels_first, lambda images: images)
    )
    assert stored < 3e-7
    assert given > 4 * stored


@pytest.mark.parametrize("scale", [1 + 1e-11, 1 + 1e-5])
def test_a_wrong_gradient_of_one_leaf_fails_the_gradient_rung(scale):
    """A custom gradient that scales one bias's gradient: the forward pass cannot tell."""

    @jax.custom_vjp
    def scaled(x):
        return x

    scaled.defvjp(lambda x: (x, None), lambda _, g: (g * scale,))
    pair = CASES["logistic"]()
    model = nnx.clone(pair.flax)
    assert isinstance(model, LogisticRegression)

    def call(self, x):
        return x @ self.kernel[...] + scaled(self.bias[...])

    replace_call(model.linear, call)
    mutated = dataclasses.replace(pair, flax=model)
    assert all(v.ok for v in climb(mutated, ["forward"]))
    float64 = climb(mutated, ["gradient"])[0]
    if scale - 1 < ladder.BOUNDS["gradient", "float64"]:
        assert float64.ok  # below the bound: the control of the control
    else:
        assert not float64.ok
        assert float64.first_divergence == "linear.bias"


@pytest.mark.parametrize("size", [1e-9, 1e-13])
def test_a_wrong_gradient_of_a_key_bias_fails_although_the_true_one_is_zero(size):
    """An error of `size` beside the key's kernel's gradient, in the bias's, that is but noise."""
    pair = CASES["attention-masked"]()
    ((gradients, _),) = observe_gradient(pair, [hot_leaves(pair, 0)], "float64")
    kernel = np.linalg.norm(gradients["attention.key.kernel"])
    assert np.linalg.norm(gradients["attention.key.bias"]) < 1e-14 * kernel

    @jax.custom_vjp
    def wrong(x):
        return x

    wrong.defvjp(lambda x: (x, None), lambda _, g: (g + size * kernel,))
    model = nnx.clone(pair.flax)
    assert isinstance(model, FlaxMasked)

    def call(self, x):
        return x @ self.kernel[...] + wrong(self.bias[...])

    replace_call(model.attention.key, call)
    float64 = climb(dataclasses.replace(pair, flax=model), ["gradient"], draws=1)[0]
    if size < ladder.BOUNDS["gradient", "float64"]:
        assert float64.ok  # below the bound: the control of the control
        assert float64.note == "zero but for rounding: attention.key.bias"
    else:
        assert not float64.ok
        assert float64.first_divergence == "attention.key.bias"


def test_a_moved_weight_fails_the_weights_rung_by_name():
    pair = CASES["logistic"]()
    rules = WeightRules(leaves={"kernel": LeafRule("weight"), "bias": LeafRule("bias")})
    verdict = climb(dataclasses.replace(pair, rules=rules), ["weights"])[0]
    assert not verdict.ok
    assert "linear.weight" in verdict.where


def test_layouts_are_inverse_and_strict():
    pair = CASES["cnn"]()
    leaves = hot_leaves(pair, 0)
    tensors = to_torch_layout(leaves)
    back = to_flax_layout(tensors, pair.shapes())
    assert all(np.array_equal(back[name], leaves[name]) for name in leaves)
    extra = tensors | {"stages.9.weight": np.zeros(3)}
    del extra["linear1.bias"]
    extra["linear2.weight"] = np.zeros((2, 2))
    with pytest.raises(ValueError, match="3 tensors do not match") as error:
        to_flax_layout(extra, pair.shapes())
    for text in ("missing linear1.bias", "unexpected stages.9.weight", "linear2.weight has shape"):
        assert text in str(error.value)


def test_a_leaf_without_a_rule_is_named():
    with pytest.raises(ValueError, match=r"block\.gamma: no rule for a leaf called 'gamma'"):
        to_torch_layout({"block.gamma": np.zeros(3)})


class FlaxMLP(nnx.Module):
    """A pair that is not ours: other names, another call, its own loss."""

    def __init__(self):
        self.hidden = nnx.Linear(3, 5, rngs=nnx.Rngs(0))
        self.out = nnx.Linear(5, 1, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))


def torch_mlp():
    return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))


@pytest.fixture
def mlp_settings():
    rng = np.random.default_rng(0)
    return {
        "batch": {
            "x": rng.normal(size=(20, 3)).astype(np.float32),
            "label": rng.normal(size=(20, 1)).astype(np.float32),
        },
        "weight_rules": WeightRules(renames=(("^hidden$", "0"), ("^out$", "2"))),
        "recipe": Recipe(loss=lambda prediction, label: ((prediction - label) ** 2).mean()),
        "flax_call": lambda model, batch, train: model(batch["x"]),
        "torch_call": lambda model, batch: model(batch["x"]),
    }


def test_a_tasks_own_pair_trains_at_the_rates_of_its_layers():
    task = TASKS["cifar10-transfer-resnet18"]
    task = dataclasses.replace(task, model=config_of("imagenet-resnet-basic"))
    pair = task_pair(task)
    assert task.optimizer.layer_decay < 1
    assert pair.flax_recipe.layers == pair.torch_recipe.layers == (1, 2)


def test_anyone_can_compare_a_pair_of_their_own(mlp_settings):
    report = compare(FlaxMLP(), torch_mlp(), **mlp_settings)
    assert [(v.rung, v.dtype) for v in report.verdicts] == [
        ("weights", "float32"),
        *[(r, d) for r in ("forward", "gradient", "step") for d in ("float64", "float32")],
    ]
    assert report.ok


def test_a_pair_that_differs_is_refused(mlp_settings):
    other = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.GELU(), torch.nn.Linear(5, 1))
    report = compare(FlaxMLP(), other, **mlp_settings)
    assert not report.ok
    float64 = next(v for v in report.verdicts if (v.rung, v.dtype) == ("forward", "float64"))
    assert float64.first_divergence == "eval out"


def test_compare_at_given_weights_uses_them(mlp_settings):
    """At its own tiny weights tanh is the identity to 1e-12, and only hot weights tell."""
    model = FlaxMLP()
    model.hidden.kernel[...] *= 1e-9
    identity = torch.nn.Sequential(
        torch.nn.Linear(3, 5), torch.nn.Identity(), torch.nn.Linear(5, 1)
    )
    climbed = partial(compare, model, identity, rungs=["forward"], **mlp_settings)
    assert climbed(hot=False).verdicts[0].ok
    assert not climbed(hot=True).verdicts[0].ok


def test_an_unknown_rung_is_refused(mlp_settings):
    with pytest.raises(ValueError, match="rung 'backward' is unknown"):
        compare(FlaxMLP(), torch_mlp(), rungs=["backward"], **mlp_settings)
