"""Perplexity on WikiText: its windows and denominators, its sources, and fine-tuning by run."""

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import torchref
from jaxmodels.shared.command_line import load_engine
from jaxmodels.shared.configs import BERTConfig, GPT2Config
from jaxmodels.shared.data.text import TextData, encode_split
from jaxmodels.shared.data.wikitext import (
    WikiTextDataConfig,
    load_wikitext,
    split_texts,
    strided_windows,
)
from jaxmodels.shared.data.wikitext_sources import read_wikitext
from jaxmodels.shared.families import wikitext
from jaxmodels.shared.loop import evaluate
from jaxmodels.shared.metrics import log_softmax
from jaxmodels.shared.tasks import TASKS, Task
from jaxmodels.shared.text_metrics import count_words, perplexities
from jaxmodels.shared.tokenizers import ByteBPETokenizer, load_tokenizer
from parity_tests.cases import task_pair
from parity_tests.pairs import hot_leaves, precision
from parity_tests.test_bad_input import refused
from parity_tests.text_rung import MAKERS
from parity_tests.tiny_runs import (
    assert_same_weights,
    call,
    compile_once,
    history,
    with_settings,
)
from parity_tests.tiny_texts import write_prose

__all__ = ["compile_once"]  # a fixture

MODEL = GPT2Config(
    vocabulary_size=262,
    context_length=11,
    hidden_dim=12,
    num_layers=2,
    num_heads=3,
    mlp_dim=14,
    dropout_rate=0.0,
    attention_dropout_rate=0.0,
)
TASK = dataclasses.replace(
    TASKS["wikitext-gpt2"],
    model=MODEL,
    data=WikiTextDataConfig(vocabulary_size=261, sequence_length=9, evaluation_stride=4),
)
SIZES = (
    *("--model.hidden-dim", 12, "--model.num-layers", 2, "--model.num-heads", 3),
    *("--model.mlp-dim", 14, "--model.context-length", 11, "--model.vocabulary-size", 262),
    *("--model.dropout-rate", 0, "--model.attention-dropout-rate", 0),
)
SETTINGS = (
    *("--data.vocabulary-size", 261, "--data.sequence-length", 9, "--data.evaluation-stride", 4),
    *("--epochs", 2, "--batch-size", 12, "--optimizer.learning-rate", 0.01),
)


def windows(count: int, *, length: int, stride: int, batch_size: int = 3) -> list[Any]:
    tokens = np.arange(count, dtype=np.int32)
    found = strided_windows(tokens, batch_size=batch_size, sequence_length=length, stride=stride)
    return list(found)


# ---- Windows


@pytest.mark.parametrize("count", [2, 5, 9, 10, 11, 14, 50])
@pytest.mark.parametrize(("length", "stride"), [(9, 4), (9, 1), (9, 9), (8, 4)])
def test_every_token_is_predicted_once_and_behind_a_long_text(
    count: int, length: int, stride: int
) -> None:
    predicted = []
    for batch in windows(count, length=length, stride=stride):
        for tokens, targets, mask in zip(
            batch["tokens"], batch["targets"], batch["mask"], strict=True
        ):
            for place in np.flatnonzero(mask):
                np.testing.assert_array_equal(tokens[: place + 1] + 1, targets[: place + 1])
                predicted.append(int(targets[place]))
                assert place + 1 > length - stride or targets[place] == place + 1
    assert predicted == list(range(1, count))
    assert (
        len({batch["tokens"].shape for batch in windows(count, length=length, stride=stride)}) == 1
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 0}, "stride 0 must be in 1 .. 9"),
        ({"stride": 10}, "stride 10"),
        ({}, "1 tokens"),
    ],
)
def test_windows_that_cannot_be_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        windows(1, length=9, **({"stride": 4} | options))


def float64_models(task: Task) -> dict[str, Any]:
    """Both frameworks' predictions in float64 from the same hot weights."""
    pair = task_pair(task)
    leaves = hot_leaves(pair, 0)
    return {name: make(task, pair, leaves, "float64") for name, make in MAKERS.items()}


