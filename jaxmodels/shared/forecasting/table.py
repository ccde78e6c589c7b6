"""The backtest as a table for people, with a verdict in words: `table.md` and `backtest.csv`.

>>> rows = backtest(prices, (1, 5), models={"prices-lstm": forecaster})
>>> write_table(folder, rows, "prices-lstm", coverage=0.9, season=5)[0]
'GOOG, 1 row ahead: prices-lstm cannot be told from the random walk (skill -0.012, p 0.310) ...'
"""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxmodels.shared.files import replaced
from jaxmodels.shared.forecasting.backtest import REFERENCE

Row = dict[str, Any]


def _p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


# Column -> its heading and how a value is written.
_COLUMNS = {
    "method": ("method", "{}".format),
    "mae": ("MAE", "{:#.4g}".format),
    "rmse": ("RMSE", "{:#.4g}".format),
    "smape": ("sMAPE %", "{:#.3g}".format),
    "mase": ("MASE", "{:.3f}".format),
    "directional_accuracy": ("direction right", "{:.1%}".format),
    "skill": ("skill", "{:+.3f}".format),
    "p_value": ("p", _p_value),
    "coverage": ("coverage", "{:.1%}".format),
}
_SIGNIFICANCE = 0.05
# The test's variance is summed over as many lags as forecasts overlap, and is too small when few do
# not: of two forecasts equally good, it finds a difference at 0.05 in 6% of all backtests of 60
# separate forecasts, in 8% of 10, in 13% of 6 and in 24% of 3 (simulated, overlapping returns).
_FEWEST_SEPARATE = 10


def write_table(
    folder: Path, rows: Sequence[Row], model: str, *, coverage: float, season: int
) -> list[str]:
    """Writes every row to backtest.csv and those of all spans together to table.md.

    `coverage` is the share of prices that an interval is meant to hold; `season`, in rows, is that
    of the seasonal baselines.

    Returns:
        A verdict on `model` for each ticker and horizon.
    """
    with replaced(folder / "backtest.csv") as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    whole = [row for row in rows if row["span"] == "all"] or list(rows)
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in whole:
        groups.setdefault((row["ticker"], row["horizon"]), []).append(row)
    verdicts = [_verdict(own, model, coverage) for own in groups.values()]
    lines = [
        "Skill is 1 - MAE / MAE of the random walk; p is the two-sided Diebold-Mariano test's, of",
        "absolute errors against the random walk's, and one in twenty is below 0.05 by chance.",
        "Coverage is the share of prices within a method's interval, which is meant to hold",
        f"{100 * coverage:.3g}% of them. The season of the seasonal methods is {season} rows.",
        "The methods are in the order of their MAE.",
    ]
    for ((ticker, horizon), own), verdict in zip(groups.items(), verdicts, strict=True):
        lines += ["", f"## {ticker}, {_ahead(horizon)}, {own[0]['origins']} origins", ""]
        lines += [" | ".join(("", *(heading for heading, _ in _COLUMNS.values()), "")).strip()]
        lines += ["| --- |" + " ---: |" * (len(_COLUMNS) - 1)]
        for row in sorted(own, key=lambda row: row["mae"]):
            cells = [_cell(row[name], form) for name, (_, form) in _COLUMNS.items()]
            cells[0] = f"**{cells[0]}**" if row["method"] == model else cells[0]
            lines += [" | ".join(("", *cells, "")).strip()]
        lines += ["", verdict]
    with replaced(folder / "table.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return verdicts


def _verdict(rows: Sequence[Row], model: str, coverage: float) -> str:
    others = {row["method"]: row for row in rows}
    own, reference = others.pop(model), others.pop(REFERENCE)
    facts = f"{_skill(own)}, p {_cell(own['p_value'], _p_value)}"
    if own["separate"] < _FEWEST_SEPARATE:
        facts += f", and only {own['separate']} of {own['origins']} forecasts do not overlap"
    text = (
        f"{own['ticker']}, {_ahead(own['horizon'])}: {model} {_word(own, reference)} the random "
        f"walk ({facts}); its {100 * coverage:.3g}% interval holds {own['coverage']:.0%}"
    )
    if not others:
        return text
    best = min(others.values(), key=lambda row: row["mae"])
    return f"{text}; the best other method is {best['method']} ({_skill(best)})"


def _skill(row: Row) -> str:
    return f"skill {_cell(row['skill'], '{:+.3f}'.format)}"


def _word(own: Row, reference: Row) -> str:
    """No significance is no proof of equality: "is level with" is for equal errors alone."""
    if own["mae"] == reference["mae"]:
        return "is level with"
    sure = own["p_value"] is not None and own["p_value"] < _SIGNIFICANCE
    if not sure or own["separate"] < _FEWEST_SEPARATE:
        return "cannot be told from"
    return "beats" if own["mae"] < reference["mae"] else "is worse than"


def _ahead(horizon: int) -> str:
    return f"{horizon} row{'' if horizon == 1 else 's'} ahead"


def _cell(value: Any, form: Callable[[Any], str]) -> str:
    return "-" if value is None else form(value)
