"""The backtest as a table for people, with a verdict in words: `table.md` and `backtest.csv`.

>>> write_table(folder, backtest(prices, (1, 5), models={"prices-lstm": forecaster}), "prices-lstm")
['GOOG, 1 row ahead: prices-lstm does not beat the random walk (skill -0.012, p = 0.31) ...']
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxmodels.shared.backtest import REFERENCE
from jaxmodels.shared.weights import replaced

Row = dict[str, Any]

# Column -> its heading and the format of a value.
_COLUMNS = {
    "method": ("method", "{}"),
    "mae": ("MAE", "{:.4g}"),
    "rmse": ("RMSE", "{:.4g}"),
    "smape": ("sMAPE", "{:.3g}"),
    "mase": ("MASE", "{:.3f}"),
    "directional_accuracy": ("direction right", "{:.1%}"),
    "skill": ("skill", "{:+.3f}"),
    "p_value": ("p", "{:.3f}"),
    "coverage": ("coverage", "{:.1%}"),
}
_SIGNIFICANCE = 0.05


def write_table(folder: Path, rows: Sequence[Row], model: str) -> list[str]:
    """Writes every row to backtest.csv and those of all spans together to table.md.

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
    verdicts = [_verdict(own, model) for own in groups.values()]
    lines = [
        "Skill is 1 - MAE / MAE of the random walk; p is the Diebold-Mariano test's, of absolute",
        "errors against the random walk's; coverage is of the methods' own intervals.",
    ]
    for ((ticker, horizon), own), verdict in zip(groups.items(), verdicts, strict=True):
        lines += ["", f"## {ticker}, {_ahead(horizon)}, {own[0]['origins']} origins", ""]
        lines += [" | ".join(("", *(heading for heading, _ in _COLUMNS.values()), "")).strip()]
        lines += ["|" + " --- |" * len(_COLUMNS)]
        for row in sorted(own, key=lambda row: row["mae"]):
            cells = (_cell(row[name], form) for name, (_, form) in _COLUMNS.items())
            lines += [" | ".join(("", *cells, "")).strip()]
        lines += ["", verdict]
    with replaced(folder / "table.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return verdicts


def _verdict(rows: Sequence[Row], model: str) -> str:
    own = next(row for row in rows if row["method"] == model)
    others = [row for row in rows if row["method"] not in (model, REFERENCE)]
    best = min(others, key=lambda row: row["mae"], default=None)
    beats = own["skill"] is not None and own["skill"] > 0
    sure = own["p_value"] is not None and own["p_value"] < _SIGNIFICANCE
    word = "beats" if beats and sure else "is level with" if not sure else "is worse than"
    text = f"{own['ticker']}, {_ahead(own['horizon'])}: {model} {word} the random walk "
    text += f"(skill {_cell(own['skill'], '{:+.3f}')}, p = {_cell(own['p_value'], '{:.3f}')})"
    if best is None:
        return text
    place = "ahead of" if own["mae"] < best["mae"] else "behind"
    return f"{text} and {place} {best['method']} (skill {_cell(best['skill'], '{:+.3f}')})"


def _ahead(horizon: int) -> str:
    return f"{horizon} row{'' if horizon == 1 else 's'} ahead"


def _cell(value: Any, form: str) -> str:
    return "-" if value is None else form.format(value)
