"""A toy language model whose every text and probability can be written out, to decode with."""

from typing import Any

import numpy as np

from jaxmodels.shared.metrics import log_softmax
from jaxmodels.shared.text.decoding import (
    beam_search,
    collect,
    stream,
)

VOCABULARY, NEW = 5, 4
PROMPTS = [[3], [1, 4, 0, 2], [2, 2], [0, 1, 3, 3, 1, 2, 4]]
STATE: list[tuple[int, ...]] = [()] * len(PROMPTS)


class ToyModel:
    """Logits that are a fixed random function of the row's whole text; the state is that text."""

    def __init__(self, seed: int = 0, vocabulary_size: int = VOCABULARY, noise: float = 0.0):
        self.seed, self.vocabulary_size, self.noise = seed, vocabulary_size, noise
        self.received: list[tuple[np.ndarray, list[int]]] = []

    def logits(self, text: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng([self.seed, *text])
        logits = 2 * rng.normal(size=self.vocabulary_size)
        return logits + self.noise * rng.choice([-1, 1], size=self.vocabulary_size)

    def step(self, state: Any, tokens: np.ndarray) -> tuple[np.ndarray, Any]:
        assert tokens.dtype == np.int32
        self.received.append((tokens, tokens.tolist()))
        texts = [(*text, int(token)) for text, token in zip(state, tokens, strict=True)]
        return np.stack([self.logits(text) for text in texts]), texts

    def log_probability(self, prompt: list[int], new: tuple[int, ...]) -> float:
        text = (*prompt, *new)
        return sum(
            log_softmax(self.logits(text[:position]))[text[position]]
            for position in range(len(prompt), len(text))
        )


def select(state: Any, rows: np.ndarray) -> Any:
    return [state[row] for row in rows]


def write(model: ToyModel, prompts=PROMPTS, **options) -> list[list[int]]:
    sizes: Any = {"max_new_tokens": NEW, "vocabulary_size": model.vocabulary_size}
    tokens = stream(model.step, [()] * len(prompts), prompts, **(sizes | options))
    return collect(tokens, len(prompts))


def search(model: ToyModel, prompts=PROMPTS, **options):
    sizes: Any = {"max_new_tokens": NEW, "vocabulary_size": model.vocabulary_size, "beams": 3}
    state = [()] * len(prompts)
    return beam_search(model.step, select, state, prompts, **(sizes | options))