def test_perplexity_is_that_of_a_loop_over_the_tokens() -> None:
    """Each token's probability from a call of its own, with nothing but the text before it."""
    tokenizer = ByteBPETokenizer.train(write_prose(80, 0), 261)
    split = encode_split(tokenizer, "to be , or\n not to be <unk>\n  1 @-@ 2 = 3\n")
    data = TextData("a text", tokenizer, split, split, split)
    tokens, (length, stride) = data.test.tokens, (9, 4)
    with precision("float64"):
        models = float64_models(TASK)
        found = {name: evaluate(TASK, data, "test", models[name]) for name in models}
        nats = 0.0
        for target in range(1, len(tokens)):
            window = max(0, math.ceil((target - length) / stride))
            before = tokens[None, window * stride : target]
            assert min(target, length - stride + 1) <= before.shape[1] <= length
            outputs, _ = models["torch"]({"tokens": before}, None)
            nats -= log_softmax(outputs[0, -1])[tokens[target]]
        doubled = [
            batch | {"mask": np.ones_like(batch["mask"])}
            for batch in wikitext.evaluation_batches(TASK, data, "test")
        ]
        twice = _mean_loss(models["torch"], doubled)
    count = len(tokens) - 1
    for evaluation in found.values():
        assert evaluation.count == count
        assert abs(evaluation.loss / (nats / count) - 1) < 1e-12
    assert abs(twice / (nats / count) - 1) > 1e-4, "overlaps counted twice would not show"
    figures = wikitext.figures(TASK, data.test, found["flax"])
    assert figures["word_perplexity"] == pytest.approx(math.exp(nats / 16), rel=1e-12)
    assert (figures["words"], figures["stride"], figures["window"]) == (16, 4, 9)
    other = with_settings(TASK, data={"evaluation_stride": 9})
    with precision("float64"):
        apart = evaluate(other, data, "test", float64_models(other)["torch"])
    assert abs(apart.loss / (nats / count) - 1) > 1e-4, "another stride would not show"


def _mean_loss(predict: Any, batches: list[Any]) -> float:
    loss = count = 0.0
    for batch in batches:
        losses, _ = wikitext.score(TASK, predict(batch, None)[0], batch["targets"])
        loss += float((losses * batch["mask"]).sum())
        count += float(batch["mask"].sum())
    return loss / count


# ---- Denominators


def test_words_are_counted_as_wikitext_counts_them() -> None:
    assert count_words(" \n = Title = \n \n a , <unk> @-@ b\n") == 3 + 5 + 4
    assert count_words("a b") == count_words("a b\n") == 3
    assert count_words("") == 0


def test_nats_are_shared_among_tokens_words_and_bytes() -> None:
    found = perplexities(math.log(2), num_tokens=12, num_words=4, num_bytes=24)
    expected = {"token_perplexity": 2, "word_perplexity": 8, "bits_per_byte": 0.5}
    assert found == pytest.approx(expected)
    high = perplexities(500.0, num_tokens=12, num_words=4, num_bytes=24)
    assert high["token_perplexity"] == pytest.approx(math.exp(500))
    assert high["word_perplexity"] is None


def test_split_counts_the_text_of_its_targets() -> None:
    text = "Ä b\nc d"
    split = encode_split(ByteBPETokenizer.train("x", 256), text)
    assert len(split.tokens) == split.num_bytes + 1 == 8
    assert split.words == 5  # "Ä" is not whole among the targets


@pytest.mark.slow
def test_real_wikitext_has_the_published_counts() -> None:
    folder = Path(os.environ.get("JAXMODELS_DATA", "")) / "wikitext-2"
    if not (folder / "test.txt").exists():
        pytest.skip("WikiText-2 is not here; set JAXMODELS_DATA")
    texts = read_wikitext(str(folder)).texts
    assert count_words(texts["validation"]) == 217_646
    assert count_words(texts["test"]) == 245_569


# ---- Sources


def layout(folder: Path, kind: str, splits: tuple[str, ...] = ("train", "valid", "test")) -> Path:
    folder.mkdir(parents=True)
    for seed, split in enumerate(splits):
        text = write_prose(60, seed)
        if kind == "parquet":
            import pyarrow
            import pyarrow.parquet

            split = {"valid": "validation"}.get(split, split)
            below = folder / "wikitext-2-v1"
            below.mkdir(exist_ok=True)
            rows = [line if line != "\n" else "" for line in ("\n" + text).splitlines(True)]
            table = pyarrow.table({"text": rows})
            pyarrow.parquet.write_table(table, below / f"{split}-00000-of-00001.parquet")
        else:
            (folder / kind.format(split)).write_text("\n" + text)
    return folder


