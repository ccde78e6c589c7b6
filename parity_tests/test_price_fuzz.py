"""Any file is a sound table or one line of refusal, in bounded memory."""

import re
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxmodels.shared.data.price_sources import Prices, read_prices
from parity_tests.price_files import LAYOUTS, TWO_TICKERS, lines, refuse, write
from parity_tests.tiny_runs import clean_environment


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
import sys
from jaxmodels.shared.data.price_sources import read_prices
from jaxmodels.shared.data.series import SeriesDataConfig, make_windows
from jaxmodels.shared.memory import peak_memory_bytes
read_prices("sample")
before = peak_memory_bytes()
prices = read_prices(sys.argv[1])
data = make_windows(prices, SeriesDataConfig(features=("log_return", "rsi_14")))
after = peak_memory_bytes()
print(len(prices.frames["BIG"]), len(data.train), (after - before) / 2**20)
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
