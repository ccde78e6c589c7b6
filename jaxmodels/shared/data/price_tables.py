"""Rows of prices to checked tables: one reader for every CSV layout, one set of rules.

Every source of prices ends here, so a bad row is refused once, in one wording, with its file, line,
date and column. Nothing is filled in and no price is changed.

>>> with open("AAPL.csv") as file:
...     read_csv(file, where="AAPL.csv", ticker="AAPL")["AAPL"].columns["close"][:2]
array([19.60821342, 19.36071396])
"""

import csv
import math
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime

import numpy as np

PRICE_COLUMNS = ("open", "high", "low", "close", "adjusted_close")
GAP_LIMIT_DAYS = 10  # beyond a long weekend or the Chinese New Year

_ALIASES = {
    "close_last": "close",  # Nasdaq
    "adj_close": "adjusted_close",  # Yahoo, Kaggle
    "adjclose": "adjusted_close",
    "vol": "volume",
}
_EXPECTED_HEADER = "a header line with a column Date and a column Close, Close/Last or Adj Close"
_EXPECTED_DATE = "expected YYYY-MM-DD or MM/DD/YYYY"
_DATE_FORMATS = ("%m/%d/%Y", "%b %d, %Y", "%d-%b-%y", "%d-%b-%Y")
_AMOUNT = re.compile(r"(-?)\$?(\d{1,3}(?:,\d{3})+|\d+)(\.\d*)?")  # 12,5 is not 125: refused
_EPOCH = date(1970, 1, 1).toordinal()


@dataclass(frozen=True)
class PriceTable:
    """The rows of one ticker, from the oldest to the newest.

    dates: (N,) datetime64[D], strictly ascending. columns: name -> (N,) float64. `close` is always
    there; prices are positive, `volume` is not negative. A column beyond those keeps its numbers,
    and has NaN where a cell holds none: `load_series` refuses it if a config asks for it.
    """

    dates: np.ndarray
    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.dates)


def read_csv(lines: Iterable[str], *, where: str, ticker: str) -> dict[str, PriceTable]:
    """Reads the layouts of Yahoo, Nasdaq, Kaggle and yfinance -> a table a ticker.

    Dates ascend or descend, cells may have a `$` and thousands separators, and a file with Adj
    Close alone takes it as its close. yfinance's header of three lines (Price, Ticker, Date) names
    its tickers; if there are several, a row where one has no number at all is a day on which only
    the others were traded. Memory is 8 bytes a number.

    Raises:
        ValueError: no such header, no rows, or the first bad one, with its line.
    """
    reader = csv.reader(lines, strict=True)
    try:
        rows = list(_read_rows(reader, where, ticker))
    except (csv.Error, UnicodeError) as error:
        raise ValueError(
            f"{where} line {reader.line_num + 1} is not CSV in UTF-8 ({error}); expected "
            f"comma-separated text; export the file again"
        ) from error
    return {
        own.ticker: check_table(
            (np.array(own.days, np.int64) - _EPOCH).astype("datetime64[D]"),
            {name: np.array(values) for name, values in own.values.items()},
            where=where if len(rows) == 1 else f"{where}: {own.ticker}",
            place=lambda row, lines=own.lines: f"line {lines[row]}",
        )
        for own in rows
    }


def check_table(
    dates: np.ndarray,
    columns: dict[str, np.ndarray],
    *,
    where: str,
    place: Callable[[int], str] = "row {}".format,
) -> PriceTable:
    """dates: (N,) datetime64[D], columns: name -> (N,) float64 -> the table, oldest row first.

    `place` names a row in errors.

    Raises:
        ValueError: no rows, no close, dates that repeat or turn, a price that is not positive.
    """
    if not len(dates):
        raise ValueError(f"{where} has no rows; expected at least one price; fetch the data again")
    if "close" not in columns:
        raise ValueError(f"{where} has no column close; expected {_EXPECTED_HEADER}")
    steps = np.diff(dates).astype(np.int64)
    descending = dates[0] > dates[-1]
    wrong = np.flatnonzero(steps >= 0 if descending else steps <= 0)
    if wrong.size:
        row = int(wrong[0]) + 1
        order = "descend" if descending else "ascend"
        fault = "repeats the date of" if steps[row - 1] == 0 else "is out of order after"
        raise ValueError(
            f"{where} {place(row)}, column date: {dates[row]} {fault} {place(row - 1)} "
            f"({dates[row - 1]}); expected one row a day whose dates {order}; sort or mend the rows"
        )
    for name, values in columns.items():
        if name not in (*PRICE_COLUMNS, "volume"):
            continue
        good = values >= 0 if name == "volume" else values > 0  # NaN is neither
        bad = np.flatnonzero(~(good & np.isfinite(values)))
        if bad.size:
            row = int(bad[0])
            raise ValueError(_bad_number(where, place(row), dates[row], name, values[row]))
    if descending:
        dates = dates[::-1].copy()
        columns = {name: values[::-1].copy() for name, values in columns.items()}
    return PriceTable(dates, columns)


def find_gaps(table: PriceTable) -> list[tuple[np.datetime64, np.datetime64]]:
    """The (last day before, first day after) of each stretch of days without a row.

    A stretch counts from `GAP_LIMIT_DAYS` days on, or, in a weekly or monthly table, from three
    times the usual step on.
    """
    if len(table) < 2:
        return []
    steps = np.diff(table.dates).astype(np.int64)
    gaps = np.flatnonzero(steps > max(GAP_LIMIT_DAYS, 3 * float(np.median(steps))))
    return [(table.dates[row], table.dates[row + 1]) for row in gaps]


