"""The figures of a sentiment run, also where a class is missing or the scores are useless."""

import numpy as np
import pytest

from jaxmodels.shared.plots import reviews as plots
from jaxmodels.shared.plots.figures import BLUE, SERIES
from parity_tests.pixels import contains_colour, pixels_of

LABELS = np.random.default_rng(0).integers(0, 2, 500)
SCORES = 1 / (1 + np.exp(-np.random.default_rng(1).normal(4 * LABELS - 2, 2)))


def test_roc_is_drawn_with_its_area(tmp_path, monkeypatch):
    plots.plot_roc(SCORES, LABELS, tmp_path / "new" / "r.png", title="run")
    assert contains_colour(pixels_of(tmp_path / "new" / "r.png"), BLUE)
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    plots.plot_roc(LABELS, LABELS, "unused", title="run")
    line = figures[0].axes[0].lines[0]
    assert line.get_label() == "area 1.0000, 500 examples"
    assert [list(line.get_xdata()), list(line.get_ydata())] == [[0, 0, 1], [0, 1, 1]]


@pytest.mark.parametrize(
    ("scores", "labels"), [(SCORES, np.ones(500, int)), (np.full(500, np.nan), LABELS)]
)
def test_roc_that_is_undefined_says_so(tmp_path, scores, labels):
    plots.plot_roc(scores, labels, tmp_path / "r.png", title="run")
    assert not contains_colour(pixels_of(tmp_path / "r.png"), BLUE)


def test_distribution_is_of_each_true_class(tmp_path, monkeypatch):
    names = ("negative", "$omewhat positive")
    plots.plot_sentiment_distribution(SCORES, LABELS, names, tmp_path / "d.png", title="run")
    array = pixels_of(tmp_path / "d.png")
    assert all(contains_colour(array, colour) for colour, _ in SERIES[:2])
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    plots.plot_sentiment_distribution(SCORES, LABELS, names, "unused", title="run")
    stairs = [
        patch for patch in figures[0].axes[0].patches if patch.get_label().startswith("truly")
    ]
    for number, patch in enumerate(stairs):
        shares = patch.get_data().values
        assert shares.sum() == pytest.approx(1)
        wrong_half = shares[:20] if number else shares[20:]
        own = SCORES[number == LABELS]
        assert wrong_half.sum() == pytest.approx(((own >= 0.5) != number).mean())


def test_distribution_bears_an_absent_class(tmp_path):
    names = ("negative", "positive")
    certain = np.ones(500), np.ones(500, int)
    plots.plot_sentiment_distribution(*certain, names, tmp_path / "d.png", title="run")
    pixels_of(tmp_path / "d.png")
