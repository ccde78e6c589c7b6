"""Perplexity: a text in subwords in, the next token at every place out, in overlapping windows."""

import html
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxmodels.shared.data.batches import Batch
from jaxmodels.shared.data.text import TextData, TextSplit
from jaxmodels.shared.data.wikitext import WikiTextDataConfig, load_wikitext, strided_windows
from jaxmodels.shared.families import text
from jaxmodels.shared.families.family import BEFORE, Evaluation, Predict, SplitName
from jaxmodels.shared.files import read_json, replaced, write_json
from jaxmodels.shared.tasks import Task
from jaxmodels.shared.text.generation import SAMPLING, Passage, continue_passages, sample_statistics
from jaxmodels.shared.text.metrics import perplexities

UNIT = text.UNIT
INPUTS = text.INPUTS
TARGET = text.TARGET
LOSS = text.LOSS
METRIC = text.METRIC
KEEP_OUTPUTS = text.KEEP_OUTPUTS
MEASURED_BEFORE = True

SAMPLES_FILE = "samples.json"
_FIGURES = ("token_perplexity", "word_perplexity", "bits_per_byte")


def load(source: str, task: Task, run: Path | None = None) -> TextData:
    return text.load_with(load_wikitext, source, task, run)


fitted_files = text.fitted_files
count = text.count
steps_per_epoch = text.steps_per_epoch
units_per_step = text.units_per_step
explain_divergence = text.explain_divergence
training_batches = text.training_batches
score = text.score


def evaluation_batches(task: Task, data: TextData, split: SplitName) -> Iterator[Batch]:
    """Every token but the first once, in overlapping windows."""
    config = _config(task)
    return strided_windows(
        getattr(data, split).tokens,
        batch_size=task.training.evaluation_batch_size,
        sequence_length=config.sequence_length,
        stride=config.stride,
    )


def figures(task: Task, part: TextSplit, evaluation: Evaluation) -> dict[str, Any]:
    """The perplexities of a split, and all that they depend on."""
    config = _config(task)
    found = perplexities(
        evaluation.loss,
        num_tokens=evaluation.count,
        num_words=part.words,
        num_bytes=part.num_bytes,
    )
    return {
        **found,
        "tokens": evaluation.count,
        "words": part.words,
        "bytes": part.num_bytes,
        "window": config.sequence_length,
        "stride": config.stride,
    }


def in_words(task: Task, data: TextData, split: SplitName, evaluation: Evaluation) -> list[str]:
    found = figures(task, getattr(data, split), evaluation)
    a_token, a_word = (
        "beyond any float" if found[name] is None else f"{found[name]:,.2f}"
        for name in _FIGURES[:2]
    )
    return [
        f"perplexity {a_token} a token, {a_word} a word ({found['words']:,}: between white space, "
        f"and one <eos> a line), {found['bits_per_byte']:.4f} bits a byte; windows of "
        f"{found['window']} tokens, stride {found['stride']}"
    ]


def write_outputs(
    folder: Path,
    task: Task,
    data: TextData,
    split: SplitName,
    evaluation: Evaluation,
    history: list[dict[str, Any]],
    predict: Predict,
) -> dict[str, Any]:
    """samples.json, samples.md and plots/; of a fine-tuned model both hold what was before too."""
    text.draw_curves(folder, task, data, history)
    part = getattr(data, split)
    passages = continue_passages(task, data.tokenizer, part.tokens, predict)
    write_json(folder / SAMPLES_FILE, [asdict(passage) for passage in passages])
    content = figures(task, part, evaluation) | sample_statistics(passages)
    columns = {"sample": passages}
    if (folder / BEFORE).is_dir():
        metrics: Any = read_json(folder / BEFORE / "metrics.json")
        samples: Any = read_json(folder / BEFORE / SAMPLES_FILE)
        content[BEFORE] = {name: metrics[name] for name in (f"{split}_loss", *_FIGURES)}
        columns = {
            "before fine-tuning": [Passage(**sample) for sample in samples],
            "after fine-tuning": passages,
        }
    _write_side_by_side(folder / "samples.md", columns)
    return content


def _write_side_by_side(path: Path, columns: dict[str, list[Passage]]) -> None:
    """A table a prompt: how each column's model goes on, and how the text itself did."""
    rows = zip(*columns.values(), strict=True)
    with replaced(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(
            f"Passages of the held-out text, continued at temperature {SAMPLING.temperature} with "
            "the same noise.\n"
        )
        for number, passages in enumerate(rows, start=1):
            cells = [*(passage.sample for passage in passages), passages[0].original]
            file.write(f"\n## {number}\n\n> {_cell(passages[0].prompt)}\n\n")
            file.write(f"| {' | '.join([*columns, 'the text itself'])} |\n")
            file.write(f"|{' --- |' * len(cells)}\n| {' | '.join(map(_cell, cells))} |\n")


def _cell(written: str) -> str:
    """Text on one line of a Markdown table, shown as it is."""
    shown = html.escape(written, quote=False)
    for symbol in "\\`*_|[]~":
        shown = shown.replace(symbol, f"&#{ord(symbol)};")
    return "<br>".join(shown.splitlines())


def _config(task: Task) -> WikiTextDataConfig:
    assert isinstance(task.data, WikiTextDataConfig)
    return task.data
