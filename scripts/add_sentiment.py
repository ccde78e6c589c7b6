"""Adds the tone of dated texts to prices: add_sentiment.py NEWS PRICES --model RUN --out FILE

NEWS is a CSV file with a column date and a column text, headline or title; PRICES one ticker's
file, as train.py reads it; RUN a finished run that tells positive from negative texts, such as
imdb-lstm's. The file that is written has the prices and two columns more: sentiment, from -1 to 1,
the mean of the texts since the row before (0 without any), and news, how many these are. A text
counts from the first row after its day, so no row knows what came out later. Then:

    train.py prices-lstm --source FILE --data.features log_return sentiment --model.num-features 2
    experiment.py prices-sentiment --source FILE
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from jaxmodels.shared.command_line import load_engine, run_script
from jaxmodels.shared.data.news import by_row, read_news
from jaxmodels.shared.data.price_sources import read_prices
from jaxmodels.shared.data.price_tables import PriceTable
from jaxmodels.shared.files import replaced
from jaxmodels.shared.inputs import class_probabilities, read_inputs

ADDED = ("sentiment", "news")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("news", type=Path, metavar="NEWS", help="a CSV file of dated texts")
    parser.add_argument("prices", metavar="PRICES", help="a CSV file of one ticker")
    parser.add_argument("--model", type=Path, metavar="RUN", required=True, help="a run's folder")
    parser.add_argument("--out", type=Path, metavar="FILE", required=True, help="TICKER.csv")
    parser.add_argument("--engine", choices=("flax", "torch"), help="default: the run's own")
    arguments = parser.parse_args()
    if arguments.out.exists():
        raise ValueError(f"--out {arguments.out} is there already; choose another")
    prices = read_prices(arguments.prices)
    if len(prices.tickers) != 1:
        raise ValueError(
            f"{arguments.prices} has the tickers {', '.join(prices.tickers)}; expected one"
        )
    (table,) = prices.frames.values()
    taken = [name for name in ADDED if name in table.columns]
    if taken:
        raise ValueError(f"{arguments.prices} has a column {taken[0]} already; rename it")
    news = read_news(arguments.news)
    run, engine = load_engine(arguments.model, arguments.engine)
    batch, class_names = read_inputs(run.task, arguments.model, news.texts)
    if len(class_names) != 2:
        raise ValueError(
            f"--model {arguments.model} has the classes {', '.join(class_names)}; expected two, "
            "negative and positive"
        )
    probabilities = class_probabilities(engine, batch, run.task.training.evaluation_batch_size)
    sentiment, count = by_row(table.dates, news.dates, probabilities[:, 1] - probabilities[:, 0])
    write_table(arguments.out, table, dict(zip(ADDED, (sentiment, count), strict=True)))
    mean = (sentiment * count).sum() / max(count.sum(), 1)
    print(
        f"{int(count.sum()):,} of {len(news.texts):,} texts, on {int((count > 0).sum()):,} of "
        f"{len(table):,} rows; mean sentiment {mean:+.3f}"
    )
    print(f"written: {arguments.out}")


def write_table(path: Path, table: PriceTable, added: dict[str, np.ndarray]) -> None:
    columns = table.columns | added
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["date", *columns])
        for row, day in enumerate(table.dates):
            writer.writerow([day, *(repr(float(values[row])) for values in columns.values())])


if __name__ == "__main__":
    run_script(main)
