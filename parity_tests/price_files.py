"""One small table of prices in every layout that is read, and what refuses the others."""

from datetime import date
from pathlib import Path

import pytest

from jaxmodels.shared.data.price_sources import read_prices

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
TWO_TICKERS = """Price,Close,Close,Volume,Volume
Ticker,AAPL,META,AAPL,META
Date,,,,
2012-05-16,10.5,,100,
2012-05-17,11.5,,100,
2012-05-18,12.5,38.25,100,900
2012-05-21,13.5,34.0,100,
"""


def edit(old: str, new: str) -> str:
    assert YAHOO.count(old) == 1
    return YAHOO.replace(old, new)


def refuse(source: str, message: str, **options) -> str:
    with pytest.raises(ValueError, match=message) as caught:
        read_prices(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
