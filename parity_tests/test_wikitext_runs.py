"""wikitext-gpt2 by its commands: pretrained, fine-tuned, measured before and after; its text."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import torchref
from jaxmodels.shared import run as runs
from jaxmodels.shared.before import measure_start
from jaxmodels.shared.command_line import load_engine, make_engine
from jaxmodels.shared.configs import BERTConfig
from jaxmodels.shared.families import wikitext
from jaxmodels.shared.fine_tuning import starting_weights
from jaxmodels.shared.hub import folder as hub_folder
from jaxmodels.shared.text.metrics import count_words
from jaxmodels.shared.text.tokenizers import load_tokenizer
from parity_tests.tiny_runs import (
    assert_same_weights,
    call,
    compile_once,
    history,
    interrupted_in,
    refused,
)
from parity_tests.tiny_texts import write_prose
from parity_tests.wiki_texts import MODEL, gpt2_tokenizer, layout

__all__ = ["compile_once"]  # a fixture

SIZES = (
    *("--model.hidden-dim", 12, "--model.num-layers", 2, "--model.num-heads", 3),
    *("--model.mlp-dim", 14, "--model.context-length", 11, "--model.vocabulary-size", 262),
    *("--model.dropout-rate", 0, "--model.attention-dropout-rate", 0),
)
SETTINGS = (
    *("--data.vocabulary-size", 261, "--data.sequence-length", 9, "--data.evaluation-stride", 4),
    *("--epochs", 2, "--batch-size", 12, "--optimizer.learning-rate", 0.01),
)


# ---- Training


def train(source: Path, out: Path, *flags: object) -> str:
    code, output, errors = call(
        "train", "wikitext-gpt2", *SETTINGS, "--source", source, "--out", out, *flags
    )
    assert code == 0, errors
    return output


@pytest.fixture(scope="module")
def data(tmp_path_factory: Any) -> Path:
    return layout(tmp_path_factory.mktemp("data") / "wiki", "{}.txt", ("valid", "test"))


@pytest.fixture(scope="module")
def start(tmp_path_factory: Any) -> Path:
    """A run of ours on another text, which is then a checkpoint."""
    folder = tmp_path_factory.mktemp("start")
    (folder / "text.txt").write_text(write_prose(300, 5).upper())
    train(folder / "text.txt", folder / "run", "--engine", "torch", *SIZES)
    return folder / "run"


def metrics(folder: Path) -> Any:
    return json.loads((folder / "metrics.json").read_text())


VALIDATION = ("--data.training-split", "validation")


@pytest.fixture(scope="module")
def tuned(data: Path, start: Path, tmp_path_factory: Any) -> Path:
    """Runs of every engine from that checkpoint."""
    folder = tmp_path_factory.mktemp("tuned")
    opened, open_tensors = [], hub_folder.open_tensors

    def spy(path: Path) -> Any:
        opened.append(path)
        return open_tensors(path)

    for engine in ("flax", "torch", "lightning"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hub_folder, "open_tensors", spy)
            output = train(
                data, folder / engine, "--engine", engine, "--pretrained", start, *VALIDATION
            )
        assert len(opened) == 1  # for what is before and for the training
        opened.clear()
        before = metrics(folder / engine)["before"]
        assert f"{start} before training:" in output
        assert len(re.findall(r"perplexity [\d,.]+ a token", output)) == 2
        assert f"perplexity {before['token_perplexity']:,.2f} a token" in output
    return folder


def test_run_is_a_checkpoint_and_is_measured_before_and_after(
    data: Path, start: Path, tuned: Path, tmp_path: Path
) -> None:
    same = layout(tmp_path / "same", "{}.txt")  # whose validation text is the test text of `data`
    assert (same / "valid.txt").read_text() == (data / "test.txt").read_text()
    flags = ("--source", same, "--split", "validation", "--out", tmp_path / "own")
    code, _, errors = call("evaluate", start, *flags)
    assert code == 0, errors
    own = metrics(tmp_path / "own")
    for engine in ("flax", "torch"):
        found = metrics(tuned / engine)
        assert load_tokenizer(tuned / engine).file() == load_tokenizer(start).file()
        assert found["before"].keys() == {
            *("test_loss", "token_perplexity", "word_perplexity", "bits_per_byte")
        }
        assert found["before"]["word_perplexity"] == pytest.approx(own["word_perplexity"], rel=1e-5)
        assert found["word_perplexity"] < 0.5 * found["before"]["word_perplexity"]
        assert found["words"] == count_words((data / "test.txt").read_text()) - 1  # the first token
        assert (found["tokens"], found["window"], found["stride"]) == (found["test_examples"], 9, 4)
        code, output, errors = call("evaluate", tuned / engine)
        assert code == 0, errors
        assert (
            f"{found['token_perplexity']:,.2f} a token, {found['word_perplexity']:,.2f} a" in output
        )
        assert f"({found['words']:,}: between white space, and one <eos> a line)" in output


def test_engines_fine_tune_alike(data: Path, start: Path, tuned: Path, tmp_path: Path) -> None:
    left, right = (metrics(tuned / name) for name in ("flax", "torch"))
    assert left["token_perplexity"] == pytest.approx(right["token_perplexity"], rel=1e-4)
    assert left["before"] == pytest.approx(right["before"], rel=1e-5)
    weights = [load_engine(tuned / name)[1].weights() for name in ("torch", "lightning")]
    assert_same_weights(*weights)
    assert metrics(tuned / "lightning")["before"] == right["before"]
    train(data, tmp_path / "fresh", "--engine", "torch", *VALIDATION, *SIZES)
    fresh = metrics(tmp_path / "fresh")
    assert "before" not in fresh
    assert fresh["token_perplexity"] != pytest.approx(right["token_perplexity"], rel=1e-3)


def test_table_of_runs_has_their_perplexities_and_no_counts(tuned: Path) -> None:
    code, table, errors = call("compare_runs", tuned / "flax", tuned / "torch")
    assert (code, errors) == (0, "")
    header = table.partition("\n")[0].strip("| ").split(" | ")
    assert {"test loss", "token perplexity", "word perplexity"} <= set(header)
    assert not {"tokens", "words", "bytes", "window", "stride", "test examples"} & set(header)


def test_one_process_alone_writes_what_was_before(
    data: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.load(tuned / "torch")
    loaded = wikitext.load(str(data), run.task)
    start = run.task.training.pretrained
    engine = make_engine(
        "torch", run.task, tmp_path, lambda fresh: starting_weights(run.task, fresh)[0]
    )
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert measure_start(run.task, loaded, tmp_path, engine) == []
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("RANK", "0")
    said, *_ = measure_start(run.task, loaded, tmp_path, engine)
    assert said == f"{start} before training:"
    assert metrics(tmp_path / "before")["word_perplexity"] == pytest.approx(
        metrics(tuned / "torch")["before"]["word_perplexity"]
    )


def test_samples_are_side_by_side(tuned: Path) -> None:
    page = (tuned / "torch" / "samples.md").read_text()
    assert "| before fine-tuning | after fine-tuning | the text itself |" in page
    before, after = (
        json.loads((tuned / "torch" / part / "samples.json").read_text()) for part in ("before", "")
    )
    assert page.count("\n## ") == len(before) == len(after)
    for left, right in zip(before, after, strict=True):
        assert left["prompt"] == right["prompt"]
        assert left["sample"] != right["sample"]
    rows = [
        line for line in page.splitlines() if line.startswith("| ") and "fine-tuning" not in line
    ]
    assert all(row.count("|") == 4 for row in rows)


def test_cells_show_markup_as_it_is() -> None:
    assert wikitext._cell("a <unk>\n|b* & `c`") == "a &lt;unk&gt;<br>&#124;b&#42; &amp; &#96;c&#96;"


def test_resumed_run_needs_no_checkpoint_and_keeps_what_was_before(
    data: Path, start: Path, tuned: Path, tmp_path: Path
) -> None:
    copy, out = shutil.copytree(start, tmp_path / "copy"), tmp_path / "out"
    flags = ("--engine", "torch", "--pretrained", copy, *VALIDATION)
    with interrupted_in(epoch=2):
        code, _, _ = call(
            "train", "wikitext-gpt2", *SETTINGS, "--source", data, "--out", out, *flags
        )
    assert (code, len(history(out))) == (130, 1)
    shutil.rmtree(copy)
    assert "before training" not in train(data, out, *flags, "--resume")
    assert metrics(out)["before"] == metrics(tuned / "torch")["before"]
    assert_same_weights(load_engine(out)[1].weights(), load_engine(tuned / "torch")[1].weights())


def test_what_does_not_fit_is_refused_before_the_folder_is_claimed(
    data: Path, start: Path, tmp_path: Path
) -> None:
    def message(*flags: object) -> str:
        out = tmp_path / "out"
        found = refused("train", "wikitext-gpt2", *SETTINGS, "--source", data, "--out", out, *flags)
        assert found.count("\n") == 1
        assert not out.exists()
        return found

    bert = BERTConfig(vocabulary_size=262, hidden_dim=12, num_layers=1, num_heads=3, mlp_dim=14)
    torchref.save_pretrained(torchref.create(bert, seed=0), bert, tmp_path / "bert")
    assert "is of a BERT; --pretrained for wikitext-gpt2 expects GPT-2" in message(
        "--pretrained", tmp_path / "bert", *VALIDATION
    )
    long = ("--data.sequence-length", 12, *VALIDATION)
    assert "longer than the model's context; add --data.sequence-length 11" in message(
        "--pretrained", start, *long
    )
    assert "or --model.context-length 12" in message(*SIZES, *long)
    other = ("shakespeare-transformer", "--data.sequence-length", 300, "--out", tmp_path / "out")
    assert "or --model.context-length 300" in refused("train", *other)
    assert "--data.training-split validation" in message(*SIZES)
    assert "--data.evaluation-stride 10 leaves tokens out" in message(
        "--data.evaluation-stride", 10
    )
    gpt2_tokenizer(tmp_path / "gpt2")
    found = message(
        "--data.tokenizer-folder",
        tmp_path / "gpt2",
        *VALIDATION,
        *SIZES,
        "--model.vocabulary-size",
        260,
    )
    assert "vocabulary of 261, the model one of 260; add --model.vocabulary-size 261" in found
    found = refused("train", "imdb-lstm", "--pretrained", start, "--out", tmp_path / "out")
    assert "--pretrained for imdb-lstm expects the run of a TextClassifier" in found


# ---- Generation


def gpt2_folder(folder: Path) -> Path:
    """A GPT-2 as the Hub has it, with lively weights."""
    config = dataclasses.replace(MODEL, context_length=64)
    model = torchref.create(config, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= 12
    torchref.save_pretrained(model, config, folder)
    gpt2_tokenizer(folder)
    return folder


def written(folder: Path, *arguments: object) -> str:
    code, text, errors = call("generate", folder, "--max-new-tokens", 20, *arguments)
    assert (code, errors) == (0, "")
    return text


def test_runs_and_hub_folders_write_text(tuned: Path, tmp_path: Path) -> None:
    hub = gpt2_folder(tmp_path / "hub")
    greedy = ("--prompt", "the king", "--temperature", 0)
    for folder in (tuned / "torch", hub):
        flax, other = (written(folder, *greedy, "--engine", name) for name in ("flax", "torch"))
        assert flax == other
        assert flax.startswith("the king")
    found = written(hub, "--prompt", "the king", "--beams", 2, "--engine", "torch")
    assert found.startswith("the king")
    assert found != other
    warm = ("--beams", 2, "--temperature", 2, "--engine", "torch")
    assert "--temperature with --beams is for runs" in refused("generate", hub, *warm)
    assert written(tuned / "torch", "--prompt", "the king", *warm).startswith("the king")
    prompts = ("--prompt", "the king", "--prompt", "a")
    side_by_side = written(hub, *prompts, "--temperature", 0, "--engine", "torch")
    alone = written(hub, "--prompt", "the king", "--temperature", 0, "--engine", "torch")
    assert side_by_side.startswith("----- 1 of 2\n" + alone)
    sampled = [written(hub, "--seed", seed, "--engine", "torch") for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]
    assert written(hub, "--seed", 1, "--engine", "torch", "--no-stream") == sampled[0]


def test_hub_folder_ends_at_its_end_of_text(tmp_path: Path) -> None:
    hub = gpt2_folder(tmp_path / "hub")
    greedy = ("--prompt", "a", "--temperature", 0, "--engine", "torch")
    whole = written(hub, *greedy)
    tokenizer = load_tokenizer(hub)
    ids = tokenizer.encode(whole.removesuffix("\n"))
    path = hub / "config.json"
    content = json.loads(path.read_text())
    model = torchref.from_pretrained(hub)
    tokens = torchref.generate.generate(model, ids[None, :1], max_new_tokens=20)[0].tolist()
    content["eos_token_id"] = tokens[4]
    path.write_text(json.dumps(content))
    first = tokens.index(tokens[4], 1)
    assert written(hub, *greedy) == "a" + tokenizer.decode(tokens[1:first]) + "\n"


def test_stop_may_span_tokens(tmp_path: Path) -> None:
    hub = gpt2_folder(tmp_path / "hub")
    options = ("--prompt", "the king", "--seed", 3, "--engine", "torch")
    new = written(hub, *options).removeprefix("the king").removesuffix("\n")
    stop = new[4:9]
    expected = "the king" + new[: new.index(stop) + 5] + "\n"
    for stream in ("--stream", "--no-stream"):
        assert written(hub, *options, "--stop", stop, stream) == expected
    assert len(load_tokenizer(hub).encode(stop)) > 1
