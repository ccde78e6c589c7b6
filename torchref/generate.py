"""Text from a GPT-2 through a cache of keys and values: `jaxmodels.generate` in plain loops.

>>> generate(model, input_ids, attention_mask, max_new_tokens=64, num_beams=4, eos_token_id=50256)
>>> for tokens in stream(model, input_ids, max_new_tokens=64, do_sample=True, temperature=0.8):
...     print(tokenizer.decode(tokens))
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from jaxmodels.shared.text.prompts import GenerationOptions, Prompts, read_prompts
from torchref.models.attention import KeysValues
from torchref.models.gpt2 import GPT2

Cache = tuple[KeysValues, ...]
Noise = Callable[[int, tuple[int, int]], torch.Tensor]
# Added to the score of a beam that must not win; transformers' own, so that sums round alike.
NEVER = -1e9


@dataclass
class Text:
    """B rows after their newest token."""

    count: int  # of new tokens
    token: torch.Tensor  # (B,)
    done: torch.Tensor  # (B,) bool
    seen: torch.Tensor | None  # (B, V) bool, the tokens that the repetition penalty falls on
    cache: Cache


def generate(
    model: nn.Module,
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
    noise: Noise | None = None,
) -> torch.Tensor:
    """input_ids (B, T) -> (B, T + new) int64: the prompts, padded on the left, and what follows.

    See `jaxmodels.generate`. `noise(count, (B, V))` is what is added to the scores of new token
    `count` where they are sampled (None: torch's, from the seed; a row's is the same in any batch).

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
    prompts = read_prompts(input_ids, attention_mask, getattr(model, "config", None), options)
    assert isinstance(model, GPT2)
    if num_beams > 1:
        new = _search(model, prompts, options)
    else:
        new = torch.stack(list(_write(model, prompts, options, noise)), dim=1)
    return torch.cat([torch.from_numpy(prompts.given).to(new), new], dim=1)


def stream(
    model: nn.Module,
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
    noise: Noise | None = None,
) -> Iterator[np.ndarray]:
    """Yields the new tokens (B,) of `generate` as they are chosen, until all rows have ended.

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
    prompts = read_prompts(input_ids, attention_mask, getattr(model, "config", None), options)
    assert isinstance(model, GPT2)
    return (token.cpu().numpy() for token in _write(model, prompts, options, noise))


def gumbel_noise(seed: int, count: int, shape: tuple[int, int]) -> torch.Tensor:
    """(B, V) float32 standard Gumbel: what is added to the scores of new token `count`.

    The highest sum is a draw from the scores' softmax (Gumbel 1954). A generator a row, for torch
    draws long and short arrays in different orders.
    """
    rows = []
    for row in range(shape[0]):
        generator = torch.Generator().manual_seed((seed << 31) + (count << 15) + row)
        rows.append(torch.empty(shape[1]).exponential_(generator=generator))
    return -torch.stack(rows).log()


def _write(
    model: GPT2, prompts: Prompts, options: GenerationOptions, noise: Noise | None
) -> Iterator[torch.Tensor]:
    """Yields the new tokens (B,)."""
    noise = noise or (lambda count, shape: gumbel_noise(options.seed, count, shape))
    mask = _mask(model, prompts, options)
    logits, cache = _prefill(model, prompts, options, mask)
    done = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
    start = Text(0, mask[:, 0], done, _seen(prompts, mask), cache)
    text = _choose(options, noise, logits, start)
    yield text.token
    while text.count < options.max_new_tokens and not text.done.all():
        logits, text.cache = _step(model, options, mask, text.token, text.count, text.cache)
        text = _choose(options, noise, logits, text)
        yield text.token


def _mask(model: GPT2, prompts: Prompts, options: GenerationOptions) -> torch.Tensor:
    """(B, S), 0 where the prompt is padded, of all places of the cache, on the model's device."""
    mask = np.pad(prompts.mask, ((0, 0), (0, options.capacity)), constant_values=1)
    return torch.from_numpy(mask).to(model.token_embedding.weight.device, torch.int64)


def _seen(prompts: Prompts, mask: torch.Tensor) -> torch.Tensor | None:
    return None if prompts.seen is None else torch.from_numpy(prompts.seen).to(mask.device)


@torch.no_grad()
def _prefill(
    model: GPT2, prompts: Prompts, options: GenerationOptions, mask: torch.Tensor
) -> tuple[torch.Tensor, Cache]:
    """-> logits (B, V) float32 of the first new tokens, and a cache of S = P + N places."""
    length = prompts.mask.shape[1]
    output = model(
        torch.from_numpy(prompts.tokens).to(mask),
        mask,
        position_ids=(mask[:, :length].cumsum(dim=1) - 1).clamp(min=0),  # padding has the first
        cache=model.initial_cache(*mask.shape),
    )
    return output.logits[:, -1].float(), output.cache


@torch.no_grad()
def _step(
    model: GPT2,
    options: GenerationOptions,
    mask: torch.Tensor,
    tokens: torch.Tensor,
    count: int,
    cache: Cache,
) -> tuple[torch.Tensor, Cache]:
    """New tokens (B,), the last of `count` -> logits (B, V) float32 of the next, the cache."""
    length = mask.shape[1] - options.capacity  # P
    positions = mask[:, :length].sum(dim=1) + count - 1  # (B,)
    output = model(
        tokens[:, None],
        mask,
        position_ids=positions[:, None],
        cache=cache,
        start=length + count - 1,
    )
    return output.logits[:, 0].float(), output.cache


