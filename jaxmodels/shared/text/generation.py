"""Text from a trained language model: what `decoding` needs of an engine, and a run's samples.

>>> step, select, state = make_decoder(task, engine.predict)
>>> tokens = stream(step, state, prompts, vocabulary_size=65, max_new_tokens=200)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.shared.configs import CharRNNConfig
from jaxmodels.shared.data.wikitext import LanguageDataConfig
from jaxmodels.shared.families.family import Predict
from jaxmodels.shared.files import replaced
from jaxmodels.shared.tasks import Task
from jaxmodels.shared.text.decoding import Sampling, Select, State, Step, collect, stream
from jaxmodels.shared.text.metrics import bleu, distinct_n, repetition
from jaxmodels.shared.text.tokenizers import Tokenizer

# Of a run's samples: how many, and the lengths of prompt and continuation in tokens.
NUM_SAMPLES, PROMPT_LENGTH, SAMPLE_LENGTH = 4, 48, 240
SAMPLING = Sampling(temperature=0.8)


@dataclass(frozen=True)
class Passage:
    """A passage of held-out text: its beginning, how the model goes on, and how it went on."""

    prompt: str
    sample: str
    original: str


def make_decoder(task: Task, predict: Predict) -> tuple[Step, Select, State]:
    """`step`, `select` and the state of rows before their first token, as `decoding` takes them."""
    if isinstance(task.model, CharRNNConfig):
        return _carrying_decoder(predict)
    assert isinstance(task.data, LanguageDataConfig)
    return _caching_decoder(predict, task.data.sequence_length)


def _carrying_decoder(predict: Predict) -> tuple[Step, Select, State]:
    """The state is what the model carries."""

    def step(state: State, tokens: np.ndarray) -> tuple[np.ndarray, State]:
        batch = {"tokens": tokens[:, None], "reset": np.zeros(len(tokens), bool)}
        outputs, state = predict(batch, state)  # (B, 1, V)
        return outputs[:, 0], state

    def select(state: State, rows: np.ndarray) -> State:
        if state is None:  # before the first token all rows are alike
            return None
        return tuple(tuple(part[:, rows] for part in layer) for layer in state)

    return step, select, None


def _caching_decoder(predict: Predict, context_length: int) -> tuple[Step, Select, State]:
    """The state is the text so far, and the model's keys and values of it.

    Beyond `context_length` the model reads the last of the text anew for every token: each has
    another position than before, so that nothing kept would hold.
    """

    def step(state: State, tokens: np.ndarray) -> tuple[np.ndarray, State]:
        text, cache = state or (tokens[:, None][:, :0], None)
        text = np.append(text, tokens[:, None], axis=1)
        if text.shape[1] <= context_length:
            batch = {"tokens": tokens[:, None], "start": np.array(text.shape[1] - 1, np.int32)}
            outputs, cache = predict(batch, cache)  # (B, 1, V)
            return outputs[:, 0], (text, cache)
        text = text[:, -context_length:]
        outputs, _ = predict({"tokens": text}, None)  # (B, T, V)
        return outputs[:, -1], (text, None)

    def select(state: State, rows: np.ndarray) -> State:
        if state is None:  # before the first token all rows are alike
            return None
        text, cache = state
        if cache is not None:
            cache = tuple(type(layer)(*(part[rows] for part in layer)) for layer in cache)
        return text[rows], cache

    return step, select, None


def continue_passages(
    task: Task, tokenizer: Tokenizer, held_out: np.ndarray, predict: Predict
) -> list[Passage]:
    """Continues passages of the held-out tokens (N,), the same for every model.

    Prompts and samples are shorter, and fewer, where the text is short.

    Raises:
        ValueError: there are fewer than 2 tokens, one to begin with and one to compare.
    """
    if len(held_out) < 2:
        raise ValueError(
            f"a text of {len(held_out)} tokens has none to continue; expected at least 2"
        )
    length = min(SAMPLE_LENGTH, len(held_out) // 2)
    prompt_length = min(PROMPT_LENGTH, len(held_out) - length)
    last = len(held_out) - prompt_length - length
    starts = np.unique(np.linspace(0, last, NUM_SAMPLES).astype(int))
    prompts = [held_out[start : start + prompt_length] for start in starts]
    originals = [
        tokenizer.decode(held_out[start + prompt_length :][:length].tolist()) for start in starts
    ]
    step, _, state = make_decoder(task, predict)
    tokens = stream(
        step,
        state,
        prompts,
        vocabulary_size=tokenizer.vocabulary_size,
        max_new_tokens=length,
        sampling=SAMPLING,
    )
    samples = [tokenizer.decode(row) for row in collect(tokens, len(prompts))]
    read = [tokenizer.decode(prompt.tolist()) for prompt in prompts]
    return [Passage(*parts) for parts in zip(read, samples, originals, strict=True)]


def write_samples(
    path: Path, task: Task, tokenizer: Tokenizer, held_out: np.ndarray, predict: Predict
) -> dict[str, Any]:
    """Continues passages of the held-out tokens (N,), and measures what comes out.

    Returns:
        See `sample_statistics`.

    Raises:
        ValueError: there are fewer than 2 tokens, one to begin with and one to compare.
    """
    passages = continue_passages(task, tokenizer, held_out, predict)
    with replaced(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for number, passage in enumerate(passages, start=1):
            file.write(f"----- sample {number}, temperature {SAMPLING.temperature}; the prompt:\n")
            file.write(f"{passage.prompt}\n----- and on:\n{passage.sample}\n\n")
    return sample_statistics(passages)


def sample_statistics(passages: Sequence[Passage]) -> dict[str, Any]:
    """distinct_1, distinct_2 and repetition_4 of the words of samples and of the text itself, and
    bleu of the samples against it; None where the samples are too short, or for bleu where
    sacrebleu is not installed.
    """
    samples = [passage.sample for passage in passages]
    originals = [passage.original for passage in passages]
    return {
        "bleu": bleu(samples, originals) if find_spec("sacrebleu") else None,
        **_word_statistics("", samples),
        **_word_statistics("text_", originals),
    }


def _word_statistics(prefix: str, texts: list[str]) -> dict[str, float | None]:
    words = [text.split() for text in texts]
    return {
        f"{prefix}distinct_1": distinct_n(words, 1),
        f"{prefix}distinct_2": distinct_n(words, 2),
        f"{prefix}repetition_4": repetition(words, 4),
    }
