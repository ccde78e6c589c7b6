"""What writes text, opened from its folder: a run's model, or a GPT-2 as the Hub has it.

>>> writer = open_writer(Path("runs/shakespeare-lstm-flax"))
>>> prompts = [writer.tokenizer.encode("ROMEO:")]
>>> tokens = writer.stream(prompts, max_new_tokens=200, sampling=Sampling(temperature=0.8))
>>> gather(writer.tokenizer, tokens, count=1, stop="\n\n")
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.shared.command_line import EngineName, load_engine, missing_extra
from jaxmodels.shared.data.wikitext import LanguageDataConfig
from jaxmodels.shared.families.family import Predict
from jaxmodels.shared.files import read_json
from jaxmodels.shared.run import is_run
from jaxmodels.shared.tasks import Task
from jaxmodels.shared.text.decoding import Prompts, Sampling, State, Step, beam_search, stream
from jaxmodels.shared.text.generation import make_decoder
from jaxmodels.shared.text.tokenizers import Tokenizer, load_tokenizer, until_stop


def open_writer(folder: Path, engine: EngineName | None = None) -> "RunWriter | CheckpointWriter":
    """The writer of a folder; `engine` None: the run's own, or for a GPT-2 what is installed.

    Raises:
        ValueError: the folder holds no model of text or no tokenizer, or the engine is missing.
    """
    if is_run(folder) or not (folder / "config.json").exists():
        return _open_run(folder, engine)
    return _open_checkpoint(folder, engine)


@dataclass(frozen=True)
class RunWriter:
    """A run's model, through the decoders of its kind. It continues prompts of any lengths."""

    task: Task
    tokenizer: Tokenizer
    predict: Predict

    def stream(
        self, prompts: Prompts, *, max_new_tokens: int, sampling: Sampling
    ) -> Iterator[tuple[int, int]]:
        """Yields (row, token) as tokens are chosen."""
        step, _, state = make_decoder(self.task, self.predict)
        tokens = stream(
            step,
            state,
            prompts,
            vocabulary_size=self.tokenizer.vocabulary_size,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
        )
        return ((token.row, token.token) for token in tokens)

    def search(
        self,
        prompts: Prompts,
        *,
        beams: int,
        max_new_tokens: int,
        temperature: float,
        length_penalty: float,
        stop_tokens: Sequence[int],
    ) -> list[list[int]]:
        """The new tokens of each row's best text, with the stop token if it ended with one.

        The probabilities are those at the temperature.
        """
        step, select, state = make_decoder(self.task, self.predict)
        found = beam_search(
            _tempered(step, temperature),
            select,
            state,
            prompts,
            vocabulary_size=self.tokenizer.vocabulary_size,
            beams=beams,
            max_new_tokens=max_new_tokens,
            length_penalty=length_penalty,
            stop_tokens=stop_tokens,
        )
        return [list(hypothesis.tokens) for hypothesis in found]


@dataclass(frozen=True)
class CheckpointWriter:
    """A GPT-2, beside a run's model: `generation` is jaxmodels.generate or its twin.

    `ends` are its end-of-text tokens.
    """

    model: Any
    tokenizer: Tokenizer
    generation: Any
    ends: tuple[int, ...]

    def stream(
        self, prompts: Prompts, *, max_new_tokens: int, sampling: Sampling
    ) -> Iterator[tuple[int, int]]:
        """Likewise; a row ends before an end of text."""
        how: dict[str, Any] = {}
        if sampling.temperature > 0:
            how |= {"do_sample": True, "temperature": sampling.temperature}
            how |= {"top_k": sampling.top_k or None, "top_p": sampling.top_p}
        tokens_as_chosen = self.generation.stream(
            self.model,
            *_padded(prompts),
            max_new_tokens=max_new_tokens,
            eos_token_id=self.ends or None,
            seed=sampling.seed,
            **how,
        )
        open_rows = set(range(len(prompts)))
        for tokens in tokens_as_chosen:
            for row in sorted(open_rows):
                if tokens[row] in self.ends:
                    open_rows.remove(row)
                else:
                    yield row, int(tokens[row])

    def search(
        self,
        prompts: Prompts,
        *,
        beams: int,
        max_new_tokens: int,
        temperature: float,
        length_penalty: float,
        stop_tokens: Sequence[int],
    ) -> list[list[int]]:
        """Raises a ValueError for another temperature than 1."""
        if temperature != 1:
            raise ValueError("--temperature with --beams is for runs; leave one of them out")
        ids, mask = _padded(prompts)
        last_tokens = (*self.ends, *stop_tokens)
        found = self.generation.generate(
            self.model,
            ids,
            mask,
            max_new_tokens=max_new_tokens,
            num_beams=beams,
            length_penalty=length_penalty,
            eos_token_id=last_tokens or None,
        )
        texts = []
        for row in np.asarray(found)[:, ids.shape[1] :].tolist():
            last = next((i for i, token in enumerate(row) if token in last_tokens), len(row))
            kept = 1 if last < len(row) and row[last] in stop_tokens else 0
            texts.append(row[: last + kept])
        return texts


def gather(
    tokenizer: Tokenizer, tokens: Iterator[tuple[int, int]], *, count: int, stop: str | None
) -> list[str]:
    """The texts of all rows, each cut behind `stop`; no token is taken once all have had it."""
    rows: list[list[int]] = [[] for _ in range(count)]
    running = set(range(count))
    for row, token in tokens:
        rows[row].append(token)
        if stop is not None and row in running and stop in tokenizer.decode(rows[row]):
            running.remove(row)
            if not running:
                break
    return ["".join(until_stop(tokenizer, row, stop)) for row in rows]


def _open_run(folder: Path, engine_name: EngineName | None) -> RunWriter:
    run, engine = load_engine(folder, engine_name)
    if not isinstance(run.task.data, LanguageDataConfig):
        raise ValueError(
            f"{folder} holds a run of {run.task.name}, which writes no text; expected a run on text"
        )
    return RunWriter(run.task, load_tokenizer(folder), engine.predict)


def _open_checkpoint(folder: Path, engine: EngineName | None) -> CheckpointWriter:
    engine = engine or ("flax" if find_spec("jax") else "torch")
    try:
        if engine == "flax":
            from jaxmodels import generate as generation
            from jaxmodels.pretrained import from_pretrained
        else:
            from torchref import generate as generation
            from torchref.pretrained import from_pretrained
    except ModuleNotFoundError as error:
        raise ValueError(missing_extra(engine, error)) from None
    tokenizer = load_tokenizer(folder)
    model = from_pretrained(folder, head="language-model")
    content: Any = read_json(folder / "config.json")
    end = content.get("eos_token_id")
    ends = end if isinstance(end, list) else [] if end is None else [end]
    return CheckpointWriter(model, tokenizer, generation, tuple(ends))


def _padded(prompts: Prompts) -> tuple[np.ndarray, np.ndarray]:
    """B prompts -> ids and mask, (B, T) int32 each, padded on the left."""
    longest = max(map(len, prompts))
    ids, mask = np.zeros((2, len(prompts), longest), np.int32)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    return ids, mask


def _tempered(step: Step, temperature: float) -> Step:
    def tempered(state: State, tokens: np.ndarray) -> tuple[np.ndarray, State]:
        logits, state = step(state, tokens)
        return logits / temperature, state

    return tempered
