"""Dated texts as a feature of prices: each counts from the first row after its day.

>>> news = read_news(Path("headlines.csv"))
>>> mean, count = by_row(table.dates, news.dates, scores)  # scores: (M,), one a text
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxmodels.shared.data.price_tables import parse_date
from jaxmodels.shared.data.utf8 import decode_utf8

DATE_COLUMN, TEXT_COLUMNS = "date", ("text", "headline", "title")


@dataclass(frozen=True)
class News:
    """dates: (M,) datetime64[D], in the file's order; texts: M, none of them empty."""

    dates: np.ndarray
    texts: tuple[str, ...]


def read_news(path: Path) -> News:
    """A CSV file with a column date and a column text, headline or title; others are left.

    Raises:
        ValueError: the file, its header or a row is malformed; one line, with the mend.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file; expected a CSV file of dated texts")
    lines = decode_utf8(path.read_bytes(), where=str(path)).splitlines(keepends=True)
    reader = csv.reader(lines, strict=True)
    days, texts = [], []
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        named = [name for name in TEXT_COLUMNS if name in header]
        if DATE_COLUMN not in header or not named:
            raise ValueError(
                f"{path}: expected a column {DATE_COLUMN} and a column {', '.join(TEXT_COLUMNS)}, "
                f"found {', '.join(header)[:200]!r}; rename the columns"
            )
        date_cell, text_cell = header.index(DATE_COLUMN), header.index(named[0])
        for cells in reader:
            if not cells:
                continue
            where = f"{path} line {reader.line_num}"
            if len(cells) != len(header):
                raise ValueError(
                    f"{where}: {len(cells)} cells; expected {len(header)} like the header; put a "
                    "text with commas or line breaks in double quotes"
                )
            day = parse_date(cells[date_cell])
            if day is None:
                raise ValueError(
                    f"{where}: {cells[date_cell][:40]!r} is not a date; expected YYYY-MM-DD"
                )
            if not cells[text_cell].strip():
                raise ValueError(f"{where}: the text is empty; remove the line")
            days.append(day)
            texts.append(cells[text_cell])
    except csv.Error as error:
        raise ValueError(f"{path} line {reader.line_num + 1} is not CSV ({error})") from None
    if not texts:
        raise ValueError(f"{path} has no rows; expected at least one text")
    return News(np.array(days, "datetime64[D]"), tuple(texts))


def by_row(
    days: np.ndarray, dates: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(the mean score (N,), 0 where there is none; how many (N,)) of each of the N days of prices.

    A row has the texts since the row before, that day's included, its own day's not: a text of day
    d may have come out after the close of d. So a row knows nothing that was not known before its
    market opened. Texts before the first row's day are left out.

    days: (N,) ascending; dates: (M,) in any order; scores: (M,).
    """
    rows = np.searchsorted(days, dates, side="right")
    counted = (rows > 0) & (rows < len(days))  # rows == len(days): the next row is not there yet
    count = np.bincount(rows[counted], minlength=len(days))
    total = np.bincount(rows[counted], weights=scores[counted], minlength=len(days))
    return total / np.maximum(count, 1), count.astype(np.float64)
