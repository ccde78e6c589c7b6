"""GPT-2 and the forecaster against their papers: causality, patches, units, sizes, configs."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jaxmodels.models
import jaxmodels.models.time_series
import torchref.models
import torchref.models.time_series
from jaxmodels import state
from jaxmodels.shared.configs import (
    GPT2Config,
    TimeSeriesTransformerConfig,
    from_json,
    to_json,
)
from jaxmodels.shared.model_output import logits_of
from torchref.weights import read_tensors

TEXT = GPT2Config(
    vocabulary_size=13, context_length=8, hidden_dim=12, num_layers=2, num_heads=3, mlp_dim=10
)
SERIES = TimeSeriesTransformerConfig(
    window=16, patch_length=5, patch_stride=3, hidden_dim=8, num_heads=2, mlp_dim=10
)
TOKENS = np.random.default_rng(0).integers(13, size=(3, 8))


@cache
def flax_function(config):
    model = state.cast(jaxmodels.models.create(config), jnp.dtype("float64"))
    return jax.jit(lambda inputs: logits_of(model(inputs)))  # type: ignore[operator]


def call_flax(config, inputs):
    """A fresh model's outputs in evaluation mode, in float64."""
    with jax.enable_x64(True):
        return np.asarray(flax_function(config)(jnp.asarray(inputs)))


def call_torch(config, inputs):
    """The twin of `call_flax`."""
    with torch.no_grad():
        model = torchref.models.create(config).double().eval()
        return logits_of(model(torch.from_numpy(inputs))).numpy()


SIDES = pytest.mark.parametrize("call", [call_flax, call_torch])


@SIDES
def test_no_logit_sees_a_later_token(call):
    changed = TOKENS.copy()
    changed[:, 5] = (TOKENS[:, 5] + 1) % 13
    before, after = call(TEXT, TOKENS), call(TEXT, changed)
    assert np.array_equal(before[:, :5], after[:, :5])
    assert (before[:, 5:] != after[:, 5:]).all()  # the control: its own step and the later ones do


@SIDES
def test_more_tokens_than_the_context_are_refused(call):
    assert call(TEXT, TOKENS[:, :8]).shape == (3, 8, 13)
    with pytest.raises(ValueError, match="9 tokens exceed the model's context of 8; pass 8"):
        call(TEXT, np.zeros((3, 9), np.int64))


def test_gpt2_has_the_parameters_of_the_hubs_smallest():
    """124,439,808 with the embedding tied; untied it would be 38,597,376 more."""
    config = GPT2Config(
        vocabulary_size=50257,
        context_length=1024,
        hidden_dim=768,
        num_layers=12,
        num_heads=12,
        mlp_dim=3072,
    )
    model = nnx.eval_shape(lambda: jaxmodels.models.create(config))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model))) == 124_439_808


@pytest.mark.parametrize("side", ["flax", "torch"])
def test_gpt2_starts_as_the_paper_says(side):
    """0.02 for all, over the square root of the branches for the last kernel of each."""
    config = GPT2Config()
    if side == "flax":
        leaves = state.read_leaves(jaxmodels.models.create(config))
    else:
        leaves = read_tensors(torchref.models.create(config))
    for name, value in leaves.items():
        module = name.rpartition(".")[0]
        if value.ndim == 1:
            assert (value == ("norm" in module and not name.endswith("bias"))).all(), name
            continue
        last = module.endswith(("output", "linear2"))
        assert value.std() == pytest.approx(0.02 / (8**0.5 if last else 1), rel=0.03), name


def test_bfloat16_is_computed_in_and_parameters_stay_float32():
    """But a forecast is brought back to its window's units in float32."""
    in_units = dataclasses.replace(SERIES, instance_norm=True)
    scaled = dataclasses.replace(SERIES, instance_norm=False)
    window = jnp.ones((2, 16, 1))
    for config, inputs, dtype in (
        (TEXT, jnp.asarray(TOKENS), jnp.bfloat16),
        (scaled, window, jnp.bfloat16),
        (in_units, window, jnp.float32),
    ):
        create = partial(jaxmodels.models.create, config, dtype=jnp.bfloat16)
        outputs = nnx.eval_shape(lambda create=create, inputs=inputs: logits_of(create()(inputs)))
        assert outputs.dtype == dtype
        leaves = jax.tree.leaves(nnx.state(nnx.eval_shape(create)))
        assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}


