"""The figures of a run: each is written, whole and readable, also where the data are awkward."""

import numpy as np
import pytest

from jaxmodels.shared.plots import runs as plots
from parity_tests.pixels import contains_colour, pixels_of

CLASS_NAMES = ("cat", "dog", "$hip_with_a_rather_long_name$", "frog")


def history_of(epochs: int, *, validation: bool) -> list[dict]:
    rows = []
    for epoch in range(1, epochs + 1):
        row = {"epoch": epoch, "learning_rate": 0.1}
        row |= {"train_loss": 2 / epoch, "train_accuracy": 1 - 0.7 / epoch}
        row["validation_loss"] = 2.2 / epoch if validation else None
        row["validation_accuracy"] = 0.95 - 0.7 / epoch if validation else None
        rows.append(row)
    return rows


@pytest.fixture
def predictions() -> dict:
    """40 images with labels, predictions and confidences; every third prediction is wrong."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 40)
    return {
        "images": random.integers(0, 256, (40, 9, 9, 3), dtype=np.uint8),
        "labels": labels,
        "predictions": np.where(np.arange(40) % 3 == 0, (labels + 1) % 4, labels),
        "confidences": random.uniform(0.3, 1.0, 40),
        "class_names": CLASS_NAMES,
    }


@pytest.mark.parametrize("epochs", [1, 3, 40])
@pytest.mark.parametrize("validation", [True, False])
def test_curves_show_validation_only_where_it_exists(tmp_path, epochs, validation):
    plots.plot_curves(history_of(epochs, validation=validation), tmp_path / "c.png", title="run")
    array = pixels_of(tmp_path / "c.png")
    assert contains_colour(array, plots.BLUE)
    assert contains_colour(array, plots.VERMILION) == validation


def test_curves_of_a_diverged_run_are_drawn(tmp_path):
    history = history_of(3, validation=True)
    history[-1]["train_loss"] = float("nan")
    plots.plot_curves(history, tmp_path / "c.png", title="a title that is long " * 9)
    pixels_of(tmp_path / "c.png")


@pytest.mark.parametrize("plot", [plots.plot_confusion_matrix, plots.plot_per_class_accuracy])
@pytest.mark.parametrize("num_classes", [4, 100])
def test_class_figures_bear_an_absent_class(tmp_path, plot, num_classes):
    random = np.random.default_rng(1)
    labels = random.integers(0, num_classes - 1, 600)  # the last class has no example
    predicted = np.where(random.random(600) < 0.7, labels, random.integers(0, num_classes, 600))
    names = CLASS_NAMES if num_classes == 4 else [f"class {i}" for i in range(num_classes)]
    plot(labels, predicted, names, tmp_path / "new" / "figure.png", title="test set")
    pixels_of(tmp_path / "new" / "figure.png")


def test_confusion_matrix_puts_the_true_class_in_rows(tmp_path):
    """All of class 0 predicted as 3: ink in the upper right of the matrix, not the lower left."""
    for name, labels, predicted in (("upper", 0, 3), ("lower", 3, 0)):
        pair = np.full(9, labels), np.full(9, predicted)
        plots.plot_confusion_matrix(*pair, CLASS_NAMES, tmp_path / f"{name}.png", title="t")
    dark = {}
    for name in ("upper", "lower"):
        array = pixels_of(tmp_path / f"{name}.png")[:, :-150]  # without the colour bar
        rows, _ = np.nonzero((np.abs(array.astype(int) - (8, 48, 107)).max(axis=-1)) <= 4)
        dark[name] = rows.mean()
    assert dark["upper"] < dark["lower"] - 100


@pytest.mark.parametrize(("num_images", "channels"), [(1, 1), (7, 3), (40, 1)])
def test_sample_predictions_mark_right_and_wrong(tmp_path, predictions, num_images, channels):
    arguments = {k: v if k == "class_names" else v[:num_images] for k, v in predictions.items()}
    arguments["images"] = arguments["images"][..., :channels]
    plots.plot_sample_predictions(**arguments, path=tmp_path / "s.png", title="test set")
    array = pixels_of(tmp_path / "s.png")
    if channels == 1:  # the noise of a colour image holds every colour
        assert contains_colour(array, plots.RED)
        assert contains_colour(array, plots.GREEN) == (num_images > 1)


def captions_of(monkeypatch) -> list[tuple[str, str]]:
    """Records the captions instead of drawing the grid."""
    recorded = []
    monkeypatch.setattr(
        plots, "_image_grid", lambda _, captions, *args, **_k: recorded.extend(captions)
    )
    return recorded


def test_captions_differ_by_more_than_colour(monkeypatch, predictions):
    captions = captions_of(monkeypatch)
    plots.plot_sample_predictions(**predictions, path="unused.png", title="t")
    assert len(captions) == 24
    for i, (text, _) in enumerate(captions):
        assert text.startswith("✗" if i % 3 == 0 else "✓")
        assert ("true:" in text) == (i % 3 == 0)


def test_worst_misclassifications_are_the_surest_errors(monkeypatch, predictions):
    captions = captions_of(monkeypatch)
    predictions["predictions"][:] = (predictions["labels"] + 1) % 4  # 40 errors
    predictions["labels"][5] = predictions["predictions"][5]
    predictions["confidences"] = np.linspace(0.30, 0.69, 40)
    predictions["confidences"][5] = 1.0  # the surest of all, but right
    plots.plot_worst_misclassifications(**predictions, path="unused.png", title="t")
    percents = [int(text.split("(")[1].split("%")[0]) for text, _ in captions]
    assert percents == list(range(69, 45, -1))
    assert all("/ " in text for text, _ in captions)


def test_worst_misclassifications_say_when_there_is_none(tmp_path, monkeypatch, predictions):
    predictions["predictions"] = predictions["labels"]
    plots.plot_worst_misclassifications(**predictions, path=tmp_path / "w.png", title="test set")
    pixels_of(tmp_path / "w.png")
    said = []
    monkeypatch.setattr(plots, "_image_grid", lambda *_, when_empty, **_k: said.append(when_empty))
    plots.plot_worst_misclassifications(**predictions, path=tmp_path / "w.png", title="test set")
    assert said == ["no misclassification among 40 images"]


def test_confidence_is_never_rounded_up_to_certainty(monkeypatch, predictions):
    captions = captions_of(monkeypatch)
    predictions["confidences"][:2] = 0.9996, 1.0
    plots.plot_sample_predictions(**predictions, path="unused.png", title="t")
    assert ">99%" in captions[0][0]
    assert "100%" in captions[1][0]


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_wilson_interval_matches_the_published_values(hits, total, low, high):
    assert plots.wilson_interval(hits, total) == pytest.approx((low, high), abs=5e-5)


def test_plots_leave_the_global_state_of_matplotlib_alone(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.plot_curves(history_of(2, validation=True), tmp_path / "c.png", title="run")
    assert dict(matplotlib.rcParams) == before
