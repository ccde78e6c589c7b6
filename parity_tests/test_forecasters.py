"""The forecasters: which step they read, what their outputs mean, which configs they refuse."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jaxmodels.models
import torchref.models
from jaxmodels.shared.configs import RecurrentForecasterConfig, from_json, to_json

CONFIG = RecurrentForecasterConfig(num_features=3, num_horizons=2, hidden_dim=5, num_layers=2)
INPUTS = np.random.default_rng(0).normal(size=(4, 7, 3)).astype(np.float32)


def outputs_of(model, inputs):
    if isinstance(model, nnx.Module):
        return np.asarray(model(jnp.asarray(inputs)))  # type: ignore[operator]
    return model.eval()(torch.from_numpy(inputs)).detach().numpy()


@pytest.fixture(params=["lstm", "gru"])
def models(request):
    config = dataclasses.replace(CONFIG, cell=request.param, dropout_rate=0.5)
    return [jaxmodels.models.create(config), torchref.models.create(config)]


def test_outputs_are_horizons_by_quantiles(models):
    """With no kernel, what is left is the bias: horizon after horizon, quantile by quantile."""
    flax, other = models
    flax.linear.kernel[...] *= 0
    flax.linear.bias[...] = jnp.arange(6.0)
    torch.nn.init.zeros_(other.linear.weight)
    other.linear.bias.data = torch.arange(6.0)
    for model in models:
        assert outputs_of(model, INPUTS)[0].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_forecast_is_made_of_the_whole_window_and_its_newest_step_last(models):
    for model in models:
        outputs = outputs_of(model, INPUTS)
        assert outputs.shape == (4, 2, 3)
        oldest, newest = INPUTS.copy(), INPUTS.copy()
        oldest[:, 0] += 1
        newest[:, -1] += 1
        moved = [np.abs(outputs_of(model, x) - outputs).mean() for x in (oldest, newest)]
        assert 0 < moved[0] < moved[1]


def test_forecast_is_torchs_own_layers_and_the_last_state():
    """torch's two-layer LSTM, whose last hidden state is its output at the last step."""
    model = torchref.models.create(CONFIG).eval()
    oracle = torch.nn.LSTM(3, 5, num_layers=2, batch_first=True)
    layers = model.recurrent.layers  # type: ignore[union-attr]
    for name, value in oracle.named_parameters():
        source = layers[int(name[-1])].get_parameter(f"{name[:-1]}0")  # type: ignore[index]
        value.data = source.data
    _, (hidden, _) = oracle(torch.from_numpy(INPUTS))
    expected = model.linear(hidden[-1]).reshape(4, 2, 3)  # type: ignore[operator]
    np.testing.assert_allclose(outputs_of(model, INPUTS), expected.detach().numpy(), rtol=1e-5)


def test_bfloat16_is_computed_in():
    model = jaxmodels.models.create(CONFIG, dtype=jnp.bfloat16)
    assert model(jnp.asarray(INPUTS)).dtype == jnp.bfloat16  # type: ignore[operator]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantiles": [0.5, 0.05, 0.95]}, r"quantiles \(0.5, 0.05, 0.95\) must ascend"),
        ({"quantiles": [0.5, 0.5]}, "must ascend"),
        ({"quantiles": [0.0, 0.5]}, r"lie in \(0, 1\)"),
        ({"quantiles": [0.5, float("nan")]}, r"lie in \(0, 1\)"),
        ({"quantiles": [0.1, 0.9]}, "hold 0.5"),
        ({"quantiles": []}, "hold 0.5"),
        ({"quantiles": ["0.5"]}, "must ascend"),
        ({"num_features": 0}, "num_features 0 must be positive"),
        ({"num_horizons": -1}, "num_horizons -1 must be positive"),
        ({"cell": "rnn"}, "cell 'rnn' must be one of"),
        ({"dropout_rate": 1.0}, "dropout_rate 1.0 must be in"),
    ],
)
def test_bad_configs_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        from_json(to_json(CONFIG) | change)