def _penalise(
    options: GenerationOptions, scores: torch.Tensor, seen: torch.Tensor | None
) -> torch.Tensor:
    """scores (B, V), with those of tokens that were seen (B, V) made less."""
    if seen is None:
        return scores
    penalty = options.repetition_penalty
    return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def _choose(options: GenerationOptions, noise: Noise, logits: torch.Tensor, text: Text) -> Text:
    """logits (B, V) -> the text with one token more; a row that has ended gets padding."""
    scores = _penalise(options, logits, text.seen)
    if options.do_sample:
        scores = scores / options.temperature
        if options.top_k is not None:
            last = scores.topk(min(options.top_k, scores.shape[1])).values[:, -1:]
            scores = scores.masked_fill(scores < last, -torch.inf)
        if options.top_p is not None:
            ascending = scores.sort().values
            removed = ascending.softmax(dim=1).cumsum(dim=1) <= 1 - options.top_p
            first = removed.sum(dim=1, keepdim=True).clamp(max=scores.shape[1] - 1)
            last = ascending.gather(1, first)
            scores = scores.masked_fill(scores < last, -torch.inf)
        batch, size = scores.shape
        scores = scores + noise(text.count, (batch, size)).to(scores.device)
    token = scores.argmax(dim=1).where(~text.done, options.padding)
    seen = None if text.seen is None else text.seen.scatter(1, token[:, None], True)
    done = text.done | _is_eos(options, token)
    return Text(text.count + 1, token, done, seen, text.cache)


def _is_eos(options: GenerationOptions, tokens: torch.Tensor) -> torch.Tensor:
    return torch.isin(tokens, torch.tensor(options.eos_tokens, dtype=tokens.dtype).to(tokens))


def _search(model: GPT2, prompts: Prompts, options: GenerationOptions) -> torch.Tensor:
    """-> the new tokens (B, new) of the best texts; see `jaxmodels.generate` for each step."""
    beams = options.num_beams
    candidates = max(2, 1 + len(options.eos_tokens)) * beams  # M
    mask = _mask(model, prompts, options)
    batch, device = len(mask), mask.device
    logits, cache = _prefill(model, prompts, options, mask)
    logits, mask = (part.repeat_interleave(beams, dim=0) for part in (logits, mask))
    cache = _select(cache, torch.arange(batch, device=device).repeat_interleave(beams))
    seen = _seen(prompts, mask)
    seen = None if seen is None else seen.repeat_interleave(beams, dim=0)
    penalties = torch.from_numpy(options.length_penalties()).to(device)

    running = torch.full((batch, beams, options.capacity), options.padding, device=device)
    running_scores = torch.full((batch, beams), NEVER, device=device)
    running_scores[:, 0] = 0  # all K have read the same prompt: only the first may be extended
    finished, scores = running, torch.full((batch, beams), NEVER, device=device)
    lengths = torch.zeros((batch, beams), dtype=torch.int64, device=device)
    is_finished = torch.zeros((batch, beams), dtype=torch.bool, device=device)
    can_improve = torch.ones(batch, dtype=torch.bool, device=device)

    for count in range(1, options.max_new_tokens + 1):
        if count > 1:
            newest = running[:, :, count - 2].flatten()
            logits, cache = _step(model, options, mask, newest, count - 1, cache)
        totals = _penalise(options, logits.log_softmax(dim=1), seen)
        totals = totals.unflatten(0, (batch, beams)) + running_scores[:, :, None]  # (B, K, V)
        totals, indexes = totals.flatten(1).topk(candidates)  # (B, M)
        parents, tokens = indexes // logits.shape[1], indexes % logits.shape[1]
        texts = _take(running, parents)  # (B, M, N)
        texts[:, :, count - 1] = tokens
        limit = torch.tensor(count >= options.max_new_tokens, device=device)
        ends = _is_eos(options, tokens) | limit  # (B, M)

        open_scores = totals + ends * NEVER
        best = open_scores.topk(beams).indices  # (B, K)
        running, running_scores, parents, tokens = (
            _take(part, best) for part in (texts, open_scores, parents, tokens)
        )
        rows = (torch.arange(batch, device=device)[:, None] * beams + parents).flatten()  # (B*K,)
        cache = _select(cache, rows)
        if seen is not None:
            seen = seen[rows].scatter(1, tokens.reshape(-1, 1), True)

        penalty = penalties[count - 1]
        finishes = ends & (torch.arange(candidates, device=device) < beams)
        final = totals / penalty + ~can_improve[:, None] * NEVER + ~finishes * NEVER
        new = (texts, final, torch.full_like(indexes, count), finishes)
        old = (finished, scores, lengths, is_finished)
        merged = [torch.cat(parts, dim=1) for parts in zip(old, new, strict=True)]
        best = merged[1].topk(beams).indices
        finished, scores, lengths, is_finished = (_take(part, best) for part in merged)

        # A row may improve while its best text, were it to end now, would displace a finished one.
        worst = scores.min(dim=1, keepdim=True).values.where(is_finished, NEVER)  # (B, K)
        can_improve = can_improve & (running_scores[:, :1] / penalty > worst).any(dim=1)
        if ends.all() or not can_improve.any():
            break
    return finished[:, 0, : int(lengths[:, 0].max())]


def _select(cache: Cache, rows: torch.Tensor) -> Cache:
    return tuple(KeysValues(key[rows], value[rows]) for key, value in cache)


def _take(part: torch.Tensor, indexes: torch.Tensor) -> torch.Tensor:
    """part (B, K, ...), indexes (B, M) -> (B, M, ...)."""
    return part[torch.arange(len(part), device=part.device)[:, None], indexes]
