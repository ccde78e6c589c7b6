"""Decoding, one implementation for every framework: greedy, sampling and beam search in numpy.

A model is a function `step(state, tokens) -> (logits, state)`: tokens (B,) int32 are the next of
each row, logits (B, V) are of the token after them, and the state is whatever the model carries
(hidden states, a cache of keys), opaque here. Prompts are fed token by token, so that prompts of
different lengths need no padding: while one row still reads, another already writes. Shapes never
change, and no row sees another, so that a text does not depend on its batch. Logits past
`vocabulary_size` (some models pad theirs) are ignored.

Ties: of exactly equal scores the lower token id wins. Scores that differ by less than the rounding
of two frameworks may still fall either way; each result states the `margin` by which it was chosen.

>>> tokens = stream(step, state, [tokenizer.encode("ROMEO:")], vocabulary_size=65, max_new_tokens=9)
>>> for piece in decode_stream(tokenizer, (token.token for token in tokens)):
...     print(piece, end="", flush=True)
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from jaxmodels.shared.metrics import log_softmax

State = Any
Step = Callable[[State, np.ndarray], tuple[Any, State]]
# (state of B rows, rows (R,) int64) -> the state of those rows, in this order; rows may repeat.
Select = Callable[[State, np.ndarray], State]
Prompts = Sequence[Sequence[int] | np.ndarray]


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from the logits; temperature 0 is greedy.

    The temperature divides the logits; of the result only the `top_k` most probable tokens are kept
    (0: all; Fan et al. 2018), and of those the fewest that hold `top_p` of the probability (nucleus
    sampling, Holtzman et al. 2020). The noise of a token depends on (seed, its row's key, its
    position in the text) alone.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < np.inf:
            raise ValueError(f"temperature {self.temperature} must be finite and not negative")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} must be in (0, 1]; 1 keeps every token")
        if self.top_k < 0:
            raise ValueError(f"top_k {self.top_k} must not be negative; 0 keeps every token")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed {self.seed} must be in [0, 2^64)")


GREEDY = Sampling(temperature=0.0)


class Token(NamedTuple):
    """A token of the text that continues prompt `row`.

    `margin`: how far its score (logit / temperature + noise; the logit where greedy) lies above the
    next best. Logits that are off by less than half of it (times the temperature) give the same
    token, unless top_k or top_p then keep others.
    """

    row: int
    token: int
    margin: float


@dataclass(frozen=True)
class Hypothesis:
    """The best text of a beam search: its tokens, with the stop token if it ended with one.

    `score` is the log probability (in nats, of the tokens given the prompt) over the length
    penalty. `margin` is the least by which a choice was made: log probabilities of the last
    candidate that was kept and the first that was not, or scores of finished texts.
    """

    tokens: tuple[int, ...]
    log_probability: float
    score: float
    margin: float


def stream(
    step: Step,
    state: State,
    prompts: Prompts,
    *,
    vocabulary_size: int,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    stop_tokens: Sequence[int] = (),
    row_keys: Sequence[int] | None = None,
) -> Iterator[Token]:
    """Yields tokens as they are chosen, those of one step in the order of the rows.

    A row ends after `max_new_tokens` or a stop token, which is yielded too. `state` is that of B
    rows before their first token. `row_keys` (default 0, 1, ...) tell the rows' noise apart: a
    prompt under the same key gets the same text in any batch, and a text that is cut and fed back
    goes on as it would have.

    Raises:
        ValueError: a prompt is empty or has a token out of range, the sizes are not positive, or
            logits are not finite; prompt row and position are named.
    """
    rows = _check_prompts(prompts, stop_tokens, vocabulary_size, max_new_tokens)
    keys = range(len(rows)) if row_keys is None else row_keys
    if len(keys) != len(rows) or not all(0 <= key < 2**64 for key in keys):
        raise ValueError(
            f"row_keys {list(keys)} must be {len(rows)} numbers in [0, 2^64), one a prompt"
        )

    def tokens_as_chosen(state: State) -> Iterator[Token]:
        ends = [len(prompt) + max_new_tokens for prompt in rows]
        writing = set(range(len(rows)))
        tokens = np.array([prompt[0] for prompt in rows], np.int32)  # (B,)
        for position in itertools.count(1):  # of the token that is to be chosen
            if not writing:
                return
            logits, state = _logits(step, state, tokens, vocabulary_size)
            # A row that has ended is stepped on with its last token: shapes never change.
            for row, prompt in enumerate(rows):
                if position < len(prompt):
                    tokens[row] = prompt[position]
                elif row in writing:
                    _check_logits(logits[row], row, position)
                    token, margin = choose(logits[row], sampling, keys[row], position)
                    tokens[row] = token
                    yield Token(row, token, margin)
                    if token in stop_tokens or position + 1 == ends[row]:
                        writing.remove(row)

    return tokens_as_chosen(state)


def collect(tokens: Iterable[Token], num_rows: int) -> list[list[int]]:
    """What `stream` yields, gathered into the new tokens of each row."""
    texts: list[list[int]] = [[] for _ in range(num_rows)]
    for row, token, _ in tokens:
        texts[row].append(token)
    return texts


def choose(logits: np.ndarray, sampling: Sampling, key: int, position: int) -> tuple[int, float]:
    """logits: (V,) -> a token, and by how much it won (see `Token`).

    Adding Gumbel noise to the scores and taking the highest draws from their softmax (Gumbel 1954).
    Unlike a search through cumulative probabilities, it moves by no more than the logits do.
    """
    scores = logits.astype(np.float64)
    if sampling.temperature > 0:
        # From the highest down: however small the temperature, nothing overflows but to -inf.
        with np.errstate(over="ignore"):
            scores = (scores - scores.max()) / sampling.temperature
        noise = _noise(sampling.seed, key, position, len(scores))
        scores = np.where(kept_tokens(scores, sampling), scores + noise, -np.inf)
    best = int(np.argmax(scores))  # the first of equals
    others = np.delete(scores, best)
    return best, float(scores[best] - others.max(initial=-np.inf))


def kept_tokens(scores: np.ndarray, sampling: Sampling) -> np.ndarray:
    """scores: (V,) logits over temperature -> (V,) bool, the tokens that top_k and top_p keep."""
    if sampling.top_k == 0 and sampling.top_p == 1:
        return np.ones(len(scores), bool)
    kept = np.zeros(len(scores), bool)
    order = best_indexes(scores, sampling.top_k or len(scores))
    if sampling.top_p < 1:
        probabilities = np.exp(log_softmax(scores[order]))
        before = np.cumsum(probabilities) - probabilities  # of the tokens ahead of each
        order = order[before < sampling.top_p]
    kept[order] = True
    return kept


def best_indexes(scores: np.ndarray, count: int) -> np.ndarray:
    """scores: (N,) -> at most `count` indexes, the highest score first, of equals the lower index.

    Only those that reach the last place are sorted: the vocabulary may be large.
    """
    count = min(count, len(scores))
    last = np.partition(scores, -count)[-count]
    reaching = np.flatnonzero(scores >= last)
    return reaching[np.argsort(-scores[reaching], kind="stable")][:count]


def beam_search(
    step: Step,
    select: Select,
    state: State,
    prompts: Prompts,
    *,
    vocabulary_size: int,
    beams: int,
    max_new_tokens: int,
    length_penalty: float = 0.6,
    stop_tokens: Sequence[int] = (),
) -> list[Hypothesis]:
    """The best hypothesis of each prompt, by log P / ((5 + length) / 6) ** length_penalty.

    The score is that of Wu et al. 2016 ("Google's neural machine translation system", equation 14,
    without its coverage term). Each step keeps the `beams` most probable unfinished texts; one that
    takes a stop token or reaches `max_new_tokens` is finished. A prompt's search ends as soon as no
    unfinished text can still win: probabilities only fall, and no length is penalised less than the
    longest. `state` is that of B rows before their first token.

    Raises:
        ValueError: as `stream`.
    """
    rows = _check_prompts(prompts, stop_tokens, vocabulary_size, max_new_tokens)
    if beams < 1:
        raise ValueError(f"beams {beams} must be at least 1")
    if not 0 <= length_penalty < np.inf:
        raise ValueError(f"length_penalty {length_penalty} must be finite and not negative")
    if not rows:
        return []
    searches = [_Search(beams, max_new_tokens, length_penalty, stop_tokens) for _ in rows]
    state = select(state, np.arange(len(rows)).repeat(beams))  # B rows -> B*K rows
    tokens = np.array([prompt[0] for prompt in rows], np.int32).repeat(beams)  # (B*K,)
    for position in itertools.count(1):  # of the tokens that are to be chosen
        if all(search.done for search in searches):
            break
        logits, state = _logits(step, state, tokens, vocabulary_size)
        logits = logits.reshape(len(rows), beams, -1)  # (B, K, V)
        parents = np.arange(len(rows) * beams)  # (B*K,)
        for row, (prompt, search) in enumerate(zip(rows, searches, strict=True)):
            first, end = row * beams, (row + 1) * beams
            if position < len(prompt):
                tokens[first:end] = prompt[position]
            elif not search.done:
                _check_logits(logits[row], row, position)
                own_parents, tokens[first:end] = search.extend(log_softmax(logits[row]))
                parents[first:end] = first + own_parents
        state = select(state, parents)
    return [search.result() for search in searches]


class _Search:
    """The beam of one prompt: K texts of equal length, and the best that is finished."""

    def __init__(
        self,
        beams: int,
        max_new_tokens: int,
        length_penalty: float,
        stop_tokens: Sequence[int],
    ) -> None:
        self._max_new_tokens, self._length_penalty = max_new_tokens, length_penalty
        self._stop_tokens = list(stop_tokens)
        self._texts: list[tuple[int, ...]] = [()] * beams
        # All K have read the same prompt, so that only one may be extended; the others are dead.
        self._log_probabilities = np.array([0.0] + [-np.inf] * (beams - 1))  # (K,)
        self._best = Hypothesis((), -np.inf, -np.inf, np.inf)
        self._margin = np.inf
        self.done = False

    def extend(self, log_probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log_probabilities: (K, V) of the next token -> parents, tokens: (K,) of the new texts."""
        beams, vocabulary_size = log_probabilities.shape
        totals = self._log_probabilities[:, None] + log_probabilities  # (K, V)
        # Only a stop among the K best of all finishes a text: else a short one would always win.
        stopped = [
            index
            for index in self._keep(totals.reshape(-1), beams)
            if index % vocabulary_size in self._stop_tokens
        ]
        for index in stopped:
            parent, token = divmod(int(index), vocabulary_size)
            self._finish((*self._texts[parent], token), totals[parent, token])
        totals[:, self._stop_tokens] = -np.inf
        flat = totals.reshape(-1)  # (K*V,), the better beam first
        indexes = self._keep(flat, beams)
        parents, tokens = np.divmod(indexes, vocabulary_size)
        self._log_probabilities = flat[indexes]
        self._texts = [
            (*self._texts[parent], int(token))
            for parent, token in zip(parents, tokens, strict=True)
        ]
        length = len(self._texts[0])
        if length == self._max_new_tokens:
            for text, log_probability in zip(self._texts, self._log_probabilities, strict=True):
                self._finish(text, log_probability)
        hope = self._log_probabilities[0] / self._penalty(self._max_new_tokens)
        self.done = length == self._max_new_tokens or bool(hope <= self._best.score)
        return parents, tokens

    def result(self) -> Hypothesis:
        return replace(self._best, margin=float(self._margin))

    def _keep(self, scores: np.ndarray, count: int) -> np.ndarray:
        """The best `count`, noting how closely the next one missed."""
        indexes = best_indexes(scores, count + 1)
        for missed in indexes[count:]:
            if scores[missed] > -np.inf:
                self._margin = min(self._margin, scores[indexes[count - 1]] - scores[missed])
        return indexes[:count]

    def _finish(self, tokens: tuple[int, ...], log_probability: float) -> None:
        if log_probability == -np.inf:
            return
        score = log_probability / self._penalty(len(tokens))
        self._margin = min(self._margin, abs(score - self._best.score))
        if score > self._best.score:
            self._best = Hypothesis(tokens, float(log_probability), float(score), np.inf)

    def _penalty(self, length: int) -> float:
        return ((5 + length) / 6) ** self._length_penalty


