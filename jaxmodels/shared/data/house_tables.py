"""Tables of houses: Kaggle's train.csv and test.csv, checked cell by cell.

>>> train, test = read_kaggle(Path("house-prices"))
>>> train.numbers["LotArea"].shape, train.words["Alley"][:2]
((1460,), array(['none', 'none'], dtype=object))
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.shared.data.house_columns import (
    COLUMNS,
    ID,
    NA,
    NOMINAL,
    NONE,
    NONE_IF_ZERO,
    NUMERIC,
    ORDINAL,
    PRICE,
)

_MISSING = (NA, "")


@dataclass(frozen=True)
class HouseTable:
    """N houses. ids: (N,) int64; prices: (N,) float64 dollars, None of a table to be priced.

    numbers: of each numeric column (N,) float64, NaN where missing. words: of each ordinal and
    nominal column (N,) object, "none" where the house has no such part and None where missing.
    """

    ids: np.ndarray
    numbers: dict[str, np.ndarray]
    words: dict[str, np.ndarray]
    prices: np.ndarray | None

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, chosen: np.ndarray) -> "HouseTable":
        """The chosen rows, in that order."""
        return HouseTable(
            self.ids[chosen],
            {name: values[chosen] for name, values in self.numbers.items()},
            {name: values[chosen] for name, values in self.words.items()},
            None if self.prices is None else self.prices[chosen],
        )

    def missing(self) -> dict[str, int]:
        """How many values of each column are missing, of those where any is."""
        counts = {name: int(np.isnan(values).sum()) for name, values in self.numbers.items()}
        counts |= {name: sum(v is None for v in values) for name, values in self.words.items()}
        return {name: count for name, count in counts.items() if count}


def read_kaggle(path: Path) -> tuple[HouseTable, HouseTable | None]:
    """The prices of a folder with train.csv, and the houses to be priced of its test.csv.

    `path` may also be one CSV file with prices.

    Raises:
        ValueError: there is no such file, or it is malformed; file, row and column are named.
    """
    file = path / "train.csv" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(
            f"--source {path}: {file} does not exist; expected a folder with Kaggle's train.csv "
            "(and test.csv) of house-prices-advanced-regression-techniques, one such file, or "
            "sample"
        )
    test = path / "test.csv" if path.is_dir() else None
    priced = read_csv(file, priced=True)
    return priced, read_csv(test, priced=False) if test and test.is_file() else None


def read_csv(path: Path, *, priced: bool) -> HouseTable:
    """One file; its rows are numbered as in an editor, the header being row 1."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file, strict=True) if row]
    except (csv.Error, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is no CSV file ({reason}); fetch it again") from None
    if not rows:
        raise ValueError(f"{path} is empty; expected Kaggle's CSV file; fetch it again")
    header, *body = rows
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ValueError(f"{path} has column {twice[0]} twice; expected it once; remove one")
    for number, row in enumerate(body, 2):
        if len(row) != len(header):
            raise ValueError(
                f"{path}, row {number} has {len(row)} cells; expected {len(header)} as in the "
                "header; it may be cut off: fetch it again"
            )
    columns = np.array(body, object).reshape(len(body), len(header)).T
    cells = dict(zip(header, columns, strict=True))
    return parse(cells, where=str(path), priced=priced)


def parse(cells: dict[str, np.ndarray], *, where: str, priced: bool) -> HouseTable:
    """Text (N,) of each column -> numbers and words, with both kinds of NA told apart.

    Raises:
        ValueError: a column is missing, there is no row, or a cell is not what it should be.
    """
    needed = (ID, *COLUMNS, *((PRICE,) if priced else ()))
    absent = [name for name in needed if name not in cells]
    if absent:
        raise ValueError(
            f"{where} lacks {len(absent)} columns: {', '.join(absent[:5])}"
            f"{', ...' if len(absent) > 5 else ''}; expected Kaggle's columns; restore them"
        )
    if not len(cells[ID]):
        raise ValueError(f"{where} has a header and no row; expected houses; fetch it again")
    ids = _parse_ids(cells[ID], where)
    numbers = {name: _parse_numbers(name, cells[name], where) for name in NUMERIC}
    words = {name: _parse_words(name, cells[name], numbers, where) for name in (*ORDINAL, *NOMINAL)}
    no_garage = np.isnan(numbers["GarageYrBlt"]) & _is_zero(numbers[NONE_IF_ZERO["GarageYrBlt"]])
    years = np.where(no_garage, numbers["YearBuilt"], numbers["GarageYrBlt"])
    prices = _parse_prices(cells[PRICE], where) if priced else None
    return HouseTable(ids, numbers | {"GarageYrBlt": years}, words, prices)


def _parse_ids(cells: np.ndarray, where: str) -> np.ndarray:
    seen: dict[int, int] = {}
    for row, cell in enumerate(cells):
        if not cell.strip().isdecimal():
            raise _bad_cell(where, row, ID, cell, "a whole number")
        if int(cell) in seen:
            raise ValueError(
                f"{where}, row {row + 2}, column {ID}: {cell} is the Id of row "
                f"{seen[int(cell)] + 2} too; expected each house once; remove one"
            )
        seen[int(cell)] = row
    return np.array(list(seen), np.int64)


def _parse_numbers(name: str, cells: np.ndarray, where: str) -> np.ndarray:
    values = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        if cell.strip() not in _MISSING:
            values[row] = _number(name, cell, row, where)
            if values[row] < 0:
                raise _bad_cell(where, row, name, cell, "a number of at least 0, or NA")
    return values


def _parse_prices(cells: np.ndarray, where: str) -> np.ndarray:
    values = np.array([_number(PRICE, cell, row, where) for row, cell in enumerate(cells)])
    for row in np.flatnonzero(values <= 0):
        raise _bad_cell(where, int(row), PRICE, cells[row], "a positive price, of which a log is")
    return values


def _parse_words(
    name: str, cells: np.ndarray, numbers: dict[str, np.ndarray], where: str
) -> np.ndarray:
    words = np.empty(len(cells), object)
    witness = NONE_IF_ZERO.get(name)
    absent = _is_zero(numbers[witness]) if witness else np.full(len(cells), witness == "")
    for row, cell in enumerate(cells):
        word = cell.strip()
        if word in _MISSING:
            words[row] = NONE if absent[row] else None
        elif name in ORDINAL and word not in ORDINAL[name]:
            raise _bad_cell(where, row, name, cell, f"one of {', '.join(ORDINAL[name])}, or NA")
        else:
            words[row] = word
    return words


def _number(name: str, cell: str, row: int, where: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        raise _bad_cell(where, row, name, cell, "a number") from None
    if not np.isfinite(value):
        raise _bad_cell(where, row, name, cell, "a finite number")
    return value


def _is_zero(values: np.ndarray) -> np.ndarray:
    return np.isnan(values) | (values == 0)


def _bad_cell(where: str, row: int, name: str, cell: Any, expected: str) -> ValueError:
    return ValueError(
        f"{where}, row {row + 2}, column {name}: {cell!r}; expected {expected}; mend the cell"
    )
