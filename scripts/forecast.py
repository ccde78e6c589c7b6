"""Forecasts prices with a finished run: python scripts/forecast.py DIR [--horizon 20]

From the newest row of each ticker, with the run's own scalers. Beside the model's quantiles stands
the interval of the random walk, which knows nothing but how far prices have moved so far: a model
whose quantiles are no narrower and whose median is the last price has found nothing.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np

from jaxmodels.shared.command_line import load_engine, run_script
from jaxmodels.shared.data.price_sources import read_prices
from jaxmodels.shared.data.price_tables import PriceTable
from jaxmodels.shared.data.series import SeriesDataConfig, newest_window, outputs_to_prices
from jaxmodels.shared.data.series_features import select_column
from jaxmodels.shared.families.series import enclosed, read_scalers
from jaxmodels.shared.forecasting.baselines import BaselineConfig, History, forecast_prices
from jaxmodels.shared.loop import Engine
from jaxmodels.shared.run import Run
from jaxmodels.shared.targets import median_index

_WIDTH = 80
_GAP = 2  # between columns


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("folder", type=Path, metavar="DIR", help="the run's folder")
    parser.add_argument(
        "--horizon", type=int, metavar="ROWS", help="the furthest one [default: all that it knows]"
    )
    parser.add_argument("--source", help="other prices; default: the run's")
    parser.add_argument(
        "--ticker", action="append", default=[], metavar="T", help="may be repeated [default: all]"
    )
    parser.add_argument("--engine", choices=("flax", "torch"), help="default: the run's own")
    arguments = parser.parse_args()

    run, engine = load_engine(arguments.folder, arguments.engine)
    if not isinstance(run.task.data, SeriesDataConfig):
        raise ValueError(
            f"{arguments.folder} holds a run of {run.task.name}, which forecasts no prices"
        )
    horizons = choose_horizons(run, arguments.horizon)
    source = arguments.source or run.source
    prices = read_prices(source, tickers=arguments.ticker)
    warnings: list[str] = []
    print(f"{run.task.name} on {prices.source}")
    for ticker, table in prices.frames.items():
        try:
            quantiles = forecast(run, engine, arguments.folder, table, ticker)[: len(horizons)]
            walk = walk_interval(run, table, horizons)
        except ValueError as error:
            raise ValueError(f"--source {source}: {error}") from None
        crossed = [f"{horizons[row]}" for row in range(len(horizons)) if crosses(quantiles[row])]
        warnings += [f"{ticker} {', '.join(crossed)} rows ahead"] if crossed else []
        print_forecast(run, ticker, table, horizons, quantiles, walk)
    if warnings:
        print(
            f"warning: quantiles cross ({'; '.join(warnings)}); the model has not learnt their "
            "order, so trust none of those rows",
            file=sys.stderr,
        )


def choose_horizons(run: Run, furthest: int | None) -> tuple[int, ...]:
    """The trained horizons up to `furthest`, which must be one of them."""
    known: tuple[int, ...] = run.task.data.horizons  # type: ignore[union-attr]
    if furthest is None:
        return known
    if furthest not in known:
        wanted = sorted({*known, max(1, furthest)})
        raise ValueError(
            f"--horizon {furthest}: the run was trained on {', '.join(map(str, known))} rows "
            f"ahead; give one of those, or train another run with, say, --data.horizons "
            f"{' '.join(map(str, wanted))} --model.num-horizons {len(wanted)}"
        )
    return known[: known.index(furthest) + 1]


def forecast(run: Run, engine: Engine, folder: Path, table: PriceTable, ticker: str) -> np.ndarray:
    """The quantiles at every trained horizon, in prices: (H, Q)."""
    config = run.task.data
    assert isinstance(config, SeriesDataConfig)
    inputs, targets = read_scalers(folder)
    last = select_column(table, config.price, where=ticker)[-1:]
    window = newest_window(table, config, inputs, where=ticker)
    outputs, _ = engine.predict({"inputs": window})  # (1, H, Q)
    return outputs_to_prices(outputs, last, config, targets)[0]


def walk_interval(run: Run, table: PriceTable, horizons: tuple[int, ...]) -> np.ndarray:
    """The random walk's interval, as likely as that of the model's outer quantiles: (H, 2)."""
    quantiles = run.task.model.quantiles  # type: ignore[union-attr]
    config = BaselineConfig(coverage=enclosed(quantiles))
    history = History(table, run.task.data.price)  # type: ignore[union-attr]
    made = forecast_prices("random walk", history, horizons, config)
    return np.stack([made.lower, made.upper], axis=-1)


def crosses(quantiles: np.ndarray) -> bool:
    return bool((np.diff(quantiles) < 0).any())


def print_forecast(
    run: Run,
    ticker: str,
    table: PriceTable,
    horizons: tuple[int, ...],
    quantiles: np.ndarray,
    walk: np.ndarray,
) -> None:
    """A line a horizon, in as many blocks as `_WIDTH` columns of text ask for."""
    price = table.columns[run.task.data.price][-1]  # type: ignore[union-attr]
    digits = max(2, 3 - math.floor(math.log10(abs(price)))) if price else 2
    levels = run.task.model.quantiles  # type: ignore[union-attr]
    share = f"{100 * enclosed(levels):.3g}%"
    columns = [
        [f"{100 * level:g}%", *(f"{value:.{digits}f}" for value in values)]
        for level, values in zip(levels, quantiles.T, strict=True)
    ]
    columns[median_index(levels)][0] = "median"
    interval = [f"{lower:.{digits}f} to {upper:.{digits}f}" for lower, upper in walk]
    columns.append([f"random walk, {share}", *interval])
    ahead = ["rows ahead", *map(str, horizons)]
    blocks = [[ahead]]
    for column in columns:
        if sum(max(map(len, own)) + _GAP for own in (*blocks[-1], column)) - _GAP > _WIDTH:
            blocks.append([ahead])
        blocks[-1].append(column)
    print(f"\n{ticker}: {price:.{digits}f} on {table.dates[-1]}")
    for block in blocks:
        widths = [max(map(len, column)) for column in block]
        for cells in zip(*block, strict=True):
            padded = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
            print((" " * _GAP).join(padded))


if __name__ == "__main__":
    run_script(main)
