"""Fine-tuning on reviews: tokens by hand, batches by length, one definition on every engine."""

import dataclasses
import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch

import torchref
from jaxmodels.shared import run as runs
from jaxmodels.shared.command_line import load_engine
from jaxmodels.shared.configs import GPT2Config
from jaxmodels.shared.data.batches import shuffled_batches
from jaxmodels.shared.data.subwords import SubwordDataConfig, encode_subwords, inputs, load_subwords
from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.hub import folder as hub_folder
from jaxmodels.shared.loop import evaluate
from jaxmodels.shared.tasks import TASKS
from jaxmodels.shared.text.subwords import SubwordTokenizer, open_tokenizer, train_subwords
from parity_tests.tiny_bert import FLAGS, ID, VOCABULARY, byte_pairs, checkpoint, train, word_pieces
from parity_tests.tiny_runs import (
    assert_same_weights,
    call,
    compile_once,
    history,
    interrupted_in,
    refused,
    with_settings,
)
from parity_tests.tiny_texts import review_file

__all__ = ["compile_once"]  # a fixture

# ---- Tokens


def encode(text: str, *, max_length: int = 9, truncate: Any = "head", folder: Path) -> list[int]:
    config = SubwordDataConfig(max_length=max_length, truncate=truncate)
    tokenizer = open_tokenizer(word_pieces(folder))
    tokens, lengths = encode_subwords([text], tokenizer, config, padding_id=0)
    assert not tokens[0, lengths[0] :].any()
    return tokens[0, : lengths[0]].tolist()


@pytest.mark.parametrize(
    ("truncate", "kept"),
    [
        ("head", ["film", "plot", "cast", "score", "end"]),
        ("tail", ["score", "end", "night", "king", "sea"]),
        ("head-tail", ["film", "plot", "cast", "king", "sea"]),
    ],
)
def test_long_review_keeps_what_was_asked_for(
    truncate: str, kept: list[str], tmp_path: Path
) -> None:
    long = "film plot cast score end night king sea"
    expected = [ID[word] for word in ("[CLS]", *kept, "[SEP]")]
    assert encode(long, max_length=7, truncate=truncate, folder=tmp_path) == expected
    whole = [ID[word] for word in ("[CLS]", *long.split(), "[SEP]")]
    assert encode(long, max_length=10, truncate=truncate, folder=tmp_path) == whole


def test_words_stay_and_markup_goes(tmp_path: Path) -> None:
    found = encode("A film,<br /><br />not BADLY &lt;br /&gt;good!", folder=tmp_path, max_length=20)
    words = ("[CLS]", "a", "film", "[UNK]", "not", "bad", "##ly", "good", "!", "[SEP]")
    assert found == [ID[word] for word in words]
    assert encode("<br />", folder=tmp_path) == [ID["[CLS]"], ID["[SEP]"]]


def test_tokenizer_json_goes_before_vocab_txt_and_its_limits_are_lifted(tmp_path: Path) -> None:
    byte_pairs(word_pieces(tmp_path))
    tokenizer = open_tokenizer(tmp_path)
    assert (tokenizer.first, tokenizer.last) == (0, 2)
    (ids,) = tokenizer.encode(["film " * 6], max_length=30, truncate="head")
    assert len(ids) > 5
    (tmp_path / "tokenizer.json").write_text(tokenizer.content())
    again = open_tokenizer(tmp_path)
    assert again.content() == tokenizer.content()


def test_tokenizer_of_the_training_split_is_the_same_each_time() -> None:
    texts = ["A good film", "a GOOD cast", "naïve \N{GRINNING FACE}"] * 2
    tokenizer = train_subwords(texts, 300)
    assert train_subwords(texts, 300).content() == tokenizer.content()
    (left, right) = tokenizer.encode(["a good film", "A GOOD FILM"], max_length=9, truncate="head")
    np.testing.assert_array_equal(left, right)
    assert tokenizer.backend.token_to_id("[PAD]") == 0
    (emoji,) = tokenizer.encode(["\N{GRINNING FACE}"], max_length=9, truncate="head")
    assert tokenizer.backend.decode(emoji.tolist()).strip() == "\N{GRINNING FACE}"