@SIDES
@pytest.mark.parametrize("instance_norm", [True, False])
def test_a_forecast_comes_in_the_units_of_its_window(call, instance_norm):
    """Shift and scale the window's one feature: the forecast shifts and scales with it."""
    config = dataclasses.replace(SERIES, instance_norm=instance_norm)
    window = np.random.default_rng(1).normal(1e4, 1e3, size=(3, 16, 1))  # epsilon is nothing to it
    expected = call(config, window) * 7 - 5e4
    error = np.abs(call(config, window * 7 - 5e4) / expected - 1).max()
    if instance_norm:
        assert error < 1e-10
    else:
        assert error > 1e-3  # the control


@SIDES
def test_a_constant_window_gives_a_finite_forecast(call):
    forecast = call(SERIES, np.full((2, 16, 1), 100.0))
    np.testing.assert_allclose(forecast, 100, atol=0.1)


def test_patches_overlap_in_order_and_end_where_the_window_does():
    """Nine steps of two features, patches of four steps, two apart: step 0 fills none."""
    x = np.arange(18).reshape(1, 9, 2)
    expected = [[list(range(2 * start, 2 * start + 8)) for start in (1, 3, 5)]]
    flax = jaxmodels.models.time_series.cut(jnp.asarray(x), 4, 2)
    assert flax.tolist() == expected
    assert torchref.models.time_series.cut(torch.from_numpy(x), 4, 2).tolist() == expected
    assert TimeSeriesTransformerConfig(window=9, patch_length=4, patch_stride=2).num_patches == 3


@pytest.mark.parametrize("independent", [True, False])
def test_channels_meet_in_the_head_alone_when_independent(independent):
    """With the second channel's rows of the head at zero, the second feature changes nothing."""
    config = dataclasses.replace(
        SERIES, num_features=2, channel_independent=independent, instance_norm=False
    )
    model = jaxmodels.models.create(config)
    assert isinstance(model, jaxmodels.models.TimeSeriesTransformer)
    if independent:
        half = model.head.in_features // 2
        model.head.kernel[...] = model.head.kernel[...].at[half:].set(0)
    inputs = jnp.asarray(np.random.default_rng(2).normal(size=(3, 16, 2)), jnp.float32)
    for feature, moves in ((0, True), (1, not independent)):
        changed = inputs.at[..., feature].add(1)
        assert np.array_equal(model(inputs), model(changed)) != moves


@SIDES
def test_a_window_of_another_shape_is_refused(call):
    with pytest.raises(ValueError, match=r"shape \(15, 1\) do not fit.*\(16, 1\)"):
        call(SERIES, np.zeros((2, 15, 1)))


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (TEXT, {"hidden_dim": 30, "num_heads": 4}, "30 must divide by num_heads 4; try 28 or 32"),
        (TEXT, {"hidden_dim": 3, "num_heads": 4}, "3 must divide by num_heads 4; try 4"),
        (TEXT, {"mlp_dim": 0}, "mlp_dim 0 must be positive"),
        (TEXT, {"activation": "tanh"}, "activation 'tanh' must be one of .*'gelu_tanh'"),
        (TEXT, {"layer_norm_epsilon": 0}, "layer_norm_epsilon 0 must be positive; try 1e-5"),
        (TEXT, {"embedding_deviation": -0.1}, "embedding_deviation -0.1 must not be negative"),
        (TEXT, {"initializer": "gpt3"}, "initializer 'gpt3' must be one of"),
        (SERIES, {"window": 4}, "window 4 is shorter than patch_length 5; try patch_length 4"),
        (SERIES, {"patch_stride": 6}, "patch_stride 6 must not exceed patch_length 5"),
        (SERIES, {"quantiles": (0.9, 0.5)}, r"quantiles \(0.9, 0.5\) must ascend"),
        (SERIES, {"quantiles": (0.5, 1.0)}, r"quantiles \(0.5, 1.0\) must ascend, lie in \(0, 1\)"),
        (SERIES, {"quantiles": (0.1, 0.9)}, r"quantiles \(0.1, 0.9\) must .* hold 0.5"),
        (SERIES, {"instance_norm_epsilon": -1.0}, "instance_norm_epsilon -1.0 must be positive"),
        (SERIES, {"dropout_rate": 1.0}, r"dropout_rate 1.0 must be in \[0, 1\)"),
    ],
)
def test_bad_configs_are_refused_by_name(config, change, message):
    with pytest.raises(ValueError, match=message):
        from_json(to_json(config) | change)
