"""Every source of prices is read faithfully, or says why it gave none."""

import logging
import os
import sys

import numpy as np
import pandas
import pytest

from jaxmodels.shared.data.price_sources import read_prices
from parity_tests.price_files import (
    DATES,
    LAYOUTS,
    NUMBERS,
    TWO_TICKERS,
    YAHOO,
    lines,
    refuse,
    rows,
    write,
)

yfinance = pytest.importorskip("yfinance")

# ---- What is read


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_is_read_to_the_same_table(tmp_path, layout):
    prices = read_prices(write(tmp_path, LAYOUTS[layout]))
    assert prices.tickers == ("AAPL",)
    table = prices.frames["AAPL"]
    np.testing.assert_array_equal(table.dates, np.array(DATES, "datetime64[D]"))
    assert table.dates.dtype == "datetime64[D]"
    for name, values in NUMBERS.items():
        assert table.columns[name].dtype == np.float64
        np.testing.assert_array_equal(table.columns[name], values)
    assert prices.gaps == ()


def test_adjusted_close_is_kept_beside_the_close_or_stands_in_for_it(tmp_path):
    both = lines("Date,Close,Adj Close", rows("{date},{close},{low}"))
    table = read_prices(write(tmp_path, both)).frames["AAPL"]
    np.testing.assert_array_equal(table.columns["close"], NUMBERS["close"])
    np.testing.assert_array_equal(table.columns["adjusted_close"], NUMBERS["low"])
    alone = lines("Date,Adj Close", rows("{date},{low}"))
    table = read_prices(write(tmp_path, alone)).frames["AAPL"]
    assert list(table.columns) == ["close"]
    np.testing.assert_array_equal(table.columns["close"], NUMBERS["low"])


def test_further_column_keeps_its_numbers_and_holes(tmp_path):
    text = lines("Date,Close,P/E Ratio", [*rows("{date},{close},"), "2013-01-08,3,17.5"])
    column = read_prices(write(tmp_path, text)).frames["AAPL"].columns["p_e_ratio"]
    np.testing.assert_array_equal(column, [np.nan] * 4 + [17.5])


def test_every_digit_survives(tmp_path):
    values = [0.1 + 0.2, 1e-5, 12345.678901234567, 1 / 3]
    text = lines("Date,Close", [f"{d},{v!r}" for d, v in zip(DATES, values, strict=True)])
    table = read_prices(write(tmp_path, text)).frames["AAPL"]
    assert table.columns["close"].tolist() == values


def test_folder_has_a_ticker_a_file(tmp_path):
    write(tmp_path, YAHOO, "MSFT.csv")
    write(tmp_path, LAYOUTS["descending"], "brk.b.txt")
    write(tmp_path, "not a table", "README.md")
    assert read_prices(str(tmp_path)).tickers == ("BRK.B", "MSFT")
    assert read_prices(str(tmp_path), tickers=("msft",)).tickers == ("MSFT",)
    write(tmp_path, "broken", "TSLA.csv")  # not asked for, so not read
    assert read_prices(str(tmp_path), tickers=("MSFT", "BRK.B")).tickers == ("MSFT", "BRK.B")


def test_ticker_that_was_not_traded_yet_has_no_row_but_no_hole(tmp_path):
    whole = TWO_TICKERS.replace("34.0,100,", "34.0,100,800")
    frames = read_prices(write(tmp_path, whole)).frames
    assert [len(frames[name]) for name in ("AAPL", "META")] == [4, 2]
    assert frames["META"].columns["close"].tolist() == [38.25, 34.0]
    with pytest.raises(ValueError, match=r"line 7 \(2012-05-21\), column Volume: ''"):
        read_prices(write(tmp_path, TWO_TICKERS))


def test_gaps_are_reported(tmp_path):
    text = YAHOO + "2013-01-17,1,1,1,1,1\n2013-01-28,1,1,1,1,1\n"
    prices = read_prices(write(tmp_path, text))
    assert prices.gaps == ("AAPL: no row between 2013-01-17 and 2013-01-28",)
    monthly = lines("Date,Close", [f"2013-{month:02}-01,5" for month in range(1, 13)])
    assert read_prices(write(tmp_path, monthly)).gaps == ()


def test_one_row_is_a_table(tmp_path):
    assert len(read_prices(write(tmp_path, "Date,Close\n2013-01-02,5\n")).frames["AAPL"]) == 1


def test_sample_is_real():
    prices = read_prices("sample")
    table = prices.frames["GOOG"]
    assert (len(table), prices.gaps) == (1047, ())
    assert table.columns["close"][0] == 100.34  # the first day of trading, 2004-08-19
    assert set(table.columns) == {"open", "high", "low", "close", "adjusted_close", "volume"}


def test_seasonal_sources():
    close = read_prices("seasonal").frames["SEASONAL"].columns["close"]
    logs = np.log(close)
    assert np.std(logs[20:] - logs[:-20]) < 0.01 < 0.03 < np.std(logs[1:] - logs[:-1])
    np.testing.assert_array_equal(
        close, read_prices("seasonal").frames["SEASONAL"].columns["close"]
    )
    co2 = read_prices("co2")
    assert co2.gaps == ()
    assert set(np.diff(co2.frames["CO2"].dates).astype(int)) == {7}


