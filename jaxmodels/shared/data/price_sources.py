"""Where prices come from: an embedded sample, Yahoo through yfinance, or local CSV files.

`read_prices` turns any of them into one table a ticker. A source that cannot be had raises; nothing
else is read in its place.

>>> prices = read_prices("sample")
>>> prices.tickers, len(prices.frames["GOOG"])
(('GOOG',), 1047)
"""

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.shared.data.price_tables import PriceTable, check_table, find_gaps, read_csv

__all__ = ["PriceTable", "Prices", "read_prices"]

SOURCES = (
    "sample, seasonal, co2, yfinance:TICKER,TICKER, the path of a CSV file or of a folder with one "
    "CSV file a ticker"
)
SEASONAL_PERIODS = (5, 20)  # of the "seasonal" source, in rows: a week and a month of trading
_SEASONAL_ROWS = 1500
_SEASONAL_NOISE = 0.005  # standard deviation of the log price about its seasons
_ROWS_OF_A_YEAR = {52: (7, 7), 12: (28, 31)}  # by how many days there are from row to row
_TIMEOUT_SECONDS = 10
_OFFLINE = "with no network, use --source sample or --source PATH (a folder of CSV files)"


@dataclass(frozen=True)
class Prices:
    """What a source holds.

    `source` says for people what was read. `gaps` has a line for each stretch of days without a
    row: a trading halt is no error, but nobody should find out about it from a chart. `season` is
    after how many rows the values come round again; None where no such number is known, as of
    shares traded daily.
    """

    source: str
    tickers: tuple[str, ...]
    frames: dict[str, PriceTable]
    gaps: tuple[str, ...]
    season: int | None = None


def read_prices(source: str, *, tickers: Sequence[str] = ()) -> Prices:
    """Reads "sample", "seasonal", "co2", "yfinance:AAPL,MSFT", a CSV file or a folder of them.

    `tickers` chooses among those of the source, in that order; without it, all are read. A file is
    of the ticker it is named after: AAPL.csv.

    Raises:
        ValueError: the source is unknown, unreachable or malformed, or lacks a ticker; one line,
            with the mend.
    """
    kind, _, names = source.partition(":")
    if source == "sample":
        description, frames = _read_sample()
    elif source == "seasonal":
        description, frames = _make_seasonal()
    elif source == "co2":
        description, frames = _read_co2()
    elif kind == "yfinance":
        description, frames = _read_yfinance([name.strip() for name in names.split(",")])
    else:
        description, frames = _read_path(source, tickers)
    frames = _choose(frames, tickers, source)
    gaps = [
        f"{ticker}: no row between {before} and {after}"
        for ticker, table in frames.items()
        for before, after in find_gaps(table)
    ]
    season = max(SEASONAL_PERIODS) if source == "seasonal" else _season_of(frames)
    return Prices(description, tuple(frames), frames, tuple(gaps), season)


def _season_of(frames: dict[str, PriceTable]) -> int | None:
    """The rows in a year, where every table is weekly or monthly."""
    if any(len(table) < 2 for table in frames.values()):
        return None
    days = [np.median(np.diff(table.dates).astype(int)) for table in frames.values()]
    for season, (fewest, most) in _ROWS_OF_A_YEAR.items():
        if all(fewest <= between <= most for between in days):
            return season
    return None


def _read_sample() -> tuple[str, dict[str, PriceTable]]:
    """Google's daily prices, which matplotlib ships for its own examples."""
    from matplotlib import cbook

    try:
        archive: Any = cbook.get_sample_data("goog.npz")
        rows = archive["price_data"]
    except OSError as error:
        raise ValueError(
            f"--source sample needs goog.npz of matplotlib's sample data ({error}); some "
            f"distributions leave it out: pip install --force-reinstall matplotlib"
        ) from error
    names = {name: name for name in ("open", "high", "low", "close", "volume")}
    names["adjusted_close"] = "adj_close"
    columns = {name: rows[theirs].astype(np.float64) for name, theirs in names.items()}
    table = check_table(rows["date"], columns, where="sample")
    return "sample: GOOG daily, 2004-08-19 to 2008-10-14, from matplotlib", {"GOOG": table}


def _make_seasonal() -> tuple[str, dict[str, PriceTable]]:
    """Two seasons and noise, and no trend: whoever cannot beat the random walk here is broken."""
    rows = np.arange(_SEASONAL_ROWS)
    noise = np.random.Generator(np.random.PCG64(0)).normal(0, _SEASONAL_NOISE, _SEASONAL_ROWS)
    seasons = [0.05 * np.sin(2 * np.pi * rows / period) for period in SEASONAL_PERIODS]
    dates = np.busday_offset(np.datetime64("2000-01-03"), rows)
    columns = {"close": 100 * np.exp(sum(seasons) + noise)}
    description = f"seasonal: generated, periods {SEASONAL_PERIODS} rows, noise {_SEASONAL_NOISE}"
    return description, {"SEASONAL": check_table(dates, columns, where="seasonal")}


