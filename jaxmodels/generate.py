"""Text from a GPT-2 through a cache of keys and values, compiled once for all positions.

>>> generate(model, input_ids, attention_mask, max_new_tokens=64, num_beams=4, eos_token_id=50256)
>>> for tokens in stream(model, input_ids, max_new_tokens=64, do_sample=True, temperature=0.8):
...     print(tokenizer.decode(tokens))

The whole loop runs on the device. Prompt and cache have lengths from a few buckets, and all that
may differ between two calls is an argument: another prompt, or another model of the same config,
compiles nothing anew.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxmodels.models.attention import KeysValues
from jaxmodels.models.gpt2 import GPT2
from jaxmodels.shared.configs import GPT2Config
from jaxmodels.shared.text.prompts import GenerationOptions, Prompts, read_prompts
from jaxmodels.state import Leaves, merge, split

Cache = tuple[KeysValues, ...]
# Added to the score of a beam that must not win; transformers' own, so that sums round alike.
NEVER = -1e9


@dataclass(frozen=True)
class Program:
    """What a compiled function depends on besides its arguments' shapes."""

    graphdef: nnx.GraphDef
    capacity: int  # the places for new tokens
    top_k: int | None
    num_beams: int

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Hashing the graph takes a millisecond, which a stream would spend on every token."""
        return hash((self.graphdef, self.capacity, self.top_k, self.num_beams))


class Inputs(NamedTuple):
    """The arguments that stay as they are from token to token; of None nothing is compiled."""

    params: Leaves
    rest: Leaves
    mask: Any  # (B, S) int32 array, 0 where the prompt is padded, of all places of the cache
    limit: int  # max_new_tokens
    eos: np.ndarray  # (E,) int32
    padding: int
    key: jax.Array | None  # None: greedy
    temperature: float | None
    top_p: float | None
    repetition_penalty: float | None
    length_penalties: np.ndarray | None  # (N,) float32


class Text(NamedTuple):
    """B rows after their newest token."""

    written: jax.Array  # of new tokens
    token: jax.Array  # (B,) int32
    done: jax.Array  # (B,) bool
    seen: jax.Array | None  # (B, V) bool, the tokens that the repetition penalty falls on
    cache: Cache


class Beams(NamedTuple):
    """K texts of each of B rows that still run, and the best K that are finished."""

    written: jax.Array
    running: jax.Array  # (B, K, N) int32, the new tokens
    running_scores: jax.Array  # (B, K) float32, log probabilities
    finished: jax.Array  # (B, K, N) int32
    scores: jax.Array  # (B, K) float32, log probabilities over the length penalty
    lengths: jax.Array  # (B, K) int32, of the finished
    is_finished: jax.Array  # (B, K) bool; what is not is yet to be filled
    can_improve: jax.Array  # (B,) bool
    can_continue: jax.Array  # () bool
    seen: jax.Array | None  # (B*K, V) bool
    cache: Cache  # of B*K rows


def generate(
    model: nnx.Module,
    input_ids: Any,
    attention_mask: Any = None,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float = 1.0,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    do_sample: bool = False,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
    seed: int = 0,
) -> jax.Array:
    """input_ids (B, T) -> (B, T + new) int32: the prompts, padded on the left, and what follows.

    Greedy unless `do_sample`; with num_beams > 1 the beam search of transformers 5 (its
    `early_stopping=False`). After a token of `eos_token_id` a row is padded with `pad_token_id`
    (None: the first of them); `new` is that of the longest row, at most `max_new_tokens`.

    Prompts may be padded on either side, as attention_mask (B, T) says (0 where a token is
    padding); those padded on the right come back padded on the left, as transformers' do.

    Logits are float32 where tokens are chosen. A sampled token's noise depends on (seed, row,
    number of the new token) alone, not on the other rows; it is not that of torch's sampler.

    Raises:
        ValueError: see `GenerationOptions` and `read_prompts`.
    """
    options = GenerationOptions(
        max_new_tokens,
        temperature,
        top_k,
        top_p,
        repetition_penalty,
        num_beams,
        length_penalty,
        do_sample,
        eos_token_id,
        pad_token_id,
        seed,
    )
    program, inputs, prompts = _prepare(model, input_ids, attention_mask, options)
    run = _search if num_beams > 1 else _write
    new, count = run(program, inputs, prompts.tokens, prompts.seen)
    return jnp.asarray(np.append(prompts.given, np.asarray(new)[:, : int(count)], axis=1))


def stream(
    model: nnx.Module,
    input_ids: Any,
    attention_mask: Any = None,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float = 1.0,
    do_sample: bool = False,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """Yields the new tokens (B,) int32 of `generate` as they are chosen, until all rows have ended.

    A beam search has none to show before its end. Errors are raised by the call itself.
    """
    options = GenerationOptions(
        max_new_tokens,
        temperature,
        top_k,
        top_p,
        repetition_penalty,
        do_sample=do_sample,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
        seed=seed,
    )
    program, inputs, prompts = _prepare(model, input_ids, attention_mask, options)

    def tokens_as_chosen() -> Iterator[np.ndarray]:
        text = _begin(program, inputs, prompts.tokens, prompts.seen)
        yield np.asarray(text.token)
        for _ in range(max_new_tokens - 1):
            if np.asarray(text.done).all():
                return
            text = _continue(program, inputs, text)
            yield np.asarray(text.token)

    return tokens_as_chosen()


def gumbel_noise(key: jax.Array, count: jax.Array | int, shape: tuple[int, ...]) -> jax.Array:
    """(B, V) float32 standard Gumbel: what is added to the scores of new token `count`.

    The highest sum is a draw from the scores' softmax (Gumbel 1954).
    """
    return jax.random.gumbel(jax.random.fold_in(key, count), shape, jnp.float32)


def _prepare(
    model: nnx.Module, input_ids: Any, attention_mask: Any, options: GenerationOptions
) -> tuple[Program, Inputs, Prompts]:
    config = getattr(model, "config", None)
    prompts = read_prompts(input_ids, attention_mask, config, options)
    assert isinstance(config, GPT2Config)  # or the prompts had been refused
    graphdef, params, rest = split(model)
    sampled = options.do_sample
    top_k = min(options.top_k, config.vocabulary_size) if options.top_k else None
    inputs = Inputs(
        params,
        rest,
        np.pad(prompts.mask, ((0, 0), (0, options.capacity)), constant_values=1),
        limit=options.max_new_tokens,
        eos=np.array(options.eos_tokens, np.int32),
        padding=options.padding,
        key=jax.random.key(options.seed) if sampled else None,
        temperature=options.temperature if sampled else None,
        top_p=options.top_p,
        repetition_penalty=None if prompts.seen is None else options.repetition_penalty,
        length_penalties=options.length_penalties() if options.num_beams > 1 else None,
    )
    return Program(graphdef, options.capacity, top_k, options.num_beams), inputs, prompts


@partial(jax.jit, static_argnums=0)
def _write(
    program: Program, inputs: Inputs, tokens: jax.Array, seen: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """tokens (B, P) -> the new ones (B, N), and how many they are."""

    def body(carry: tuple[Text, jax.Array]) -> tuple[Text, jax.Array]:
        text, new = carry
        text = _continue(program, inputs, text)
        return text, new.at[:, text.written - 1].set(text.token)

    text = _begin(program, inputs, tokens, seen)
    new = jnp.full((len(tokens), program.capacity), inputs.padding, jnp.int32)
    text, new = jax.lax.while_loop(
        lambda carry: (carry[0].written < inputs.limit) & ~carry[0].done.all(),
        body,
        (text, new.at[:, 0].set(text.token)),
    )
    return new, text.written


@partial(jax.jit, static_argnums=0)
def _begin(program: Program, inputs: Inputs, tokens: jax.Array, seen: jax.Array | None) -> Text:
    """Reads the prompts (B, P) in one pass and chooses the first new tokens."""
    logits, cache = _prefill(program, inputs, tokens)
    done = jnp.zeros(len(tokens), bool)
    return _choose(program, inputs, logits, Text(jnp.int32(0), tokens[:, -1], done, seen, cache))


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def _continue(program: Program, inputs: Inputs, text: Text) -> Text:
    """Reads the newest tokens and chooses the next."""
    logits, cache = _step(program, inputs, text.token, text.written, text.cache)
    return _choose(program, inputs, logits, text._replace(cache=cache))


def _prefill(program: Program, inputs: Inputs, tokens: jax.Array) -> tuple[jax.Array, Cache]:
    """tokens (B, P) -> logits (B, V) float32 of the next, and a cache of S = P + N places."""
    model = _model(program, inputs)
    batch, length = tokens.shape
    mask = inputs.mask[:, :length]
    output = model(
        tokens,
        mask,
        position_ids=jnp.maximum(mask.cumsum(axis=1) - 1, 0),  # padding has the first
        cache=model.initial_cache(batch, length),
    )
    widths = ((0, 0), (0, 0), (0, program.capacity), (0, 0))
    cache = jax.tree.map(lambda part: jnp.pad(part, widths), output.cache)
    # Of the last place alone: the logits of all others are never computed.
    return _logits(model, output.last_hidden_state[:, -1]), cache


def _step(
    program: Program, inputs: Inputs, tokens: jax.Array, count: jax.Array, cache: Cache
) -> tuple[jax.Array, Cache]:
    """New tokens (B,), the last of `count` -> logits (B, V) float32 of the next, the cache."""
    length = inputs.mask.shape[1] - program.capacity  # P
    positions = inputs.mask[:, :length].sum(axis=1) + count - 1  # (B,)
    mask = inputs.mask
    if len(tokens) > len(mask):  # the beams of each row
        mask, positions = (part.repeat(program.num_beams, axis=0) for part in (mask, positions))
    model = _model(program, inputs)
    output = model(
        tokens[:, None],
        mask,
        position_ids=positions[:, None],
        cache=cache,
        start=length + count - 1,
    )
    return _logits(model, output.last_hidden_state[:, 0]), output.cache


def _model(program: Program, inputs: Inputs) -> GPT2:
    model = merge(program.graphdef, inputs.params, inputs.rest)
    assert isinstance(model, GPT2)
    return model


def _logits(model: GPT2, x: jax.Array) -> jax.Array:
    """x (B, C) -> (B, V) float32, whatever the model computes in."""
    return model.logits(x).astype(jnp.float32)


def _penalise(inputs: Inputs, scores: jax.Array, seen: jax.Array | None) -> jax.Array:
    """scores (B, V), with those of tokens that were seen (B, V) made less."""
    penalty = inputs.repetition_penalty
    if seen is None or penalty is None:
        return scores
    return jnp.where(seen, jnp.where(scores < 0, scores * penalty, scores / penalty), scores)


def _choose(program: Program, inputs: Inputs, logits: jax.Array, text: Text) -> Text:
    """logits (B, V) -> the text with one token more; a row that has ended gets padding."""
    scores = _penalise(inputs, logits, text.seen)
    if inputs.key is not None and inputs.temperature is not None:
        scores = scores / inputs.temperature
        if program.top_k is not None:
            last = jax.lax.top_k(scores, program.top_k)[0][:, -1:]
            scores = jnp.where(scores < last, -jnp.inf, scores)
        if inputs.top_p is not None:
            ascending = jnp.sort(scores)
            removed = jnp.cumsum(jax.nn.softmax(ascending), axis=1) <= 1 - inputs.top_p
            first = jnp.minimum(removed.sum(axis=1, keepdims=True), scores.shape[1] - 1)
            last = jnp.take_along_axis(ascending, first, axis=1)
            scores = jnp.where(scores < last, -jnp.inf, scores)
        scores = scores + gumbel_noise(inputs.key, text.written, scores.shape)
    token = jnp.where(text.done, inputs.padding, scores.argmax(axis=1).astype(jnp.int32))
    seen = None if text.seen is None else text.seen.at[jnp.arange(len(token)), token].set(True)
    done = text.done | _is_eos(inputs, token)
    return Text(text.written + 1, token, done, seen, text.cache)


def _is_eos(inputs: Inputs, tokens: jax.Array) -> jax.Array:
    return (tokens[..., None] == inputs.eos).any(axis=-1)


@partial(jax.jit, static_argnums=0)
def _search(
    program: Program, inputs: Inputs, tokens: jax.Array, seen: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """tokens (B, P) -> the new ones (B, N) of the best text, and how many the longest has."""
    batch, beams = len(tokens), program.num_beams
    logits, cache = _prefill(program, inputs, tokens)
    logits, cache, seen = jax.tree.map(
        lambda part: part.repeat(beams, axis=0), (logits, cache, seen)
    )
    texts = jnp.full((batch, beams, program.capacity), inputs.padding, jnp.int32)
    start = Beams(
        written=jnp.int32(0),
        running=texts,
        # All K have read the same prompt: only the first may be extended.
        running_scores=jnp.full((batch, beams), NEVER, jnp.float32).at[:, 0].set(0),
        finished=texts,
        scores=jnp.full((batch, beams), NEVER, jnp.float32),
        lengths=jnp.zeros((batch, beams), jnp.int32),
        is_finished=jnp.zeros((batch, beams), bool),
        can_improve=jnp.ones(batch, bool),
        can_continue=jnp.bool(True),
        seen=seen,
        cache=cache,
    )

    def body(state: Beams) -> Beams:
        newest = jax.lax.dynamic_index_in_dim(state.running, state.written - 1, 2)  # (B, K, 1)
        logits, cache = _step(program, inputs, newest.reshape(-1), state.written, state.cache)
        return _extend(program, inputs, logits, state._replace(cache=cache))

    state = jax.lax.while_loop(
        lambda state: state.can_improve.any() & state.can_continue,
        body,
        _extend(program, inputs, logits, start),
    )
    return state.finished[:, 0], state.lengths[:, 0].max()


def _extend(program: Program, inputs: Inputs, logits: jax.Array, state: Beams) -> Beams:
    """logits (B*K, V) -> all beams with one token more.

    Of each row the best M candidates are looked at, enough that K are left which have not ended.
    A candidate that ends is finished if it is among the best K.
    """
    batch, beams, _ = state.running.shape
    assert inputs.length_penalties is not None
    candidates = max(2, 1 + len(inputs.eos)) * beams  # M
    scores = _penalise(inputs, jax.nn.log_softmax(logits), state.seen)
    scores = scores.reshape(batch, beams, -1) + state.running_scores[:, :, None]  # (B, K, V)
    scores, indexes = jax.lax.top_k(scores.reshape(batch, -1), candidates)  # (B, M)
    parents, tokens = jnp.divmod(indexes, logits.shape[1])
    texts = _take(state.running, parents).at[:, :, state.written].set(tokens)  # (B, M, N)
    count = state.written + 1
    ends = _is_eos(inputs, tokens) | (count >= inputs.limit)  # (B, M)

    open_scores = scores + ends * jnp.float32(NEVER)
    best = jax.lax.top_k(open_scores, beams)[1]  # (B, K)
    running, running_scores, parents, tokens = (
        _take(part, best) for part in (texts, open_scores, parents, tokens)
    )
    rows = (jnp.arange(batch)[:, None] * beams + parents).reshape(-1)  # (B*K,)
    cache = jax.tree.map(lambda part: part[rows], state.cache)
    seen = state.seen
    if seen is not None:
        seen = seen[rows].at[jnp.arange(len(rows)), tokens.reshape(-1)].set(True)

    penalty = jnp.asarray(inputs.length_penalties)[count - 1]
    finishes = ends & (jnp.arange(candidates) < beams)
    final = scores / penalty + ~state.can_improve[:, None] * jnp.float32(NEVER)
    final = final + ~finishes * jnp.float32(NEVER)
    lengths = jnp.broadcast_to(count, final.shape)
    old = (state.finished, state.scores, state.lengths, state.is_finished)
    merged = [
        jnp.concatenate(parts, axis=1)
        for parts in zip(old, (texts, final, lengths, finishes), strict=True)
    ]
    best = jax.lax.top_k(merged[1], beams)[1]
    finished, final, lengths, is_finished = (_take(part, best) for part in merged)

    # A row may improve while its best text, were it to end now, would displace a finished one.
    worst = jnp.where(is_finished, final.min(axis=1, keepdims=True), NEVER)  # (B, K)
    can_improve = state.can_improve & (running_scores[:, :1] / penalty > worst).any(axis=1)
    return Beams(
        count,
        running,
        running_scores,
        finished,
        final,
        lengths,
        is_finished,
        can_improve,
        ~ends.all(),
        seen,
        cache,
    )


def _take(part: jax.Array, indexes: jax.Array) -> jax.Array:
    """part (B, K, ...), indexes (B, M) -> (B, M, ...)."""
    return jax.vmap(lambda rows, chosen: rows[chosen])(part, indexes)