# ---- Batches


def test_batch_is_as_wide_as_its_longest_row_needs() -> None:
    tokens = np.ones((3, 150), np.int32)
    for longest, width in ((5, 64), (64, 64), (65, 128), (129, 150), (150, 150)):
        found = inputs(tokens, np.array([2, longest, 3]))
        assert found["input_ids"].shape == found["attention_mask"].shape == (3, width)
        np.testing.assert_array_equal(found["attention_mask"].sum(axis=1), [2, longest, 3])


def bucketed(rows: np.ndarray, count: int, **options: Any) -> list[np.ndarray]:
    options = {"batch_size": 4, "seed": 0, "lengths": rows} | options
    batches = shuffled_batches(lambda rows, epoch: {}, len(rows), **options)
    return [batch["index"] for batch in itertools.islice(batches, count)]


def test_batches_by_length_are_a_function_of_seed_and_step() -> None:
    lengths = np.random.default_rng(0).integers(2, 190, 402)  # 100 batches, and 2 rows left over
    found = bucketed(lengths, 200)
    np.testing.assert_array_equal(found[130:], bucketed(lengths, 70, start_step=130))
    for epoch in (found[:100], found[100:]):
        assert len(np.unique(np.concatenate(epoch))) == 400  # each at most once
    assert not np.array_equal(found[:100], found[100:])
    assert not np.array_equal(found, bucketed(lengths, 200, seed=1))

    def spread(batches: list[np.ndarray]) -> float:
        return float(np.mean([np.ptp(lengths[rows]) for rows in batches]))

    assert spread(found) < 0.1 * spread(bucketed(lengths, 200, lengths=None))
    # Short batches and long ones are mixed within the epoch.
    means = [lengths[rows].mean() for rows in found[:100]]
    assert abs(np.corrcoef(means, np.arange(100))[0, 1]) < 0.3


def test_reviews_that_are_trained_on_can_be_limited(tmp_path: Path) -> None:
    source = str(review_file(tmp_path / "reviews.csv"))
    sizes: dict[str, Any] = {"context_length": 13, "padding_id": 0}
    config = SubwordDataConfig(split="7:1:2", max_length=9, max_training_reviews=40)
    whole = load_subwords(source, dataclasses.replace(config, max_training_reviews=0), **sizes)
    some, other = (
        load_subwords(source, dataclasses.replace(config, split_seed=seed), **sizes)
        for seed in (0, 1)
    )
    assert len(some.train) == 40
    assert len(whole.train) == 112
    assert not set(some.train.texts) - set(whole.train.texts)
    assert 0.3 < some.train.labels.mean() < 0.7  # not the first forty of a sorted file
    assert some.test.texts == whole.test.texts
    assert some.train.texts != other.train.texts


# ---- Training


@pytest.mark.parametrize(
    "family",
    [
        "bert",
        pytest.param("roberta", marks=pytest.mark.slow),
        pytest.param("distilbert", marks=pytest.mark.slow),
    ],
)
def test_both_frameworks_fine_tune_alike(family: str, tmp_path: Path) -> None:
    source = review_file(tmp_path / "reviews.csv")
    start = checkpoint(tmp_path / "start", family=family)
    rows = {}
    for engine in ("flax", "torch"):
        output = train(source, tmp_path / engine, "--engine", engine, "--pretrained", start)
        assert "drawn" not in output  # the checkpoint has the head
        rows[engine] = [row["train_loss"] for row in history(tmp_path / engine)]
    np.testing.assert_allclose(rows["flax"], rows["torch"], rtol=1e-4)
    assert rows["torch"][1] < rows["torch"][0]
    other = checkpoint(tmp_path / "other", family=family, seed=8)
    train(source, tmp_path / "control", "--engine", "torch", "--pretrained", other)
    control = [row["train_loss"] for row in history(tmp_path / "control")]
    assert abs(control[0] / rows["torch"][0] - 1) > 1e-3, "other weights would not show"