def test_season_is_the_sources_own_or_a_year(tmp_path):
    assert read_prices("sample").season is None  # of daily prices nobody knows one
    assert (read_prices("seasonal").season, read_prices("co2").season) == (20, 52)
    for days, season in ((1, None), (7, 52), (10, None), (30, 12)):
        dates = np.datetime64("2013-01-02") + days * np.arange(5)
        rows = "".join(f"{date},5\n" for date in dates)
        assert read_prices(write(tmp_path, f"Date,Close\n{rows}")).season == season


@pytest.mark.real
def test_real_prices_are_read():
    if "JAXMODELS_DATA" not in os.environ:
        pytest.skip("JAXMODELS_DATA is not set")
    prices = read_prices(os.environ["JAXMODELS_DATA"] + "/prices")
    assert prices.tickers == ("AAPL", "AMZN", "GOOGL", "META", "MSFT", "NVDA", "TSLA")
    assert {len(table) for table in prices.frames.values()} == {2768}
    assert prices.frames["AAPL"].columns["close"][0] == 19.608213424682617
    assert prices.gaps == ()


# ---- yfinance, for which a stand-in answers


def answer(monkeypatch, frame, *, complaint: str = "") -> list[dict]:
    """Lets yfinance.download return the frame, or raise it; -> the options of each call."""
    calls = []

    def download(tickers, **options):
        calls.append({"tickers": tickers, **options})
        if complaint:
            logging.getLogger("yfinance").error(complaint)
        if isinstance(frame, Exception):
            raise frame
        return frame

    monkeypatch.setattr(yfinance, "download", download)
    return calls


def frame_of(*tickers: str, missing: str = "") -> pandas.DataFrame:
    """What yfinance gives: columns (Price, Ticker), all NaN for a ticker it could not get."""
    columns = pandas.MultiIndex.from_product(
        [["Close", "High", "Low", "Open", "Volume"], tickers], names=["Price", "Ticker"]
    )
    frame = pandas.DataFrame(
        {key: NUMBERS[key[0].lower()] for key in columns},
        index=pandas.DatetimeIndex(DATES, name="Date"),
    )
    frame.columns = columns
    frame.loc[:, [key for key in columns if key[1] == missing]] = np.nan
    return frame


def test_yfinance_frame_is_read(monkeypatch):
    calls = answer(monkeypatch, frame_of("AAPL", "MSFT"))
    prices = read_prices("yfinance:msft, AAPL")
    assert set(prices.tickers) == {"AAPL", "MSFT"}
    for table in prices.frames.values():
        np.testing.assert_array_equal(table.dates, np.array(DATES, "datetime64[D]"))
        for name, values in NUMBERS.items():
            np.testing.assert_array_equal(table.columns[name], values)
    (call,) = calls
    assert call["tickers"] == ["msft", "AAPL"]
    assert call["auto_adjust"] is True
    assert call["period"] == "max"
    assert "adjusted" in prices.source


def test_yfinance_hole_is_refused(monkeypatch):
    frame = frame_of("AAPL")
    frame.iloc[2, 0] = np.nan
    answer(monkeypatch, frame)
    refuse("yfinance:AAPL", r"yfinance:AAPL line 6 \(2013-01-04\), column Close: ''")


RATE_LIMIT = "['AAPL']: YFRateLimitError('Too Many Requests. Rate limited. Try after a while.')"


@pytest.mark.parametrize(
    ("frame", "complaint", "message"),
    [
        (frame_of("AAPL").iloc[:0], "", r"no prices of AAPL \(an empty table, no reason\); check"),
        (pandas.DataFrame(), "", "no prices of AAPL"),
        (None, "", "no prices of AAPL"),
        (
            frame_of("AAPL").iloc[:0],
            "\n1 Failed download:\n['AAPL']: possibly delisted; no timezone found",
            r"no prices of AAPL \(1 Failed .*delisted; no timezone found\); check the ticker",
        ),
        (frame_of("AAPL").iloc[:0], RATE_LIMIT, r"Too Many Requests.*; wait some minutes and try"),
        (yfinance.exceptions.YFRateLimitError(), "", r"YFRateLimitError: .*; wait some minutes"),
        (OSError("Could not resolve host"), "", "resolve host.*--source sample or --source PATH"),
    ],
    ids=["empty", "no columns", "none", "bad ticker", "rate limit", "raised", "no network"],
)
def test_yfinance_without_prices_says_why(monkeypatch, frame, complaint, message):
    answer(monkeypatch, frame, complaint=complaint)
    refuse("yfinance:AAPL", message)
    assert not logging.getLogger("yfinance").handlers


def test_yfinance_bad_ticker_among_good_ones_is_named(monkeypatch):
    answer(monkeypatch, frame_of("AAPL", "NOPE", missing="NOPE"))
    refuse("yfinance:AAPL,NOPE", "Yahoo gave no prices of NOPE ")


@pytest.mark.parametrize("source", ["yfinance", "yfinance:", "yfinance:AAPL,,MSFT"])
def test_yfinance_needs_tickers(source):
    refuse(source, "names no ticker; expected yfinance:AAPL or yfinance:AAPL,MSFT")


def test_yfinance_itself_without_a_network(monkeypatch):
    """No stand-in: a proxy where nothing listens."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    refuse("yfinance:AAPL", "Yahoo gave no prices of AAPL .*--source sample or --source PATH")


@pytest.mark.parametrize(
    ("source", "module"), [("yfinance:AAPL", "yfinance"), ("co2", "statsmodels.datasets")]
)
def test_missing_library_names_its_extra(monkeypatch, source, module):
    monkeypatch.setitem(sys.modules, module, None)
    refuse(source, r"pip install 'jaxmodels\[forecast\]'")
