"""The losses and training metrics of both frameworks are their definitions, in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import jaxmodels.losses
import torchref.losses
from jaxmodels.shared.forecasting import metrics as forecast_metrics
from jaxmodels.shared.targets import IGNORED, median_index

QUANTILES = (0.1, 0.5, 0.7)


def on_both_sides(name, outputs, targets, **options):
    """The value of a loss, and its gradient by the outputs, in Flax and in torch, in float64."""
    with jax.enable_x64(True):
        loss = getattr(jaxmodels.losses, name)
        flax = jax.value_and_grad(lambda x: loss(x, jnp.asarray(targets), **options))(
            jnp.asarray(outputs)
        )
    leaf = torch.tensor(outputs, requires_grad=True)
    value = getattr(torchref.losses, name)(leaf, torch.tensor(targets), **options)
    (gradient,) = torch.autograd.grad(value, leaf)
    return (float(flax[0]), np.asarray(flax[1])), (float(value.detach()), gradient.numpy())


@pytest.fixture
def forecasts():
    """outputs (5, 4, 3) and targets (5, 4), float64."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(5, 4, 3)), rng.normal(size=(5, 4))


def test_pinball_loss_and_its_gradient_are_the_definition(forecasts):
    outputs, targets = forecasts
    above = targets[..., None] > outputs
    cost = np.where(above, QUANTILES, 1 - np.array(QUANTILES))
    expected = (cost * np.abs(targets[..., None] - outputs)).mean()
    slope = np.where(above, -cost, cost) / outputs.size
    for value, gradient in on_both_sides("pinball_loss", *forecasts, quantiles=QUANTILES):
        assert value == pytest.approx(expected, rel=1e-14)
        np.testing.assert_allclose(gradient, slope, rtol=1e-14)
    flat = outputs.reshape(-1, 3), np.array(QUANTILES)
    assert forecast_metrics.pinball_loss(targets.ravel(), *flat) == pytest.approx(expected)


def test_pinball_loss_with_q_and_1_minus_q_swapped_is_another(forecasts):
    """The negative control: it is the same loss where every quantile is the median alone."""
    swapped = tuple(1 - quantile for quantile in QUANTILES)
    for right, wrong, differs in ((QUANTILES, swapped, True), ((0.5,) * 3, (0.5,) * 3, False)):
        values = on_both_sides("pinball_loss", *forecasts, quantiles=right)
        others = on_both_sides("pinball_loss", *forecasts, quantiles=wrong)
        for (value, _), (other, _) in zip(values, others, strict=True):
            assert (abs(other / value - 1) > 0.01) == differs


def test_pinball_loss_is_least_at_the_quantiles():
    """What the loss is for: of constants, the sample's quantile costs least."""
    sample = np.random.default_rng(1).exponential(size=2001)[:, None]
    best = np.quantile(sample, QUANTILES)
    least = {}
    for shift in (-0.1, 0, 0.1):
        outputs = np.broadcast_to(best + shift, (2001, 1, 3))
        pair = on_both_sides("pinball_loss", outputs.copy(), sample, quantiles=QUANTILES)
        least[shift] = [value for value, _ in pair]
    assert all(np.array(least[0]) < np.minimum(least[-0.1], least[0.1]))


def test_absolute_error_is_of_the_output_nearest_the_median(forecasts):
    outputs, targets = forecasts
    for quantiles, place in ((QUANTILES, 1), ((0.1, 0.2, 0.45), 2), ((0.6, 0.8, 0.9), 0)):
        assert median_index(quantiles) == place
        expected = np.abs(outputs[..., place] - targets).mean()
        for value, _ in on_both_sides("absolute_error", *forecasts, quantiles=quantiles):
            assert value == pytest.approx(expected, rel=1e-14)
        assert expected != pytest.approx(np.abs(outputs[..., place - 1] - targets).mean())


def test_accuracy_is_the_fraction_right():
    logits = np.array([[[1.0, 2.0], [3.0, 0.0]], [[0.0, 9.0], [0.0, 1.0]]], np.float32)
    labels = np.array([[1, 0], [0, 1]], np.int32)
    assert jaxmodels.losses.accuracy(jnp.asarray(logits), jnp.asarray(labels)) == 0.75
    assert torchref.losses.accuracy(torch.tensor(logits), torch.tensor(labels)) == 0.75
    assert torchref.losses.accuracy(torch.tensor(logits), torch.tensor(1 - labels)) == 0.25


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_ignored_labels_count_neither_above_nor_below_the_line(smoothing):
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(size=(4, 5, 3)), rng.integers(3, size=(4, 5))
    labels[1:3, 2:] = IGNORED
    leaf = torch.tensor(logits, requires_grad=True)
    options = {"ignore_index": IGNORED, "label_smoothing": smoothing}
    expected = F.cross_entropy(leaf.flatten(0, 1), torch.tensor(labels).flatten(), **options)
    (slope,) = torch.autograd.grad(expected, leaf)
    for value, gradient in on_both_sides(
        "cross_entropy", logits, labels, label_smoothing=smoothing
    ):
        assert value == pytest.approx(float(expected.detach()), rel=1e-14)
        np.testing.assert_allclose(gradient, slope.numpy(), rtol=1e-12, atol=1e-17)
        others = on_both_sides("cross_entropy", logits, np.maximum(labels, 0))
        assert all(abs(other / value - 1) > 1e-3 for other, _ in others)  # the control


def test_without_a_label_that_counts_the_loss_and_its_gradient_are_zero():
    logits, labels = np.ones((2, 3)), np.full(2, IGNORED)
    for value, gradient in on_both_sides("cross_entropy", logits, labels):
        assert value == 0
        assert not gradient.any()


def test_accuracy_is_of_the_labels_that_count():
    logits, labels = np.eye(4, dtype=np.float32), np.array([0, 1, 3, IGNORED])
    assert jaxmodels.losses.accuracy(jnp.asarray(logits), jnp.asarray(labels)) == np.float32(2 / 3)
    assert torchref.losses.accuracy(torch.tensor(logits), torch.tensor(labels)) == np.float32(2 / 3)


@pytest.mark.parametrize("name", ["pinball_loss", "absolute_error"])
def test_bfloat16_outputs_cost_in_float32(name, forecasts):
    """A mean of bfloat16 would have two digits."""
    outputs, targets = (values.astype(np.float32) for values in forecasts)
    flax = getattr(jaxmodels.losses, name)(
        jnp.asarray(outputs, jnp.bfloat16), jnp.asarray(targets), quantiles=QUANTILES
    )
    rounded = torch.tensor(outputs).bfloat16()
    other = getattr(torchref.losses, name)(rounded, torch.tensor(targets), quantiles=QUANTILES)
    assert (flax.dtype, other.dtype) == (jnp.float32, torch.float32)
    assert float(flax) == pytest.approx(float(other), rel=1e-6)