def _read_co2() -> tuple[str, dict[str, PriceTable]]:
    """Weekly CO2 in the air of Mauna Loa, in ppm: a trend and a season of a year."""
    try:
        from statsmodels.datasets import co2
    except ImportError as error:
        raise ValueError(
            "--source co2 needs statsmodels; pip install 'jaxmodels[forecast]' installs it"
        ) from error
    loaded: Any = co2.load_pandas()
    series = loaded.data["co2"]
    series = series.loc[series.index > series.index[series.isna()].max()]
    dates = series.index.to_numpy().astype("datetime64[D]")
    table = check_table(dates, {"close": series.to_numpy(np.float64)}, where="co2")
    return "co2: Mauna Loa, weekly, ppm; the weeks since the last missing one", {"CO2": table}


def _read_yfinance(tickers: list[str]) -> tuple[str, dict[str, PriceTable]]:
    try:
        import yfinance
    except ImportError as error:
        raise ValueError(
            "--source yfinance needs yfinance; pip install 'jaxmodels[forecast]' installs it"
        ) from error
    source = f"yfinance:{','.join(tickers)}"
    if not all(tickers):
        raise ValueError(f"{source} names no ticker; expected yfinance:AAPL or yfinance:AAPL,MSFT")
    complaints = _Complaints()
    logger = logging.getLogger("yfinance")
    logger.addHandler(complaints)
    try:
        frame: Any = yfinance.download(
            tickers,
            period="max",
            interval="1d",
            auto_adjust=True,
            actions=False,
            group_by="column",
            multi_level_index=True,
            progress=False,
            timeout=_TIMEOUT_SECONDS,
        )
    except Exception as error:  # of the HTTP library or yfinance's own, which share no base
        complaints.lines.append(f"{type(error).__name__}: {error}")
        frame = None
    finally:
        logger.removeHandler(complaints)
    # A bad ticker, a rate limit and a dead network all end in columns without a number.
    empty = [name for name in tickers if not _has_numbers(frame, name)]
    if empty:
        reason = "; ".join(complaints.lines).replace("\n", " ")[:300] or "an empty table, no reason"
        mend = (
            "wait some minutes and try again"
            if "Rate" in reason or "Too Many Requests" in reason
            else f"check the ticker on finance.yahoo.com; {_OFFLINE}"
        )
        raise ValueError(f"{source}: Yahoo gave no prices of {', '.join(empty)} ({reason}); {mend}")
    # The text that yfinance's users save to a file: one reader for both.
    text = io.StringIO(frame.to_csv())
    return f"{source}, adjusted for splits and dividends", read_csv(text, where=source, ticker="")


class _Complaints(logging.Handler):
    """Keeps what yfinance logs: its download raises nothing, whatever happens."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage().strip())


def _has_numbers(frame: Any, ticker: str) -> bool:
    if frame is None or ("Close", ticker.upper()) not in frame.columns:
        return False
    return bool(frame["Close", ticker.upper()].notna().any())


def _read_path(source: str, tickers: Sequence[str]) -> tuple[str, dict[str, PriceTable]]:
    path = Path(source).expanduser()
    if not path.exists():
        raise ValueError(f"source {source} does not exist; expected {SOURCES}")
    if not path.is_dir():
        return f"{path}: CSV", _read_file(path)
    files: dict[str, Path] = {}
    for file in sorted(path.iterdir(), key=lambda file: file.name.upper()):
        if file.suffix.lower() in (".csv", ".txt") and file.is_file():
            twin = files.setdefault(file.stem.upper(), file)
            if twin != file:
                raise ValueError(f"{file} is of the same ticker as {twin.name}; move one away")
    if not files:
        raise ValueError(f"source {source} holds no CSV file; expected one a ticker, as AAPL.csv")
    frames: dict[str, PriceTable] = {}
    for file in _choose(files, tickers, source).values():
        for name, table in _read_file(file).items():
            if name in frames:
                raise ValueError(f"{file} holds {name} once more; expected one file a ticker")
            frames[name] = table
    return f"{path}: CSV files", frames


def _read_file(path: Path) -> dict[str, PriceTable]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return read_csv(file, where=str(path), ticker=path.stem.upper())
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check the path") from error


def _choose(found: dict[str, Any], tickers: Sequence[str], source: str) -> dict[str, Any]:
    wanted = [ticker.upper() for ticker in tickers] or list(found)
    missing = [ticker for ticker in wanted if ticker not in found]
    if missing:
        raise ValueError(
            f"source {source} has no {', '.join(missing)}; expected tickers among "
            f"{', '.join(found)[:200]}"
        )
    return {ticker: found[ticker] for ticker in wanted}
