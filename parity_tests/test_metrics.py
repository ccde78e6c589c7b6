"""Metrics of a classifier are scikit-learn's, and None where those are undefined."""

import numpy as np
import pytest

from jaxmodels.shared import metrics

sklearn_metrics = pytest.importorskip("sklearn.metrics")

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, 200)
PREDICTIONS = np.where(RNG.random(200) < 0.6, LABELS, RNG.integers(0, 4, 200))


def test_precision_recall_and_f1_are_scikit_learns():
    found = metrics.precision_recall_f1(PREDICTIONS, LABELS, 4)
    expected = sklearn_metrics.precision_recall_fscore_support(LABELS, PREDICTIONS)
    for values, others in zip(found.values(), expected, strict=False):
        assert values == pytest.approx(others)
    macro = [metrics.macro_average(values) for values in found.values()]
    average = {"average": "macro"}
    expected = sklearn_metrics.precision_recall_fscore_support(LABELS, PREDICTIONS, **average)
    assert macro == pytest.approx(expected[:3])
    # The negative control: predictions and labels exchanged are precision and recall exchanged.
    exchanged = metrics.precision_recall_f1(LABELS, PREDICTIONS, 4)
    assert exchanged["recall"] == found["precision"] != found["recall"]


def test_what_is_undefined_is_none_and_left_out_of_the_mean():
    """Class 1 is never predicted, 2 has no example, 3 neither: scikit-learn's own NaN."""
    labels, predictions = np.array([0, 0, 1, 1]), np.array([0, 2, 0, 2])
    found = metrics.precision_recall_f1(predictions, labels, 4)
    assert found["precision"] == [0.5, None, 0.0, None]
    assert found["recall"] == [0.5, 0.0, None, None]
    assert found["f1"] == [0.5, 0.0, 0.0, None]
    options = {"labels": range(4), "zero_division": np.nan}
    expected = sklearn_metrics.precision_recall_fscore_support(labels, predictions, **options)
    for values, others in zip(found.values(), expected, strict=False):
        np.testing.assert_array_equal(np.array(values, np.float64), others)
        assert metrics.macro_average(values) == pytest.approx(np.nanmean(others))
    assert metrics.macro_average([None, None]) is None


@pytest.mark.parametrize("digits", [1, 6])
def test_roc_and_its_area_are_scikit_learns(digits):
    """Rounded to one digit, most scores are tied."""
    labels = (LABELS > 1).astype(np.int32)
    scores = (0.3 * labels + RNG.random(200)).round(digits).astype(np.float32)
    found = metrics.roc_curve(scores, labels)
    assert found is not None
    expected = sklearn_metrics.roc_curve(labels, scores, drop_intermediate=False)
    for values, others in zip(found, expected, strict=False):
        np.testing.assert_allclose(values, others)
    area = metrics.area_under_roc(scores, labels)
    assert area is not None
    assert area == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores))
    assert metrics.area_under_roc(-scores, labels) == pytest.approx(1 - area)
    assert metrics.area_under_roc(np.ones(200), labels) == 0.5


def test_roc_of_one_class_or_of_nan_is_none():
    for scores, labels in (([0.1, 0.9], [1, 1]), ([0.1, 0.9], [0, 0]), ([0.1, np.nan], [0, 1])):
        assert metrics.roc_curve(np.array(scores), np.array(labels)) is None
        assert metrics.area_under_roc(np.array(scores), np.array(labels)) is None