def test_run_needs_nothing_but_its_folder(tmp_path: Path) -> None:
    """Stopped, its checkpoint gone, resumed: the same weights; then evaluated and asked."""
    source = review_file(tmp_path / "reviews.csv")
    start = checkpoint(tmp_path / "start", head="none", dropout_rate=0.2)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    flags = ("--engine", "torch", "--pretrained", start)
    output = train(source, whole, *flags)
    assert "has no classifier.weight, classifier.bias: drawn from seed 0" in output
    assert runs.load(whole).task.training.pretrained == str(start)
    with interrupted_in(epoch=2):
        code, _, _ = call("train", *FLAGS, "--source", source, "--out", stopped, *flags)
    assert (code, len(history(stopped))) == (130, 1)
    shutil.rmtree(start)
    assert "drawn" not in train(source, stopped, *flags, "--resume")
    assert_same_weights(load_engine(whole)[1].weights(), load_engine(stopped)[1].weights())
    assert history(whole) == history(stopped)
    code, output, errors = call("evaluate", stopped, "--engine", "torch")
    assert code == 0, errors
    found = json.loads((stopped / "metrics.json").read_text())
    assert f"loss {found['test_loss']:.4f} on 32 reviews" in output
    code, output, errors = call("predict", stopped, "A good, warm film", "dull " * 30)
    assert code == 0, errors
    assert output.count("positive") == output.count("negative") == 2


@pytest.mark.parametrize("engine", ["flax", "torch"])
def test_attention_is_shown_by_the_one_model_that_predicts(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = review_file(tmp_path / "reviews.csv")
    start, run = checkpoint(tmp_path / "start"), tmp_path / "run"
    train(source, run, "--engine", "torch", "--pretrained", start, "--epochs", 1)
    opened, open_tensors = [], hub_folder.open_tensors

    def spy(path: Path) -> Any:
        opened.append(path)
        return open_tensors(path)

    monkeypatch.setattr(hub_folder, "open_tensors", spy)
    page = tmp_path / "attention.html"
    texts = ("A <i>good</i> king & sea", "dull")
    code, _, errors = call("predict", run, *texts, "--engine", engine, "--attention", page)
    assert code == 0, errors
    assert opened == [run]
    shown = re.findall(r"title='([\d.]+)'>([^<]+)<", page.read_text())
    tokens = ["[CLS]", "a", "good", "king", "[UNK]", "sea", "[SEP]"]
    count = 1 + 2 * (1 + 3)  # all heads; of each layer the mean and each head
    rows = [shown[start : start + 7] for start in range(0, 7 * count, 7)]
    assert all([token for _, token in row] == tokens for row in rows)
    assert [token for _, token in shown[7 * count :]] == ["[CLS]", "dull", "[SEP]"] * count
    found = np.array([[float(weight) for weight, _ in row] for row in rows])
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-3)
    assert len(np.unique(found, axis=0)) == count
    ids = torch.tensor([[ID[token] for token in tokens]])
    output: Any = torchref.from_pretrained(run)(ids, output_attentions=True)
    first = output.attentions[0][0, :, 0].detach().numpy()
    np.testing.assert_allclose(found[2:5], first, atol=1e-3)


def test_lightning_fine_tunes_as_torch_does(tmp_path: Path) -> None:
    """By its own loop over the micro-batches, which Lightning calls manual optimisation."""
    source = review_file(tmp_path / "reviews.csv")
    start = checkpoint(tmp_path / "start", head="none", dropout_rate=0.2)
    for engine in ("torch", "lightning"):
        flags = ("--engine", engine, "--pretrained", start, "--training.micro-batches", 4)
        train(source, tmp_path / engine, *flags)
    assert history(tmp_path / "torch") == history(tmp_path / "lightning")
    left, right = (load_engine(tmp_path / name)[1].weights() for name in ("torch", "lightning"))
    assert_same_weights(left, right)


