"""The loop keeps its promises on reviews and on text: exact resume, evaluation, fitted files."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")
torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

import jax  # noqa: E402

from jaxmodels.engine import FlaxEngine  # noqa: E402
from jaxmodels.shared.command_line import make_engine  # noqa: E402
from jaxmodels.shared.data.text import encode_split  # noqa: E402
from jaxmodels.shared.families.registry import family_of  # noqa: E402
from jaxmodels.shared.loop import evaluate, validate  # noqa: E402
from jaxmodels.shared.metrics import log_softmax  # noqa: E402
from jaxmodels.shared.tasks import TASKS, Task  # noqa: E402
from jaxmodels.shared.text.tokenizers import CharacterTokenizer  # noqa: E402
from parity_tests.tiny_runs import (  # noqa: E402
    EPOCHS,
    STEPS,
    Stop,
    assert_same_weights,
    call,
    compile_once,
    history,
    refused,
    train_tiny,
    with_settings,
)
from parity_tests.tiny_texts import (  # noqa: E402
    FAMILIES,
    REVIEW_FLAGS,
    REVIEW_TASK,
    REVIEWS,
    TEXT,
    TEXT_FLAGS,
    TEXT_TASK,
    review_file,
    text_file,
)
from torchref.engines.plain import TorchEngine  # noqa: E402

__all__ = ["compile_once"]  # a fixture

EVERY = 2  # steps between checkpoints
ENGINES = ("flax", "torch")
RUNS = [(engine, family) for family in FAMILIES for engine in ENGINES]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: Any) -> Any:
    """(engine name, family name) -> (engine, folder) of an uninterrupted run, trained once."""
    done: dict[tuple[str, str], tuple[Any, Path]] = {}

    def of(engine: str, family: str) -> tuple[Any, Path]:
        if (engine, family) not in done:
            folder = tmp_path_factory.mktemp(f"{engine}-{family}")
            task, data = FAMILIES[family]
            done[engine, family] = train_tiny(engine, folder, task, data=data)[0], folder
        return done[engine, family]

    return of


# ---- What a run is


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_of_the_tiny_tasks_try_every_edge(family: str) -> None:
    """Several steps an epoch, rows left over in training, a last batch partly filled."""
    task, data = FAMILIES[family]
    kind = family_of(task)
    assert kind.steps_per_epoch(task, data) == STEPS
    for split in ("validation", "test"):
        batches = list(kind.evaluation_batches(task, data, split))
        assert len(batches) > 1
        assert 0 < batches[-1]["mask"].mean() < 1
        assert sum(int(batch["mask"].sum()) for batch in batches) == kind.count(data, split)


@pytest.mark.parametrize(("engine", "family"), RUNS)
def test_fit_learns_and_records_each_epoch(engine: str, family: str, whole: Any) -> None:
    trained, folder = whole(engine, family)
    task, data = FAMILIES[family]
    rows = history(folder)
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    unit = {"reviews": "reviews", "text": "tokens"}[family]
    assert all(line[f"{unit}_per_second"] > 0 for line in lines)
    found = validate(task, data, trained.predict)
    assert found["validation_loss"] == rows[-1]["validation_loss"]
    assert 0 < found["validation_accuracy"] <= 1
    fitted = {"reviews": {"vocabulary.json"}, "text": {"characters.json", "text.json"}}[family]
    assert fitted <= {file.name for file in folder.iterdir()}


@pytest.mark.parametrize("engine", ["lightning", "accelerate"])
def test_torchs_engines_are_one_bit_for_bit_on_text(engine: str, whole: Any) -> None:
    (plain, plain_folder), (other, folder) = whole("torch", "text"), whole(engine, "text")
    assert_same_weights(plain.weights(), other.weights())
    assert history(plain_folder) == history(folder)


# ---- Resume

AT_AN_EPOCHS_END, WITHIN_AN_EPOCH = STEPS, STEPS + EVERY + 1
RESUMES = [
    *((*run, EVERY, stop) for run in RUNS for stop in (AT_AN_EPOCHS_END, WITHIN_AN_EPOCH)),
    ("lightning", "text", 0, WITHIN_AN_EPOCH),  # which goes back to the epoch's start
    ("accelerate", "text", EVERY, WITHIN_AN_EPOCH),
]


@pytest.mark.parametrize(("engine", "family", "every", "stop_at"), RESUMES)
def test_resumed_run_equals_the_uninterrupted_one(
    engine: str, family: str, every: int, stop_at: int, whole: Any, tmp_path: Path
) -> None:
    task, data = FAMILIES[family]
    task = with_settings(task, training={"checkpoint_every_steps": every})
    with pytest.raises(Stop):
        train_tiny(engine, tmp_path, task, stop_at=stop_at, data=data)
    resumed, _ = train_tiny(engine, tmp_path, task, resume=True, data=data)
    expected, folder = whole(engine, family)
    assert_same_weights(expected.weights(), resumed.weights())
    assert history(tmp_path) == history(folder)


def _flax_forgets(engine: FlaxEngine) -> None:
    engine.state["carry"] = jax.tree.map(jax.numpy.zeros_like, engine.state["carry"])


def _torch_forgets(engine: TorchEngine) -> None:
    engine.carry = None


@pytest.mark.parametrize(
    ("engine", "kind", "forget"),
    [("flax", FlaxEngine, _flax_forgets), ("torch", TorchEngine, _torch_forgets)],
)
def test_a_resume_that_forgets_the_carried_state_is_caught(
    engine: str, kind: Any, forget: Any, whole: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    task = with_settings(TEXT_TASK, training={"checkpoint_every_steps": EVERY})
    with pytest.raises(Stop):
        train_tiny(engine, tmp_path, task, stop_at=WITHIN_AN_EPOCH, data=TEXT)
    restore = kind.restore

    def forgetting(self: Any, name: str, step: int | None = None) -> Any:
        position = restore(self, name, step)
        forget(self)
        return position

    monkeypatch.setattr(kind, "restore", forgetting)
    resumed, _ = train_tiny(engine, tmp_path, task, resume=True, data=TEXT)
    with pytest.raises(AssertionError):
        assert_same_weights(whole(engine, "text")[0].weights(), resumed.weights())


def _other_text(text: str) -> Any:
    """The splits with another training text, in the run's own characters or with new ones."""
    tokenizer = CharacterTokenizer.train(TEXT.tokenizer.decode(TEXT.train.tokens) + text)
    train = encode_split(tokenizer, text * 20)
    return dataclasses.replace(TEXT, tokenizer=tokenizer, train=train)


