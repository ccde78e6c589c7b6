"""Every source of prices is read faithfully, or refused in one line: what, where, the mend."""

import logging
import os
import re
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxmodels.shared.data.price_sources import Prices, read_prices
from parity_tests.tiny_runs import clean_environment

yfinance = pytest.importorskip("yfinance")

DATES = ["2013-01-02", "2013-01-03", "2013-01-04", "2013-01-07"]
NUMBERS = {
    "open": [1019.5, 1020.25, 998.0, 1001.0],
    "high": [1030.0, 1021.5, 1002.75, 1009.0],
    "low": [1011.125, 1000.5, 990.0, 1000.0],
    "close": [1020.0, 1001.0625, 1001.5, 1002.0],
    "volume": [5000000.0, 4200000.0, 0.0, 3100000.0],
}


def write(folder: Path, text: str | bytes, name: str = "AAPL.csv") -> str:
    file = folder / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(file)


def lines(header: str, rows: list[str], *, descending: bool = False) -> str:
    return "\n".join([header, *(rows[::-1] if descending else rows)]) + "\n"


def rows(pattern: str, *, day: str = "%Y-%m-%d") -> list[str]:
    """Each row of NUMBERS through a format string."""
    days = [date.fromisoformat(text).strftime(day) for text in DATES]
    return [
        pattern.format(
            date=text, row=row, **{name: values[row] for name, values in NUMBERS.items()}
        )
        for row, text in enumerate(days)
    ]


PLAIN = "{date},{open},{high},{low},{close},{volume:.0f}"
HEADER = "Date,Open,High,Low,Close,Volume"
YAHOO = lines(HEADER, rows(PLAIN))
MONEY = '"${close:,.4f}","{volume:,.0f}","${open:,.4f}","${high:,.4f}","${low:,.4f}"'
LAYOUTS = {
    "yahoo": YAHOO,
    "descending": lines(HEADER, rows(PLAIN), descending=True),
    "nasdaq": lines(
        "Date, Close/Last, Volume, Open, High, Low",
        rows("{date}," + MONEY, day="%m/%d/%Y"),
        descending=True,
    ),
    "kaggle": lines(
        "date,volume,open,high,low,close,Name",
        rows("{date},{volume:.1f},{open},{high},{low},{close},AAL"),
    ),
    "yfinance of old": lines(
        "Price,Close,High,Low,Open,Volume",
        [
            "Ticker,AAPL,AAPL,AAPL,AAPL,AAPL",
            "Date,,,,,",
            *rows("{date},{close},{high},{low},{open},{volume:.0f}"),
        ],
    ),
    "yfinance history": lines(
        f"{HEADER},Stock Splits",
        rows("{date}," + PLAIN.partition(",")[2] + ",0.0", day="%Y-%m-%d 00:00:00-05:00"),
    ),
    "pandas": lines(f",{HEADER}", rows("{row}," + PLAIN)),
    "old dates": lines(HEADER, rows(PLAIN, day="%d-%b-%y"), descending=True),
    "windows": "\ufeff" + YAHOO.replace("Date", '"Date"').replace("\n", "\r\n") + "\r\n\r\n",
}


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


TWO_TICKERS = """Price,Close,Close,Volume,Volume
Ticker,AAPL,META,AAPL,META
Date,,,,
2012-05-16,10.5,,100,
2012-05-17,11.5,,100,
2012-05-18,12.5,38.25,100,900
2012-05-21,13.5,34.0,100,
"""


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


@pytest.mark.real
def test_real_prices_are_read():
    if "JAXMODELS_DATA" not in os.environ:
        pytest.skip("JAXMODELS_DATA is not set")
    prices = read_prices(os.environ["JAXMODELS_DATA"] + "/prices")
    assert prices.tickers == ("AAPL", "AMZN", "GOOGL", "META", "MSFT", "NVDA", "TSLA")
    assert {len(table) for table in prices.frames.values()} == {2768}
    assert prices.frames["AAPL"].columns["close"][0] == 19.608213424682617
    assert prices.gaps == ()


# ---- What is wrong with a file


def edit(old: str, new: str) -> str:
    assert YAHOO.count(old) == 1
    return YAHOO.replace(old, new)