def test_outputs_are_in_the_splits_order(tmp_path: Path) -> None:
    """Though it is evaluated from short to long."""
    task = with_settings(
        TASKS["imdb-bert"],
        model={"hidden_dim": 12, "mlp_dim": 8},
        data={"split": "7:1:2"},
        training={"evaluation_batch_size": 10},
    )
    data = family_of(task).load(str(review_file(tmp_path / "reviews.csv")), task)

    def lengths_as_outputs(batch: Any, carry: Any) -> Any:
        found = batch["attention_mask"].sum(axis=1)
        return np.stack([found, 0 * found], axis=1).astype(np.float32), None

    outputs = evaluate(task, data, "test", lengths_as_outputs).outputs
    assert outputs is not None
    np.testing.assert_array_equal(outputs[:, 0], data.test.lengths)
    assert np.any(np.diff(data.test.lengths) < 0)


# ---- What does not fit


def test_checkpoint_that_does_not_fit_is_refused_before_the_folder_is_claimed(
    tmp_path: Path,
) -> None:
    source = review_file(tmp_path / "reviews.csv")
    start, out = checkpoint(tmp_path / "start"), tmp_path / "run"

    def message(*flags: object) -> str:
        found = refused("train", *FLAGS, "--source", source, "--out", out, *flags)
        assert found.count("\n") == 1
        assert not out.exists()
        return found

    gpt2 = GPT2Config(vocabulary_size=310, hidden_dim=12, num_layers=1, num_heads=3, mlp_dim=14)
    torchref.save_pretrained(torchref.create(gpt2, seed=0), gpt2, tmp_path / "gpt2")
    word_pieces(tmp_path / "gpt2")
    found = message("--pretrained", tmp_path / "gpt2")
    assert f"{tmp_path / 'gpt2' / 'config.json'} is of a GPT2" in found
    assert "DistilBERT" in found

    found = message("--pretrained", start, "--data.max-length", 14)
    assert "--data.max-length 13" in found
    found = message("--pretrained", start, "--model.hidden-dim", 24)
    assert "--model.hidden-dim 24 contradicts" in found
    assert "which has 12" in found
    found = message("--pretrained", tmp_path / "nowhere")
    assert f"{tmp_path / 'nowhere'} is not a folder" in found

    vocabulary = start / "vocab.txt"
    vocabulary.write_text("\n".join([*VOCABULARY, *(f"w{i}" for i in range(310))]) + "\n")
    found = message("--pretrained", start)
    assert f"{vocabulary} has {310 + len(VOCABULARY)} tokens, the model 310" in found
    vocabulary.write_text("film\nplot\n")
    assert f"{vocabulary} is no tokenizer" in message("--pretrained", start)
    (start / "tokenizer.json").write_text("{}")
    assert f"{start / 'tokenizer.json'} is no tokenizer" in message("--pretrained", start)
    for name in ("tokenizer.json", "vocab.txt"):
        (start / name).unlink()
    found = message("--pretrained", start)
    assert f"{start} has no tokenizer; expected tokenizer.json" in found

    found = refused("train", "imdb-lstm", "--pretrained", start, "--out", out)
    assert "--pretrained for imdb-lstm expects the run of a" in found


def test_tokenizer_without_tokens_for_the_ends_is_refused(tmp_path: Path) -> None:
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel({"film": 0, "?": 1}, unk_token="?"))
    library.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"tokenizer.json has no tokens for the ends of a text"):
        open_tokenizer(tmp_path)
    assert SubwordTokenizer(library, 0, 1, "").vocabulary_size == 2
