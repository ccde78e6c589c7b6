"""Classifies with a finished run: python scripts/predict.py DIR INPUT [INPUT ...] [--top N]

usage: predict.py DIR INPUT [INPUT ...] [--engine flax|torch] [--top N] [--attention FILE]

An input is an image file (cropped to a centre square and resized), or, for a run on reviews, a
text. One line for each input and class, the likeliest first: input, class, probability. With
--attention, a run of BERT also writes an HTML page of what its first token attends to.
"""

import argparse
import os.path
from pathlib import Path

import numpy as np

from jaxmodels.shared.command_line import add_mesh_flag, load_engine, run_script
from jaxmodels.shared.data.batches import Batch
from jaxmodels.shared.data.image_batches import normalise
from jaxmodels.shared.data.images import ImageDataConfig, read_image
from jaxmodels.shared.data.reviews import ReviewDataConfig, encode_reviews
from jaxmodels.shared.data.subwords import SubwordDataConfig, encode_subwords
from jaxmodels.shared.data.subwords import inputs as subword_inputs
from jaxmodels.shared.data.wikitext import LanguageDataConfig
from jaxmodels.shared.families.images import read_normalisation
from jaxmodels.shared.families.reviews import read_vocabulary
from jaxmodels.shared.families.subwords import read_tokenizer
from jaxmodels.shared.metrics import log_softmax
from jaxmodels.shared.plots.attention_page import AttendedText, write_attention_page
from jaxmodels.shared.tasks import Task

_SHOWN = 60  # characters of a review


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("folder", type=Path, metavar="DIR", help="the run's folder")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="image files, or texts")
    parser.add_argument("--engine", choices=("flax", "torch"), help="default: the run's own")
    add_mesh_flag(parser)
    parser.add_argument("--top", type=int, default=3, help="classes an input [default: 3]")
    parser.add_argument(
        "--attention", type=Path, metavar="FILE", help="write the attention of BERT as HTML"
    )
    arguments = parser.parse_args()
    if arguments.top < 1:
        raise ValueError(f"--top {arguments.top} must be at least 1")

    run, engine = load_engine(arguments.folder, arguments.engine, mesh=arguments.mesh)
    if arguments.attention and not isinstance(run.task.data, SubwordDataConfig):
        raise ValueError(
            f"--attention: {arguments.folder} holds a run of {run.task.name}; expected one of "
            "BERT, such as imdb-bert trains; leave it out"
        )
    batch, class_names = read_inputs(run.task, arguments.folder, arguments.inputs)
    size = run.task.training.evaluation_batch_size
    logits = np.concatenate(
        [
            engine.predict({name: value[start : start + size] for name, value in batch.items()})[0]
            for start in range(0, len(arguments.inputs), size)
        ]
    )
    probabilities = np.exp(log_softmax(logits))
    for text, row in zip(arguments.inputs, probabilities, strict=True):
        for index in np.argsort(-row)[: arguments.top]:
            print(f"{_label(text)}  {class_names[index]}  {row[index]:.4f}")
    if arguments.attention:
        titles = [
            f"{class_names[row.argmax()]} {row.max():.4f}: {_label(text)}"
            for text, row in zip(arguments.inputs, probabilities, strict=True)
        ]
        tokenizer, _ = read_tokenizer(arguments.folder)
        texts = []
        lengths = batch["attention_mask"].sum(axis=1)
        for title, row, length in zip(titles, batch["input_ids"], lengths, strict=True):
            ids = row[:length]
            layers = engine.attentions(ids[None])
            first = np.stack([layer[0, :, 0] for layer in layers])  # (layers, heads, T)
            texts.append(AttendedText(title, tokenizer.tokens(ids.tolist()), first))
        write_attention_page(arguments.attention, str(arguments.folder), texts)
        print(f"written: {arguments.attention}")


def read_inputs(task: Task, folder: Path, inputs: list[str]) -> tuple[Batch, tuple[str, ...]]:
    """All inputs as one batch, prepared as in training, and the names of the classes."""
    if isinstance(task.data, ImageDataConfig):
        mean, std, class_names = read_normalisation(folder)
        size, channels = task.model.image_size, task.model.in_channels  # type: ignore[union-attr]
        images = [read_image(path, image_size=size, channels=channels) for path in inputs]
        return {"image": normalise(np.stack(images), mean, std)}, class_names
    if isinstance(task.data, ReviewDataConfig):
        vocabulary, class_names = read_vocabulary(folder)
        for text in inputs:
            _check_review(text)
        tokens, lengths = encode_reviews(inputs, vocabulary, task.data)
        return {"tokens": tokens, "lengths": lengths}, class_names
    if isinstance(task.data, SubwordDataConfig):
        tokenizer, class_names = read_tokenizer(folder)
        for text in inputs:
            _check_review(text)
        padding = task.model.padding_id  # type: ignore[union-attr]
        encoded = encode_subwords(inputs, tokenizer, task.data, padding_id=padding)
        return subword_inputs(*encoded), class_names
    mend = "; generate.py continues texts" if isinstance(task.data, LanguageDataConfig) else ""
    raise ValueError(f"{folder} holds a run of {task.name}, which classifies nothing{mend}")


def _check_review(text: str) -> None:
    if not text.strip():
        raise ValueError("an INPUT is empty; expected a review")
    if os.path.isfile(text):
        raise ValueError(
            f"INPUT {text} is a file, and this run classifies texts; give what is in it: "
            f'"$(cat {text})"'
        )


def _label(text: str) -> str:
    """On one line: a review may have several, and be long. The names of files are not changed."""
    words = " ".join(text.split())
    short = words if len(words) <= _SHOWN else words[: _SHOWN - 3].rstrip() + "..."
    return text if os.path.isfile(text) else short


if __name__ == "__main__":
    run_script(main)
