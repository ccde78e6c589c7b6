"""Perplexity on WikiText: its windows, its denominators, its sources, GPT-2's tokenizer."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
from jaxmodels.shared.text.metrics import count_words, perplexities
from jaxmodels.shared.text.tokenizers import ByteBPETokenizer, load_tokenizer
from parity_tests.cases import task_pair
from parity_tests.pairs import hot_leaves, precision
from parity_tests.text_rung import MAKERS
from parity_tests.tiny_runs import with_settings
from parity_tests.tiny_texts import write_prose
from parity_tests.wiki_texts import MODEL, gpt2_tokenizer, layout

TASK = dataclasses.replace(
    TASKS["wikitext-gpt2"],
    model=MODEL,
    data=WikiTextDataConfig(vocabulary_size=261, sequence_length=9, evaluation_stride=4),
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
