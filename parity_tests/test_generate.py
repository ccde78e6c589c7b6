"""scripts/generate.py and scripts/predict.py as they are called, and the samples of a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("torch")

from jaxmodels.shared.families import text as text_family
from jaxmodels.shared.families.family import Evaluation
from jaxmodels.shared.hub.folder import save_checkpoint
from jaxmodels.shared.text.generation import SAMPLE_LENGTH, write_samples
from jaxmodels.shared.text.tokenizers import CharacterTokenizer, load_tokenizer
from parity_tests.tiny_runs import call, compile_once, refused, train_tiny, with_settings
from parity_tests.tiny_texts import (
    REVIEW_FLAGS,
    TEXT,
    TEXT_FLAGS,
    TEXT_TASK,
    review_file,
    text_file,
)

__all__ = ["compile_once"]  # a fixture

ENGINES = ("flax", "torch")
LENGTH = 40
SIZE = ("--max-new-tokens", LENGTH)


def _train(folder: Path, flags: Any, *extra: object) -> Path:
    code, _, errors = call("train", *flags, *extra, "--engine", "torch", "--out", folder)
    assert (code, errors) == (0, "")
    return folder


def _metrics(folder: Path) -> Any:
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def prose(tmp_path_factory: Any) -> Path:
    """A finished run on a text."""
    folder = tmp_path_factory.mktemp("prose")
    return _train(folder / "run", TEXT_FLAGS, "--source", text_file(folder / "text.txt"))


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: Any) -> Path:
    """A finished run on reviews."""
    folder = tmp_path_factory.mktemp("reviews")
    return _train(folder / "run", REVIEW_FLAGS, "--source", review_file(folder / "r.csv"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: Any) -> Path:
    """A finished run on images."""
    folder = tmp_path_factory.mktemp("images")
    task = with_settings(training={"epochs": 1})
    engine, _ = train_tiny("torch", folder, task)
    save_checkpoint(folder, task.model, engine.weights())
    return folder


def generated(folder: Path, *arguments: object) -> str:
    code, text, errors = call("generate", folder, *SIZE, *arguments)
    assert (code, errors) == (0, "")
    return text


# ---- Generate

WAYS = {
    "greedy": ("--temperature", 0),
    "sampled": ("--seed", 3, "--temperature", 0.8, "--top-k", 9, "--top-p", 0.95),
    "beams": ("--beams", 3),
}


@pytest.mark.parametrize("way", WAYS)
def test_both_engines_write_the_same_text(way: str, prose: Path) -> None:
    prompts = ("--prompt", "the king", "--prompt", "good film ")
    flax, other = (generated(prose, *prompts, *WAYS[way], "--engine", name) for name in ENGINES)
    assert flax == other
    if way == "sampled":
        assert generated(prose, *prompts, *WAYS[way], "--seed", 4) != other


@pytest.mark.parametrize("way", WAYS)
def test_several_prompts_are_printed_one_after_another(way: str, prose: Path) -> None:
    prompts = ("good", "a sea", "king")
    text = generated(prose, *(part for p in prompts for part in ("--prompt", p)), *WAYS[way])
    blocks = text.split("----- ")[1:]
    assert [block.partition("\n")[0] for block in blocks] == ["1 of 3", "2 of 3", "3 of 3"]
    for block, prompt in zip(blocks, prompts, strict=True):
        assert block.partition("\n")[2].startswith(prompt)
    # The first is what it is alone: as it streams, and here gathered. (It has the first noise.)
    alone = generated(prose, "--prompt", prompts[0], *WAYS[way])
    assert alone == blocks[0].partition("\n")[2].removesuffix("\n")


def test_text_without_a_prompt_begins_with_a_line_end(prose: Path) -> None:
    text = generated(prose)
    assert text.startswith("\n")
    assert len(text) == 1 + LENGTH + 1  # prompt, text, line end
    assert text == generated(prose, "--prompt", "\n")


def test_stop_ends_the_text(prose: Path) -> None:
    whole = generated(prose, "--prompt", "good", "--seed", 1)
    stop = whole[len("good") + 5]
    stopped = generated(prose, "--prompt", "good", "--seed", 1, "--stop", stop)
    new = whole.removeprefix("good")
    assert stopped == "good" + new[: new.index(stop) + 1] + "\n"


def test_length_is_what_was_asked_for(prose: Path) -> None:
    for way in WAYS.values():
        text = generated(prose, "--prompt", "good", *way, "--max-new-tokens", 7)
        assert len(text) == len("good") + 7 + 1


REFUSED = {
    "character": (["--prompt", "ok €"], ["--prompt 'ok €'", "'€' (U+20AC) at position 3", "known"]),
    "prompt": (["--prompt", ""], ["--prompt is empty"]),
    "stop": (["--stop", "king", "--beams", 2], ["--stop 'king' is 4 tokens", "such as 'k'"]),
    "no stop": (["--stop", ""], ["--stop is empty"]),
    "stream": (["--stream", "--beams", 2], ["--stream shows one text"]),
    "stop character": (["--stop", "€"], ["--stop '€'", "unknown"]),
    "top k": (["--beams", 2, "--top-k", 5], ["--top-k", "--beams", "leave one"]),
    "top p": (["--beams", 2, "--top-p", 0.5], ["--top-p", "--beams", "leave one"]),
    "no beam": (["--beams", 0], ["--beams 0 must be at least 1"]),
    "greedy beams": (["--beams", 2, "--temperature", 0], ["--temperature 0", "--beams"]),
    "cold beams": (["--beams", 2, "--temperature", -1], ["--temperature -1.0", "not negative"]),
    "temperature": (["--temperature", "nan"], ["--temperature nan must be finite"]),
    "share": (["--top-p", 1.5], ["--top-p 1.5 must be in (0, 1]"]),
    "rank": (["--top-k", -1], ["--top-k -1 must not be negative"]),
    "length": (["--max-new-tokens", 0], ["--max-new-tokens 0 must be at least 1"]),
    "penalty": (["--beams", 2, "--length-penalty", -1], ["--length-penalty -1.0 must be"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_are_one_line(case: str, prose: Path) -> None:
    arguments, words = REFUSED[case]
    message = refused("generate", prose, *arguments)
    assert message.count("\n") == 1
    for word in words:
        assert word in message


def test_runs_that_write_no_text_are_refused(images: Path, reviews: Path) -> None:
    for folder, task in ((images, "tiny"), (reviews, "imdb-lstm")):
        message = refused("generate", folder)
        assert f"{folder} holds a run of {task}, which writes no text" in message
        assert message.count("\n") == 1


# ---- Predict


def test_reviews_are_classified_alike_by_both_engines(reviews: Path) -> None:
    texts = ("a good film", "dull dull plot\nand a weak  cast", "good " * 40)
    answers = [call("predict", reviews, *texts, "--engine", name) for name in ENGINES]
    assert answers[0] == answers[1]
    code, text, errors = answers[0]
    assert (code, errors) == (0, "")
    rows = [line.rsplit("  ", 2) for line in text.splitlines()]
    shown = ("a good film", "dull dull plot and a weak cast", ("good " * 40)[:57].strip() + "...")
    assert [row[0] for row in rows] == [name for name in shown for _ in range(2)]
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert {first[1], second[1]} == {"negative", "positive"}
        assert float(first[2]) >= float(second[2])
        assert float(first[2]) + float(second[2]) == pytest.approx(1, abs=2e-4)
    single = call("predict", reviews, texts[1], "--top", 1)[1]
    assert single.splitlines() == [text.splitlines()[2]]


def test_what_is_no_review_is_refused(reviews: Path, prose: Path, tmp_path: Path) -> None:
    (tmp_path / "review.txt").write_text("a good film")
    message = refused("predict", reviews, tmp_path / "review.txt")
    assert f"INPUT {tmp_path / 'review.txt'} is a file, and this run classifies texts" in message
    assert "an INPUT is empty" in refused("predict", reviews, "a good film", " \n")
    assert "--top 0 must be at least 1" in refused("predict", reviews, "good", "--top", 0)
    message = refused("predict", prose, "good")
    assert "which classifies nothing; generate.py continues texts" in message


# ---- The samples of a run


def test_samples_of_a_run_continue_held_out_text(prose: Path) -> None:
    samples, metrics = (prose / "samples.txt").read_text(), _metrics(prose)
    assert samples.count("----- sample") == 4
    assert samples.count("----- and on:") == 4
    assert 0 < metrics["distinct_1"] <= 1
    assert metrics["perplexity"] == pytest.approx(np.exp(metrics["validation_loss"]))
    assert metrics["bits_per_character"] == pytest.approx(metrics["validation_loss"] / np.log(2))


def uniform(batch: Any, carry: Any) -> Any:
    size = TEXT_TASK.model.vocabulary_size  # type: ignore[union-attr]
    return np.zeros((*batch["tokens"].shape, size), np.float32), carry


# tokens held out -> samples, tokens of a prompt, tokens of a sample
SHORT = {2: (1, 1, 1), 3: (1, 2, 1), 5: (1, 3, 2), 50: (1, 25, 25), 97: (2, 48, 48)}


@pytest.mark.parametrize("count", SHORT)
def test_samples_of_a_short_text_are_short(count: int, tmp_path: Path) -> None:
    held_out = np.concatenate([TEXT.train.tokens, TEXT.test.tokens])[:count]
    path = tmp_path / "samples.txt"
    found = write_samples(path, TEXT_TASK, TEXT.tokenizer, held_out, uniform)
    blocks = path.read_text().split("----- sample ")[1:]
    samples, prompt_length, length = SHORT[count]
    assert len(blocks) == samples
    for block in blocks:
        prompt, sample = block.split("the prompt:\n", 1)[1].split("\n----- and on:\n")
        assert (len(prompt), len(sample)) == (prompt_length, length + len("\n\n"))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert length < SAMPLE_LENGTH


def test_a_loss_beyond_any_perplexity_is_written_all_the_same(tmp_path: Path) -> None:
    count = len(TEXT.validation.tokens) - 1
    for loss, expected in ((1000.0, None), (1.0, pytest.approx(np.e))):
        evaluation = Evaluation(loss, 0.0, count, None)
        found = text_family.write_outputs(
            tmp_path, TEXT_TASK, TEXT, "validation", evaluation, [], uniform
        )
        assert found["perplexity"] == expected
        assert found["loss_per_character"] == pytest.approx(loss)


@pytest.mark.parametrize("count", [0, 1])
def test_samples_of_no_text_are_refused(count: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"a text of {count} tokens has none to continue"):
        write_samples(
            tmp_path / "s", TEXT_TASK, CharacterTokenizer("a"), np.zeros(count, int), uniform
        )
    assert not list(tmp_path.iterdir())


def test_a_run_without_validation_samples_its_training_text(tmp_path: Path) -> None:
    source = text_file(tmp_path / "text.txt")
    flags = ("--source", source, "--data.validation-fraction", 0, "--epochs", 1)
    metrics = _metrics(_train(tmp_path / "run", TEXT_FLAGS, *flags))
    assert metrics["split"] == "train"
    assert metrics["train_examples"] == len(source.read_text()) - 1
    assert (tmp_path / "run" / "samples.txt").read_text().count("----- sample") == 4


def test_a_run_with_two_characters_held_out_finishes(tmp_path: Path) -> None:
    source = text_file(tmp_path / "text.txt")
    share = 2 / len(source.read_text())
    flags = ("--source", source, "--data.validation-fraction", share * 1.01, "--epochs", 1)
    metrics = _metrics(_train(tmp_path / "run", TEXT_FLAGS, *flags))
    assert metrics["validation_examples"] <= 2
    assert (tmp_path / "run" / "samples.txt").read_text().count("----- sample") == 1


def test_a_run_on_byte_pairs_writes_text(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    source = tmp_path / "text.txt"
    source.write_text("très bon film 👍, a good sea\n" * 60, encoding="utf-8")
    flags = ("--data.tokenizer", "bpe", "--data.vocabulary-size", 270, "--epochs", 1)
    sizes = ("--model.vocabulary-size", 300, "--batch-size", 2)
    folder = _train(tmp_path / "run", TEXT_FLAGS, "--source", source, *flags, *sizes)
    assert load_tokenizer(folder).vocabulary_size == 270
    metrics = _metrics(folder)
    assert metrics["bits_per_character"] < metrics["validation_loss"] / np.log(2) * 1.5
    assert "très bon film" in (folder / "samples.txt").read_text(encoding="utf-8")
    text = generated(folder, "--prompt", "👍 ∞ is known", "--engine", "flax", "--temperature", 0)
    assert text.startswith("👍 ∞ is known")
    assert text == generated(folder, "--prompt", "👍 ∞ is known", "--temperature", 0)