def _noise(seed: int, key: int, position: int, count: int) -> np.ndarray:
    """-> (count,) float64 standard Gumbel, a pure function of (seed, key, position)."""
    # The position is the counter's second word: the first counts the draws.
    bits = np.random.Philox(key=np.array([seed, key], np.uint64), counter=[0, position, 0, 0])
    return np.random.Generator(bits).gumbel(size=count)


def _logits(
    step: Step, state: State, tokens: np.ndarray, vocabulary_size: int
) -> tuple[np.ndarray, State]:
    """One step -> (logits (B, V) float64, state)."""
    # A copy: a framework may keep the array itself, and compute later than it returns.
    logits, state = step(state, tokens.copy())
    logits = np.asarray(logits, np.float64)
    if logits.ndim != 2 or logits.shape[0] != len(tokens) or logits.shape[1] < vocabulary_size:
        raise ValueError(
            f"step returned logits of shape {logits.shape}; expected ({len(tokens)}, "
            f"{vocabulary_size} or more); are the weights those of this tokenizer?"
        )
    return logits[:, :vocabulary_size], state


def _check_prompts(
    prompts: Prompts, stop_tokens: Sequence[int], vocabulary_size: int, max_new_tokens: int
) -> list[np.ndarray]:
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens {max_new_tokens} must be at least 1")
    named = [(f"prompt row {row}", prompt) for row, prompt in enumerate(prompts)]
    for name, prompt in named:
        if len(prompt) == 0:
            raise ValueError(f"{name} is empty; expected at least one token; a line end will do")
    for name, tokens in [*named, ("stop_tokens", stop_tokens)]:
        for token in tokens:
            if not 0 <= token < vocabulary_size:
                raise ValueError(
                    f"{name}: token {token} is out of range; expected 0 to {vocabulary_size - 1}; "
                    f"encode with the tokenizer that the model was trained with"
                )
    return [np.asarray(prompt, np.int32) for prompt in prompts]


def _check_logits(logits: np.ndarray, row: int, position: int) -> None:
    """logits: (..., V). A token may be forbidden by -inf, but not all of them."""
    if not np.isfinite(logits.max(axis=-1)).all():  # the maximum of any NaN is NaN
        raise ValueError(
            f"prompt row {row}: the logits of token {position} are not finite; did training "
            f"diverge? Take an earlier checkpoint"
        )