@dataclass
class _Rows:
    """The rows of one ticker while they are read. cells: column -> its place in a line."""

    ticker: str
    cells: dict[str, int]
    lines: array = field(default_factory=lambda: array("q"))
    days: array = field(default_factory=lambda: array("q"))
    values: dict[str, array] = field(default_factory=dict)


def _read_rows(reader: Iterator[list[str]], where: str, ticker: str) -> list[_Rows]:
    """`reader` is csv.reader's, whose `line_num` is the last line it has read."""
    header, tickers, date_cell = _read_header(reader, where, ticker)
    for number, cells in _numbered(reader):
        place = f"{where} line {number}"
        if len(cells) != len(header):
            raise ValueError(
                f"{place} has {len(cells)} cells; expected {len(header)} like the header; "
                f"mend the line"
            )
        day = parse_date(cells[date_cell])
        if day is None:
            raise ValueError(
                f"{place}, column {header[date_cell]}: {cells[date_cell][:40]!r} is not a date; "
                f"{_EXPECTED_DATE}; mend the line"
            )
        for rows in tickers:
            if len(tickers) > 1 and not any(cells[cell].strip() for cell in rows.cells.values()):
                continue
            for name, cell in rows.cells.items():
                value = _parse_number(cells[cell])
                if math.isnan(value) and name in (*PRICE_COLUMNS, "volume"):
                    raise ValueError(
                        _bad_number(where, f"line {number}", day, header[cell], cells[cell])
                    )
                rows.values[name].append(value)
            rows.lines.append(number)
            rows.days.append(day.toordinal())
    return tickers


def _read_header(
    reader: Iterator[list[str]], where: str, ticker: str
) -> tuple[list[str], list[_Rows], int]:
    """-> the header as it is written, the empty rows of each ticker, and the place of the date."""
    lines = _numbered(reader)
    _, header = next(lines, (0, []))
    header = [" ".join(text.split()) for text in header]  # errors quote it, in one line
    if not header:
        raise ValueError(f"{where} is empty; expected {_EXPECTED_HEADER}")
    names = [_column_name(text) for text in header]
    owners = [ticker] * len(names)
    if names[0] == "price":  # yfinance's header: Price, Ticker and Date, each with its line
        (_, owners), (_, third) = next(lines, (0, [""])), next(lines, (0, [""]))
        if [owners[0], third[0]] != ["Ticker", "Date"] or len(owners) != len(names):
            raise ValueError(
                f"{where}: a header that begins with Price is yfinance's; expected its lines "
                f"Ticker and Date below it, as long as the first; export the file again"
            )
        names[0], owners[0] = "date", ""
    if "date" not in names:
        raise ValueError(f"{where} has no column Date; {_found(header)}")
    tickers = {}
    for cell, (name, owner) in enumerate(zip(names, owners, strict=True)):
        owner = " ".join(owner.split())
        if name in ("", "date"):  # the row numbers that pandas writes have no name
            continue
        rows = tickers.setdefault(owner, _Rows(owner, {}))
        if name in rows.cells:
            raise ValueError(f"{where} has two columns {name}; {_found(header)}; rename one")
        rows.cells[name] = cell
    for rows in tickers.values():
        if "close" not in rows.cells and "adjusted_close" in rows.cells:
            rows.cells["close"] = rows.cells.pop("adjusted_close")
        if "close" not in rows.cells:
            raise ValueError(f"{where} has no column Close; {_found(header)}")
        rows.values.update({name: array("d") for name in rows.cells})
    if not tickers or names.count("date") > 1:
        raise ValueError(f"{where} has no single Date and Close; {_found(header)}")
    return header, list(tickers.values()), names.index("date")


def _numbered(reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    """The lines that are not blank, with their numbers."""
    for cells in reader:
        if cells:
            yield reader.line_num, cells  # type: ignore[attr-defined]


def _column_name(text: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return _ALIASES.get(name, name)


def parse_date(text: str) -> date | None:
    """A day, of which a time may follow: yfinance writes 2013-01-02 00:00:00-05:00."""
    text = text.strip()
    try:
        if text[10:11] in ("", " ", "T"):
            return date.fromisoformat(text[:10])
    except ValueError:
        pass
    for layout in _DATE_FORMATS:
        try:
            return datetime.strptime(text, layout).date()
        except ValueError:
            continue
    return None


def _parse_number(text: str) -> float:
    """NaN for anything but a finite number, which may have a `$` and thousands separators."""
    try:
        value = float(text)
    except ValueError:
        match = _AMOUNT.fullmatch(text.strip())
        value = float("".join(filter(None, match.groups())).replace(",", "")) if match else math.nan
    return value if math.isfinite(value) and "_" not in text else math.nan


def _bad_number(where: str, place: str, day: object, column: str, value: object) -> str:
    expected = "0 or more" if _column_name(column) == "volume" else "a price above 0"
    return (
        f"{where} {place} ({day}), column {column}: {str(value)[:40]!r}; expected {expected}; "
        f"mend or remove the row"
    )


def _found(header: list[str]) -> str:
    return f"expected {_EXPECTED_HEADER}, found {', '.join(header)[:200]!r}"
