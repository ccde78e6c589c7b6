"""The models against their papers: parameter counts, sizes, switches, initial scales."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jaxmodels.models
import torchref.models
from jaxmodels.modules import named_modules
from jaxmodels.shared.configs import (
    CONFIGS,
    CNNConfig,
    LogisticRegressionConfig,
    ResNetConfig,
    SimpleCNNConfig,
    from_json,
    to_json,
)
from jaxmodels.state import read_leaves, split


def count_flax(config):
    return sum(value.size for value in split(jaxmodels.models.create(config))[1].values())


def count_torch(config):
    return sum(p.numel() for p in torchref.models.create(config).parameters())


def flax_arrays(config, seed):
    return read_leaves(jaxmodels.models.create(config, seed=seed))


def torch_arrays(config, seed):
    state = torchref.models.create(config, seed=seed).state_dict()
    return {name: value.numpy() for name, value in state.items()}


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)]
)
def test_resnet_has_the_papers_parameters(depth, millions):
    """Table 6 of He et al. 2016, option A."""
    count = count_torch(ResNetConfig(depth=depth))
    digits = 1 if depth == 110 else 2
    assert round(count / 1e6, digits) == millions


def test_resnet20_counts_by_hand_and_option_b_adds_its_projections():
    convolutions = 27 * 16 + 9 * (6 * 16**2 + 16 * 32 + 5 * 32**2 + 32 * 64 + 5 * 64**2)
    norms = 2 * (7 * 16 + 6 * 32 + 6 * 64)
    expected = convolutions + norms + 64 * 10 + 10
    for count in (count_flax, count_torch):
        assert count(ResNetConfig()) == expected
        assert count(ResNetConfig(shortcut="B")) == expected + 16 * 32 + 32 * 64 + 2 * (32 + 64)


@pytest.mark.parametrize("name", CONFIGS)
def test_twins_share_names_counts_and_attribute_order(name):
    config = CONFIGS[name]()
    flax, torch_ = jaxmodels.models.create(config), torchref.models.create(config)
    assert count_flax(config) == count_torch(config)
    flax_names = {n for n, _ in named_modules(flax)} - {""}
    torch_names = {n for n, m in torch_.named_modules() if not isinstance(m, torch.nn.ModuleList)}
    assert flax_names == torch_names - {""}


@pytest.mark.parametrize("name", CONFIGS)
def test_same_seed_same_model_other_seed_another(name):
    config = CONFIGS[name](initializer="he-normal")
    for draw in (flax_arrays, torch_arrays):
        first, again, other = (draw(config, seed) for seed in (1, 1, 2))
        assert all(np.array_equal(first[k], again[k]) for k in first)
        assert any(not np.array_equal(first[k], other[k]) for k in first)


def test_creating_a_torch_model_leaves_the_process_wide_generator_usable():
    torch.manual_seed(0)
    torchref.models.create(ResNetConfig(depth=8), seed=3)
    assert torch.initial_seed() == 0


@pytest.mark.parametrize(
    "config",
    [SimpleCNNConfig(batch_norm=True), SimpleCNNConfig(), CNNConfig(), ResNetConfig()],
)
def test_initial_kernels_have_the_he_scale(config):
    for name, value in read_leaves(jaxmodels.models.create(config)).items():
        if name.endswith("kernel") and value.size > 2000:
            assert value.std() == pytest.approx((2 / np.prod(value.shape[:-1])) ** 0.5, rel=0.1)
        elif name.endswith("bias"):
            assert not value.any()


def test_logistic_regression_starts_at_zero():
    leaves = read_leaves(jaxmodels.models.create(LogisticRegressionConfig()))
    assert not any(value.any() for value in leaves.values())


def test_switches_change_the_function():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 32, 32, 3)), jnp.float32)
    configs = (
        SimpleCNNConfig(),
        SimpleCNNConfig(activation="swish"),
        SimpleCNNConfig(batch_norm=True),
    )
    plain, swish, _ = (jaxmodels.models.create(config)(images) for config in configs)
    assert not np.allclose(plain, swish)
    assert count_flax(SimpleCNNConfig(batch_norm=True)) == count_flax(SimpleCNNConfig()) + 32 + 64


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters():
    model = jaxmodels.models.create(ResNetConfig(depth=8), dtype=jnp.bfloat16)
    images = jnp.ones((2, 32, 32, 3))
    assert model(images).dtype == jnp.bfloat16
    assert {value.dtype for value in read_leaves(model).values()} == {np.dtype(np.float32)}


def test_batch_norm_refuses_a_single_value():
    config = SimpleCNNConfig(image_size=4, batch_norm=True)
    norm = jaxmodels.models.SimpleCNN(config, rngs=nnx.Rngs(0)).block1.norm
    assert norm is not None
    with pytest.raises(ValueError, match="more than one value"):
        norm(jnp.ones((1, 1, 1, 32)), train=True)


def test_models_run_under_jit_without_retracing():
    traces = []

    @jax.jit
    def run(model, images):
        traces.append(1)
        return model(images)

    model = jaxmodels.models.create(LogisticRegressionConfig())
    for _ in range(2):
        run(model, jnp.ones((2, 32, 32, 3)))
    assert len(traces) == 1


@pytest.mark.parametrize("name", CONFIGS)
def test_config_survives_json(name):
    config = CONFIGS[name](initializer="zeros")
    assert config.initializer == "zeros"
    assert from_json(to_json(config)) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "VGG"}, "architecture 'VGG' is unknown"),
        ({"width": 3}, r"unknown fields \['width'\]"),
        ({"depth": "20"}, "depth is '20'"),
        ({"depth": 21}, "depth 21 is not 6n"),
        ({"shortcut": "C"}, "shortcut 'C' must be one of"),
        ({"image_size": 30}, "image_size 30 must divide by 4.*try 28"),
        ({"batch_norm_momentum": 0}, "batch_norm_momentum must be in"),
    ],
)
def test_bad_configs_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        from_json(to_json(ResNetConfig()) | change)
