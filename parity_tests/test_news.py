"""The tone of dated texts as a feature of prices: aligned by date, nothing from the future."""

import csv
from pathlib import Path

import numpy as np
import pytest

from jaxmodels.shared.data.news import by_row, read_news
from jaxmodels.shared.data.series import SeriesDataConfig, load_series
from parity_tests.tiny_runs import call, refused

DAYS = np.array(["2024-01-05", "2024-01-08", "2024-01-09", "2024-01-11"], "datetime64[D]")


def test_a_text_counts_from_the_first_row_after_its_day() -> None:
    # Before all rows; on Friday; over the weekend twice; on two rows; on the last.
    days = ("01-04", "01-05", "01-06", "01-07", "01-09", "01-10", "01-11")
    dates = np.array([f"2024-{day}" for day in days], "datetime64[D]")
    mean, count = by_row(DAYS, dates[::-1], np.array([9, 0.5, 1, -1, 0.25, 0.75, 9])[::-1])
    np.testing.assert_array_equal(count, [0, 3, 0, 2])
    np.testing.assert_allclose(mean, [0, 0.5 / 3, 0, 0.5])


def test_no_row_knows_a_text_of_its_own_day_or_later() -> None:
    rng = np.random.default_rng(0)
    days = np.datetime64("2024-01-01") + np.sort(rng.choice(200, 120, replace=False))
    dates = np.datetime64("2023-12-20") + rng.integers(0, 230, 500)
    scores = rng.normal(size=500)
    mean, count = by_row(days, dates, scores)
    for row in range(len(days)):
        later = dates >= days[row]
        changed = by_row(days, dates, np.where(later, 100.0, scores))[0]
        np.testing.assert_array_equal(changed[: row + 1], mean[: row + 1])
        known = ~later & (dates >= days[row - 1]) & (row > 0)
        assert count[row] == known.sum()
        if known.any():  # and what was known does count
            assert by_row(days, dates, np.where(known, 100.0, scores))[0][row] == 100


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that learnt a word of each kind."""
    folder = tmp_path_factory.mktemp("tone")
    words = {"positive": "fine profit", "negative": "awful loss"}
    with open(folder / "reviews.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["review", "sentiment"])
        for number in range(200):
            label = ("positive", "negative")[number % 2]
            writer.writerow([f"the {words[label]} was {number} today", label])
    sizes = ("--model.embedding-dim", 8, "--model.hidden-dim", 8, "--data.max-length", 6)
    split = ("--data.split", "7:1:2", "--data.min-frequency", 1)
    flags = ("--source", folder / "reviews.csv", "--epochs", 6, "--batch-size", 20, *sizes)
    rate = (*split, "--optimizer.learning-rate", 0.02)
    code, printed, errors = call(
        "train", "imdb-lstm", "--engine", "torch", *flags, *rate, "--out", folder / "run"
    )
    assert code == 0, errors
    assert "accuracy 100.00%" in printed
    return folder / "run"


def write_prices(path: Path, days: np.ndarray, prices: np.ndarray) -> None:
    rows = [f"{day},{price!r}" for day, price in zip(days, prices.tolist(), strict=True)]
    path.write_text("\n".join(["Date,Close", *rows]))


def test_sentiment_is_a_column_that_a_forecast_reads(model: Path, tmp_path: Path) -> None:
    """The news of a day tells the next day's direction, three times in four."""
    rng = np.random.default_rng(1)
    days = np.busday_offset(np.datetime64("2024-01-01"), np.arange(300))
    moves = rng.choice([-0.01, 0.01], 300)
    write_prices(tmp_path / "ACME.csv", days, 100 * np.exp(np.cumsum(moves)))
    told = np.where(rng.random(299) < 0.75, moves[1:], -moves[1:])
    text = {True: "a fine profit, was it not", False: "an awful loss"}
    with open(tmp_path / "news.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Date", "Headline"])
        writer.writerows([day, text[move > 0]] for day, move in zip(days[:-1], told, strict=True))
    out = tmp_path / "with" / "ACME.csv"
    flags = ("--model", model, "--out", out)
    code, printed, errors = call(
        "add_sentiment", tmp_path / "news.csv", tmp_path / "ACME.csv", *flags
    )
    assert code == 0, errors
    assert "299 of 299 texts, on 299 of 300 rows" in printed
    config = SeriesDataConfig(features=("log_return", "sentiment", "news"), scaler="none", window=1)
    data = load_series(str(out), config)
    returns, sentiment, news = data.train.inputs(np.arange(len(data.train)))[:, 0].T
    assert (news == 1).all()
    assert np.corrcoef(returns, sentiment)[0, 1] > 0.3  # told of the row's own move, the day before
    assert abs(np.corrcoef(returns[:-1], sentiment[1:])[0, 1]) < 0.25
    assert "is there already" in refused(
        "add_sentiment", tmp_path / "news.csv", tmp_path / "ACME.csv", *flags
    )
    found = refused(
        *("add_sentiment", tmp_path / "news.csv", out, "--model", model),
        *("--out", tmp_path / "again.csv"),
    )
    assert "has a column sentiment already" in found


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "expected a column date"),
        ("date,words\n2024-01-01,fine\n", "expected a column date and a column text, headline"),
        ("date,text\n", "has no rows"),
        ("date,text\n2024-13-01,fine\n", "line 2: '2024-13-01' is not a date"),
        ("date,text\n2024-01-01,\n", "line 2: the text is empty"),
        ("date,text\n2024-01-01,fine,more\n", "line 2: 3 cells; expected 2"),
        ('date,text\n2024-01-01,"fine\n', "is not CSV"),
    ],
)
def test_bad_news_is_named(content: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "news.csv").write_text(content)
    with pytest.raises(ValueError, match=r"news\.csv") as error:
        read_news(tmp_path / "news.csv")
    assert fault in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "news.csv").write_bytes(b"date,text\n2024-01-01,\xff\xfe\n")
    with pytest.raises(ValueError, match=r"news\.csv"):
        read_news(tmp_path / "news.csv")
    with pytest.raises(ValueError, match="is no file"):
        read_news(tmp_path / "none.csv")