@pytest.mark.parametrize(
    ("task", "data", "changed", "file"),
    [
        (TEXT_TASK, TEXT, _other_text("a good quiz"), "characters.json"),
        (TEXT_TASK, TEXT, _other_text("good film"), "text.json"),
        (
            REVIEW_TASK,
            REVIEWS,
            dataclasses.replace(
                REVIEWS,
                vocabulary=dataclasses.replace(
                    REVIEWS.vocabulary, words=(*REVIEWS.vocabulary.words, "new")
                ),
            ),
            "vocabulary.json",
        ),
    ],
)
def test_resume_on_changed_data_names_the_file(
    task: Task, data: Any, changed: Any, file: str, tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        train_tiny("torch", tmp_path, task, stop_at=STEPS + 1, data=data)
    with pytest.raises(ValueError, match=r"--resume: .* the data have changed") as error:
        train_tiny("torch", tmp_path, task, resume=True, data=changed)
    assert str(tmp_path / file) in str(error.value)
    train_tiny("torch", tmp_path, task, resume=True, data=data)  # nothing was spoilt


# ---- Evaluation


def _by_hand(logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, K), (N,) -> the loss and the hit of each."""
    losses = -log_softmax(logits.astype(np.float64))[np.arange(len(targets)), targets]
    return losses, logits.argmax(axis=-1) == targets


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("streams", [1, 3])
def test_text_is_evaluated_as_long_streams(engine: str, streams: int, tmp_path: Path) -> None:
    """One stream: the whole split at once, without batches. Three: each third by itself."""
    task = with_settings(TEXT_TASK, training={"evaluation_batch_size": streams})
    model: Any = make_engine(engine, task, tmp_path)  # type: ignore[arg-type]
    # Weights so large that what a stream has read before tells.
    model.load_weights({name: 3 * value for name, value in model.weights().items()})
    tokens = TEXT.validation.tokens
    length = -(-(len(tokens) - 1) // streams)
    losses, hits = [], []
    for start in range(0, len(tokens) - 1, length):
        stream = tokens[start : start + length + 1]
        logits, _ = model.predict({"tokens": stream[None, :-1], "reset": np.array([True])})
        loss, hit = _by_hand(logits[0], stream[1:])
        losses.append(loss)
        hits.append(hit)
    found = evaluate(task, TEXT, "validation", model.predict)
    assert found.count == len(tokens) - 1 == len(np.concatenate(losses))
    assert found.loss == pytest.approx(np.concatenate(losses).mean(), rel=1e-5)
    assert found.metric == pytest.approx(np.concatenate(hits).mean(), abs=1e-12)
    forgetful = evaluate(task, TEXT, "validation", lambda batch, carry: model.predict(batch, None))
    assert abs(forgetful.loss / found.loss - 1) > 1e-3, "a lost state would not show"


@pytest.mark.parametrize("engine", ENGINES)
def test_reviews_are_evaluated_each_by_itself(engine: str, tmp_path: Path) -> None:
    model: Any = make_engine(engine, REVIEW_TASK, tmp_path)  # type: ignore[arg-type]
    split = REVIEWS.validation
    batch = {"tokens": split.tokens, "lengths": split.lengths}
    logits = np.concatenate(
        [model.predict({k: v[row : row + 1] for k, v in batch.items()})[0] for row in range(23)]
    )
    losses, hits = _by_hand(logits, split.labels)
    found = evaluate(REVIEW_TASK, REVIEWS, "validation", model.predict)
    assert found.count == 23
    assert found.loss == pytest.approx(losses.mean(), rel=1e-6)
    assert found.metric == pytest.approx(hits.mean(), abs=1e-12)
    assert found.outputs is not None
    np.testing.assert_allclose(found.outputs, logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_masked_rows_count_for_nothing(family: str) -> None:
    """Outputs that are absurd exactly where the mask is 0 change no figure; elsewhere they do."""
    task, data = FAMILIES[family]
    kind = family_of(task)
    classes = 2 if family == "reviews" else task.model.vocabulary_size  # type: ignore[union-attr]

    def outputs(batch: Any, carry: Any, *, spoilt: float) -> Any:
        shape = (*batch[kind.TARGET].shape, classes)
        logits = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        return np.where((batch["mask"] == spoilt)[..., None], 1e6 * logits, logits), None

    def loss(spoilt: float) -> float:
        predict: Any = lambda batch, carry: outputs(batch, carry, spoilt=spoilt)  # noqa: E731
        return evaluate(task, data, "test", predict).loss

    assert loss(0) == loss(-1)  # no mask is -1: nothing is spoilt
    assert loss(1) > 1e3 * loss(-1)


# ---- Fitted files, and what does not fit


def test_other_text_is_read_with_the_runs_own_tokenizer(tmp_path: Path) -> None:
    task, kind = TASKS["shakespeare-gru"], family_of(TASKS["shakespeare-gru"])
    text = text_file(tmp_path / "text.txt")
    (tmp_path / "run").mkdir()
    for name, content in kind.fitted_files(kind.load(str(text), task)).items():
        (tmp_path / "run" / name).write_text(content)
    fewer = tmp_path / "fewer.txt"
    fewer.write_text("a sea of sand\n" * 30)
    own, runs = kind.load(str(fewer), task), kind.load(str(fewer), task, tmp_path / "run")
    assert runs.tokenizer.vocabulary_size > own.tokenizer.vocabulary_size
    assert runs.tokenizer.decode(runs.test.tokens) == own.tokenizer.decode(own.test.tokens)
    assert not np.array_equal(runs.validation.tokens, own.validation.tokens)
    fewer.write_text("a sea of sand\n" * 30 + "Ümlaut")
    with pytest.raises(ValueError, match=r"fewer.txt, validation part: character 'Ü'"):
        kind.load(str(fewer), task, tmp_path / "run")


def test_other_reviews_are_read_with_the_runs_own_vocabulary(tmp_path: Path) -> None:
    task = with_settings(TASKS["imdb-lstm"], data={"split": "7:1:2"})
    kind = family_of(task)
    trained = kind.load(str(review_file(tmp_path / "a.csv")), task)
    (tmp_path / "run").mkdir()
    for name, content in kind.fitted_files(trained).items():
        (tmp_path / "run" / name).write_text(content)
    other = review_file(tmp_path / "b.csv", rows=60, seed=9)
    own, runs = kind.load(str(other), task), kind.load(str(other), task, tmp_path / "run")
    assert runs.vocabulary.words == trained.vocabulary.words != own.vocabulary.words
    assert runs.test.texts == own.test.texts
    assert not np.array_equal(runs.test.tokens, own.test.tokens)


@pytest.mark.parametrize(
    ("flags", "source"), [(REVIEW_FLAGS, review_file), (TEXT_FLAGS, text_file)]
)
def test_a_vocabulary_beyond_the_models_table_is_refused(
    flags: Any, source: Any, tmp_path: Path
) -> None:
    file, out = source(tmp_path / "source.csv"), tmp_path / "run"
    message = refused("train", *flags, "--source", file, "--out", out, "--model.vocabulary-size", 5)
    assert message.count("\n") == 1
    assert str(file) in message
    assert "has a vocabulary of" in message
    size = int(message.rsplit("--model.vocabulary-size", 1)[1])
    assert not out.exists()
    settings = ("--source", file, "--out", out, "--model.vocabulary-size")
    assert "a vocabulary of" in refused("train", *flags, *settings, size - 1)
    # What the message asks for is enough, and not a row too many.
    shutil.rmtree(out, ignore_errors=True)
    assert call("train", *flags, *settings, size, "--engine", "torch", "--epochs", 1)[0] == 0