HEADER_WANTED = "expected a header line with a column Date and a column Close"
DAMAGES = {
    "empty": ("", f"is empty; {HEADER_WANTED}"),
    "blank": ("\n\n", f"is empty; {HEADER_WANTED}"),
    "header alone": (HEADER + "\n", "has no rows; expected at least one price"),
    "no header": ("2013-01-02,5\n", f"has no column Date; {HEADER_WANTED}.*found '2013-01-02, 5'"),
    "no close": ("Date,Open\n2013-01-02,5\n", f"has no column Close; {HEADER_WANTED}"),
    "date alone": ("Date\n2013-01-02\n", f"has no single Date and Close; {HEADER_WANTED}"),
    "two closes": ("Date,Close,Close/Last\n2013-01-02,5,5\n", "has two columns close; .*rename"),
    "two dates": ("Date,Date,Close\n2013-01-02,2013-01-02,5\n", "has no single Date"),
    "semicolons": (YAHOO.replace(",", ";"), "has no column Date; .*found 'Date;Open;High"),
    "short line": (edit(",1001.0,1009.0", ""), "line 5 has 4 cells; expected 6 like the header"),
    "not a date": (edit("2013-01-03", "yesterday"), "line 3, column Date: 'yesterday' is not a"),
    "date and more": (edit("2013-01-03", "2013-01-03x"), "'2013-01-03x' is not a date"),
    "day first": (edit("2013-01-03", "13/01/2013"), "'13/01/2013' .*YYYY-MM-DD or MM/DD/YYYY"),
    "no such day": (edit("2013-01-03", "2013-02-30"), "'2013-02-30' is not a date"),
    "duplicate": (
        edit("2013-01-03", "2013-01-02"),
        r"line 3, column date: 2013-01-02 repeats the date of line 2 .* one row a day",
    ),
    "unordered": (
        edit("2013-01-03", "2013-01-05"),
        r"line 4, column date: 2013-01-04 is out of order after line 3 \(2013-01-05\); .*ascend",
    ),
    "unordered descending": (
        LAYOUTS["descending"].replace("2013-01-03", "2013-01-05"),
        r"line 4, column date: 2013-01-05 is out of order after line 3 \(2013-01-04\); .*descend",
    ),
    "missing price": (edit("1001.0625", ""), r"line 3 \(2013-01-03\), column Close: ''; expected"),
    "missing open": (edit("1020.25", ""), r"line 3 \(2013-01-03\), column Open: ''; expected"),
    "broken header": (
        'Date,"Close\n"\n2013-01-02,none\n',
        "column Close: 'none'; expected a price",
    ),
    "null": (edit("1001.0625", "null"), "column Close: 'null'; expected a price above 0"),
    "nan": (edit("1001.0625", "NaN"), "column Close: 'NaN'; expected a price above 0"),
    "infinite": (edit("1001.0625", "inf"), "column Close: 'inf'"),
    "overflow": (edit("1001.0625", "1e999"), "column Close: '1e999'"),
    "underscore": (edit("1001.0625", "1_001"), "column Close: '1_001'"),
    "decimal comma": (edit("1001.0625", '"12,5"'), "column Close: '12,5'"),
    "zero": (
        edit("1001.0625", "0"),
        r"line 3 \(2013-01-03\), column close: '0.0'; expected a price",
    ),
    "negative": (edit("1020.25", "-$1,020.25").replace("-$1,020.25", '"-$1,020.25"'), "'-1020.25'"),
    "volume": (edit("4200000", "-1"), r"column volume: '-1.0'; expected 0 or more; mend or remove"),
    "no volume": (edit("4200000", "N/A"), "column Volume: 'N/A'; expected 0 or more"),
    "not text": (b"\x89PNG\r\n\x1a\n\x00", "line 1 is not CSV in UTF-8"),
    "utf-16": (YAHOO.encode("utf-16"), "is not CSV in UTF-8"),
    "open quote": (edit("1001.0625", '"1001'), "line 6 is not CSV in UTF-8 .*end of data"),
    "yfinance header cut": ("Price,Close\nTicker,AAPL\n", "begins with Price is yfinance's"),
}


def refuse(source: str, message: str, **options) -> str:
    with pytest.raises(ValueError, match=message) as caught:
        read_prices(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_file_is_refused(tmp_path, name):
    content, message = DAMAGES[name]
    file = write(tmp_path, content)
    assert refuse(file, message).startswith(file)
    assert refuse(str(tmp_path), message).startswith(file)


def test_wrong_path_or_ticker_is_refused(tmp_path):
    refuse(str(tmp_path / "none"), "does not exist; expected sample, seasonal, co2, yfinance:")
    refuse(str(tmp_path), "holds no CSV file; expected one a ticker, as AAPL.csv")
    file = write(tmp_path, YAHOO)
    refuse(file, "has no MSFT, TSLA; expected tickers among AAPL", tickers=("MSFT", "TSLA"))
    refuse(str(tmp_path), "has no MSFT; expected tickers among AAPL", tickers=("MSFT",))
    twin = write(tmp_path, YAHOO, "aapl.txt")
    assert refuse(str(tmp_path), "is of the same ticker as AAPL.csv; move").startswith(twin)
    refuse("sample", "source sample has no AAPL; expected tickers among GOOG", tickers=("AAPL",))


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


# ---- Fuzz: a sound table or one line, never another exception


def check_prices(prices: Prices) -> None:
    for table in prices.frames.values():
        assert len(table) >= 1
        assert (np.diff(table.dates).astype(int) > 0).all()
        assert (table.columns["close"] > 0).all()
        assert all(len(values) == len(table) for values in table.columns.values())
        for name in {"open", "high", "low", "close", "adjusted_close"} & set(table.columns):
            assert np.isfinite(table.columns[name]).all()


def read_or_refuse(folder: Path, content: bytes) -> None:
    file = write(folder, content)
    prices = refusal = None
    try:
        prices = read_prices(file)
    except ValueError as error:
        refusal = error
    if prices is not None:
        check_prices(prices)
    else:
        assert type(refusal) is ValueError, repr(refusal)
        assert str(refusal).startswith(file)
        assert len(str(refusal).splitlines()) == 1, str(refusal)


FUZZ = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
DAYS = st.dates(date(1990, 1, 1), date(2030, 1, 1)).map(str) | st.sampled_from(
    ["", "01/02/2013", "2013-01-02 00:00:00", "0001-01-01", "9999-12-31", "2013-W01-1", "20130102"]
)
CELLS = st.sampled_from(
    [*("", " ", "null", "nan", "-inf", "1e308", "1e-320", "0", "-1", "1,234", "$1,234.5", "$", "٣")]
) | st.floats(0.01, 1e6).map(str)
NAMES = st.sampled_from(
    [*("Date", "date", "Open", "Close", "Close/Last", "Adj Close", "Volume", "Price", "Ticker", "")]
)
LINES = st.lists(st.lists(DAYS | CELLS | NAMES, max_size=4).map(",".join), max_size=5)


@FUZZ
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode("utf-8", "replace")))
def test_any_bytes(tmp_path, content):
    read_or_refuse(tmp_path, content)


