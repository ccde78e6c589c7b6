"""Metrics of forecasts are their definitions, by hand or against a library."""

import numpy as np
import pytest

from jaxmodels.shared.forecasting import metrics

ACTUAL = np.array([10.0, 20.0, 30.0, 40.0])
FORECAST = np.array([12.0, 17.0, 30.0, 44.0])


def test_metrics_by_hand():
    assert metrics.mean_absolute_error(ACTUAL, FORECAST) == 9 / 4
    assert metrics.root_mean_squared_error(ACTUAL, FORECAST) == np.sqrt(29 / 4)
    expected = 100 * (2 / 11 + 3 / 18.5 + 0 + 4 / 42) / 4
    assert metrics.symmetric_percentage_error(ACTUAL, FORECAST) == pytest.approx(expected)
    zeros = np.zeros(2)
    assert metrics.symmetric_percentage_error(zeros, zeros) == 0
    assert metrics.symmetric_percentage_error(zeros, zeros + 1) == 200
    lower, upper = np.array([10, 21, 0, 0]), np.array([11, 22, 30, 39])
    assert metrics.interval_coverage(ACTUAL, lower, upper) == 0.5


def test_scaled_error_is_of_the_history():
    history = np.array([1.0, 2.0, 4.0, 7.0])
    assert metrics.scaled_error(ACTUAL, FORECAST, history) == pytest.approx((9 / 4) / 2)
    assert metrics.scaled_error(ACTUAL, FORECAST, history, season=2) == pytest.approx(9 / 4 / 4)
    assert metrics.scaled_error(ACTUAL, FORECAST, np.ones(5)) is None
    assert metrics.scaled_error(ACTUAL, FORECAST, np.ones(1)) is None


def test_directional_accuracy_counts_what_has_a_direction():
    origin = np.array([11.0, 19.0, 31.0, 40.0])  # up or down, right: no, no, yes, not at all
    assert metrics.directional_accuracy(ACTUAL, FORECAST, origin) == pytest.approx(1 / 3)
    assert metrics.directional_accuracy(ACTUAL, origin, origin) is None


def test_skill_against_a_reference():
    reference = ACTUAL + 4.5
    assert metrics.skill(ACTUAL, FORECAST, reference) == pytest.approx(0.5)
    assert metrics.skill(ACTUAL, reference, FORECAST) == pytest.approx(-1)
    assert metrics.skill(ACTUAL, FORECAST, ACTUAL) is None


def test_pinball_loss_is_scikit_learns():
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.Generator(np.random.PCG64(0))
    actual, forecasts = generator.normal(size=50), generator.normal(size=(50, 3))
    quantiles = np.array([0.1, 0.5, 0.9])
    expected = [
        sklearn_metrics.mean_pinball_loss(actual, forecasts[:, place], alpha=quantile)
        for place, quantile in enumerate(quantiles)
    ]
    assert metrics.pinball_loss(actual, forecasts, quantiles) == pytest.approx(np.mean(expected))


def test_diebold_mariano_of_one_step_is_the_paired_t_test():
    """With Harvey's correction, the two coincide exactly."""
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.Generator(np.random.PCG64(1))
    actual, one, two = generator.normal(size=(3, 40))
    for power in (1, 2):
        ours = metrics.diebold_mariano(actual, one, two, power=power)
        losses = np.abs(actual - one) ** power, np.abs(actual - two) ** power
        assert ours is not None
        np.testing.assert_allclose(ours, stats.ttest_rel(*losses), rtol=1e-12)


def test_diebold_mariano_of_several_steps_by_hand():
    """d = 4, 1, 2, 3 - 2 each: mean 0.5; autocovariances 5/4 and (2.25*-1 ...) / 4."""
    actual, reference = np.zeros(4), np.full(4, 2.0)
    forecast = np.array([4.0, 1.0, 2.0, 3.0])
    differences = np.array([2.0, -1.0, 0.0, 1.0])
    centred = differences - 0.5  # 1.5, -1.5, -0.5, 0.5
    gamma_0, gamma_1 = 5 / 4, (1.5 * -1.5 + -1.5 * -0.5 + -0.5 * 0.5) / 4
    np.testing.assert_allclose(
        [centred @ centred / 4, centred[1:] @ centred[:-1] / 4], [gamma_0, gamma_1]
    )
    statistic = 0.5 / np.sqrt((gamma_0 + 2 * gamma_1) / 4)
    corrected = statistic * np.sqrt((4 + 1 - 2 * 2 + 2 * 1 / 4) / 4)
    made = metrics.diebold_mariano(actual, forecast, reference, horizon=2)
    assert made is not None
    assert made[0] == pytest.approx(corrected)
    stats = pytest.importorskip("scipy.stats")
    assert made[1] == pytest.approx(2 * stats.t(3).sf(corrected))


def test_diebold_mariano_survives_a_negative_variance():
    """Losses that alternate have a negative two-step variance by the paper's own estimate."""
    forecast = np.array([1.0, 3.1, 1.0, 3.0, 1.2, 3.0])
    made = metrics.diebold_mariano(np.zeros(6), forecast, np.full(6, 2.0), horizon=2)
    assert made is not None
    assert np.isfinite(made).all()
    assert 0 <= made[1] <= 1


def test_diebold_mariano_has_its_size_and_its_sign():
    """Of equally good forecasts, one test in twenty is below 0.05, overlapping errors included."""
    generator = np.random.Generator(np.random.PCG64(3))
    shocks = generator.normal(size=(600, 2, 82))
    errors = shocks[..., 2:] + shocks[..., 1:-1] + shocks[..., :-2]  # of three steps ahead
    zeros = np.zeros(80)
    tests = [metrics.diebold_mariano(zeros, one, two, horizon=3) for one, two in errors]
    p_values = np.array([test[1] for test in tests if test])
    assert len(p_values) == 600
    assert 0.02 < (p_values < 0.05).mean() < 0.09
    better = metrics.diebold_mariano(zeros, errors[0, 0] / 4, errors[0, 1], horizon=3)
    assert better is not None
    assert better[0] < 0
    assert better[1] < 0.01


@pytest.mark.parametrize(
    ("count", "horizon", "same"), [(1, 1, False), (4, 4, False), (9, 1, True), (9, 3, True)]
)
def test_diebold_mariano_without_evidence_is_none(count, horizon, same):
    actual = np.arange(count, dtype=np.float64)
    forecast = actual + 1 if same else actual + np.arange(count)
    assert metrics.diebold_mariano(actual, forecast, actual + 1, horizon=horizon) is None