@pytest.mark.parametrize("kind", ["{}.txt", "wiki.{}.tokens", "wiki.{}.raw", "parquet"])
def test_every_layout_gives_the_same_splits(kind: str, tmp_path: Path) -> None:
    found = read_wikitext(str(layout(tmp_path / "data", kind)))
    assert list(found.texts) == ["train", "validation", "test"]
    for seed, text in enumerate(found.texts.values()):
        assert text == "\n" + write_prose(60, seed)


def test_hub_is_asked_for_the_subset(monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxmodels.shared.data import text_sources

    class Table(dict):
        column_names = ("text",)

    def load_hub(name: str, *, subset: str | None, revision: str | None) -> Any:
        asked.append((name, subset, revision))
        return {split: Table(text=[split, "", "end\n"]) for split in ("test", "train")}

    asked: list[Any] = []
    monkeypatch.setattr(text_sources, "load_hub", load_hub)
    found = read_wikitext("hub")
    assert found.texts == {"train": "train\n\nend\n", "test": "test\n\nend\n"}
    read_wikitext("hub:a/b:c@main")
    assert asked == [("Salesforce/wikitext", "wikitext-2-raw-v1", None), ("a/b", "c", "main")]


def test_split_to_train_on_is_never_another_one_unasked(tmp_path: Path) -> None:
    source = str(layout(tmp_path / "data", "{}.txt", ("valid", "test")))
    with pytest.raises(ValueError, match=r"no train split; add --data.training-split validation"):
        load_wikitext(source, WikiTextDataConfig())
    config = WikiTextDataConfig(training_split="validation", vocabulary_size=256)
    data = load_wikitext(source, config)
    assert data.source.endswith("trained on validation")
    raw = read_wikitext(source)
    train, validation, test = split_texts(raw, config)
    assert train + validation == raw.texts["validation"]
    assert len(validation) == pytest.approx(0.1 * len(train), rel=0.2)
    assert test == raw.texts["test"]
    with pytest.raises(ValueError, match=r"no validation split; add --data.training-split train"):
        split_texts(read_wikitext("sample"), config)


def test_fraction_is_the_first_whole_lines(tmp_path: Path) -> None:
    raw = read_wikitext(str(layout(tmp_path / "data", "{}.txt")))
    whole, *others = split_texts(raw, WikiTextDataConfig())
    part, *same = split_texts(raw, WikiTextDataConfig(training_fraction=0.1))
    assert whole.startswith(part)
    assert part.endswith("\n")
    assert 0.1 <= len(part) / len(whole) < 0.25
    assert same == others
    data = load_wikitext(
        str(tmp_path / "data"), WikiTextDataConfig(training_fraction=0.1, vocabulary_size=256)
    )
    assert data.source.endswith("the first 10% of the training text")
    assert data.tokenizer.decode(data.train.tokens.tolist()) == part


def test_folders_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    two = layout(tmp_path / "two", "parquet")
    (two / "wikitext-103-v1").mkdir()
    (two / "wikitext-103-v1" / "train.txt").write_text("a b\n")
    both = layout(tmp_path / "both", "{}.txt")
    (both / "wiki.train.raw").write_text("a b\n")
    torn = layout(tmp_path / "torn", "parquet") / "wikitext-2-v1" / "test-00000-of-00001.parquet"
    torn.write_bytes(torn.read_bytes()[:90])
    blank = layout(tmp_path / "blank", "{}.txt")
    (blank / "test.txt").write_text("")
    for source, message in {
        tmp_path / "empty": "has no files of splits; expected train, valid and test as .txt",
        two: "name one of .*wikitext-103-v1, .*wikitext-2-v1",
        both: "train.txt, .*wiki.train.raw are of one split; keep the one",
        torn.parent: "test-00000-of-00001.parquet is not a readable parquet file",
        blank: "test.txt: empty",
        "tfds": "has no WikiText",
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            read_wikitext(str(source))
        assert "\n" not in str(caught.value)


# ---- Tokenizer


def gpt2_tokenizer(folder: Path) -> ByteBPETokenizer:
    """vocab.json and merges.txt, as GPT-2 was published."""
    tokenizer = ByteBPETokenizer.train(write_prose(80, 0), 261)
    folder.mkdir(exist_ok=True)
    tokenizer._library.model.save(str(folder))
    return tokenizer


def test_tokenizer_of_gpt2_is_read(tmp_path: Path) -> None:
    own = gpt2_tokenizer(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merges.txt", "vocab.json"]
    read = load_tokenizer(tmp_path)
    text = write_prose(30, 1) + " naïve \N{GRINNING FACE}\n\n x"
    np.testing.assert_array_equal(read.encode(text), own.encode(text))
    assert read.decode(read.encode(text)) == text
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2TokenizerFast(
        str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")
    )
    assert theirs(text)["input_ids"] == read.encode(text).tolist()
    config = WikiTextDataConfig(tokenizer_folder=str(tmp_path))
    assert load_wikitext("sample", config).tokenizer.vocabulary_size == 261
    (tmp_path / "merges.txt").write_text("no merge")
    with pytest.raises(ValueError, match=r"vocab.json is not a tokenizer"):
        load_tokenizer(tmp_path)


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
    for engine in ("flax", "torch", "lightning"):
        output = train(
            data, folder / engine, "--engine", engine, "--pretrained", start, *VALIDATION
        )
        before = metrics(folder / engine)["before"]
        assert f"{start} before training:" in output
        assert output.count("perplexity ") == 2
        assert f"perplexity {before['token_perplexity']:,.2f} a token" in output
    return folder


def test_run_is_a_checkpoint_and_is_measured_before_and_after(
    data: Path, start: Path, tuned: Path, tmp_path: Path
) -> None:
    code, _, errors = call(
        "evaluate",
        start,
        "--source",
        layout(tmp_path / "w", "{}.txt", ("train", "valid", "test")),
        "--out",
        tmp_path / "own",
    )
    assert code == 0, errors
    for engine in ("flax", "torch"):
        found = metrics(tuned / engine)
        assert load_tokenizer(tuned / engine).file() == load_tokenizer(start).file()
        assert found["before"].keys() == {
            *("test_loss", "token_perplexity", "word_perplexity", "bits_per_byte")
        }
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
    import shutil

    from jaxmodels.shared import loop

    copy, out = shutil.copytree(start, tmp_path / "copy"), tmp_path / "out"
    flags = ("--engine", "torch", "--pretrained", copy, *VALIDATION)
    original, epochs = loop.train_epoch, []

    def stop(*arguments: Any) -> Any:
        epochs.append(1)
        if len(epochs) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    loop.train_epoch = stop  # type: ignore[assignment]
    try:
        code, _, _ = call(
            "train", "wikitext-gpt2", *SETTINGS, "--source", data, "--out", out, *flags
        )
    finally:
        loop.train_epoch = original
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
    assert "imdb-bert and wikitext-gpt2 can start from a checkpoint" in found


# ---- Generation


def hub_folder(folder: Path) -> Path:
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
    hub = hub_folder(tmp_path / "hub")
    greedy = ("--prompt", "the king", "--temperature", 0)
    for folder in (tuned / "torch", hub):
        flax, other = (written(folder, *greedy, "--engine", name) for name in ("flax", "torch"))
        assert flax == other
        assert flax.startswith("the king")
    found = written(hub, "--prompt", "the king", "--beams", 2, "--engine", "torch")
    assert found.startswith("the king")
    assert found != other
    prompts = ("--prompt", "the king", "--prompt", "a")
    side_by_side = written(hub, *prompts, "--temperature", 0, "--engine", "torch")
    alone = written(hub, "--prompt", "the king", "--temperature", 0, "--engine", "torch")
    assert side_by_side.startswith("----- 1 of 2\n" + alone)
    sampled = [written(hub, "--seed", seed, "--engine", "torch") for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]
    assert written(hub, "--seed", 1, "--engine", "torch", "--no-stream") == sampled[0]


def test_hub_folder_ends_at_its_end_of_text(tmp_path: Path) -> None:
    hub = hub_folder(tmp_path / "hub")
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
    hub = hub_folder(tmp_path / "hub")
    options = ("--prompt", "the king", "--seed", 3, "--engine", "torch")
    new = written(hub, *options).removeprefix("the king").removesuffix("\n")
    stop = new[4:9]
    expected = "the king" + new[: new.index(stop) + 5] + "\n"
    for stream in ("--stream", "--no-stream"):
        assert written(hub, *options, "--stop", stop, stream) == expected
    assert len(load_tokenizer(hub).encode(stop)) > 1