@FUZZ
@given(st.lists(NAMES, max_size=5).map(",".join), LINES)
def test_any_table(tmp_path, header, body):
    read_or_refuse(tmp_path, "\n".join([header, *body]).encode())


@FUZZ
@given(st.lists(st.tuples(DAYS, CELLS, CELLS), min_size=1, max_size=4, unique_by=lambda r: r[0]))
def test_any_rows_under_a_good_header(tmp_path, body):
    body = sorted(body)
    text = "\n".join(["Date,Close,Volume", *(f'{d},"{c}","{v}"' for d, c, v in body)])
    read_or_refuse(tmp_path, text.encode())


@FUZZ
@given(
    st.sampled_from([text.encode() for text in (*LAYOUTS.values(), TWO_TICKERS)]),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 9), st.binary(max_size=4)), max_size=3),
)
def test_any_edit_of_a_good_file(tmp_path, content, edits):
    for start, length, new in edits:
        content = content[:start] + new + content[start + length :]
    read_or_refuse(tmp_path, content)


@FUZZ
@given(
    st.lists(
        st.tuples(st.floats(1e-3, 1e9), st.integers(0, 10**12), st.integers(1, 400)),
        min_size=1,
        max_size=20,
    ),
    st.booleans(),
    st.booleans(),
)
def test_any_good_file_is_read(tmp_path, body, descending, money):
    """The control of the tests above: what is sound is not refused, and comes back to the bit."""
    day, days = date(1990, 1, 1), []
    for _, _, step in body:
        day += timedelta(days=step)
        days.append(str(day))
    cells = [(f'"${c:,.17f}"', f'"{v:,}"') if money else (repr(c), str(v)) for c, v, _ in body]
    text = [f"{d},{c},{v}" for d, (c, v) in zip(days, cells, strict=True)]
    file = write(tmp_path, lines("Date,Close,Volume", text, descending=descending))
    table = read_prices(file).frames["AAPL"]
    assert table.dates.astype(str).tolist() == days
    wanted = [float(f"{c:.17f}") if money else c for c, _, _ in body]
    assert table.columns["close"].tolist() == wanted
    assert table.columns["volume"].tolist() == [v for _, v, _ in body]


# ---- Size

BIG = """
import resource, sys
from jaxmodels.shared.data.price_sources import read_prices
from jaxmodels.shared.data.series import SeriesDataConfig, make_windows
read_prices("sample")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
prices = read_prices(sys.argv[1])
data = make_windows(prices, SeriesDataConfig(features=("log_return", "rsi_14")))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(prices.frames["BIG"]), len(data.train), (after - before) / 1024)
"""


@pytest.mark.slow
def test_a_million_rows_in_bounded_memory(tmp_path):
    first = date(1, 1, 1).toordinal()
    with open(tmp_path / "BIG.csv", "w") as file:
        file.write("Date,Open,High,Low,Close,Volume\n")
        for row in range(1_000_000):
            day = date.fromordinal(first + row)
            file.write(f"{day},9.5,{11 + row % 7}.5,9.25,{10 + row % 11}.125,{1000 + row}\n")
    done = subprocess.run(
        [sys.executable, "-c", BIG, str(tmp_path / "BIG.csv")],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows, windows, mebibytes = done.stdout.split()
    assert int(rows) == 1_000_000
    assert int(windows) > 600_000
    # The text alone would be 50 as bytes and 500 as Python strings; the windows of 60, 480.
    assert float(mebibytes) < 400


def test_error_of_a_long_cell_is_short(tmp_path):
    message = refuse(write(tmp_path, f"Date,Close\n2013-01-02,{'x' * 9000}\n"), "column Close")
    assert len(re.sub(r"^\S+ ", "", message)) < 200
