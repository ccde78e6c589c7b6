"""What both frameworks' `generate` are asked for, checked, and prompts of one shape.

>>> options = GenerationOptions(max_new_tokens=9, num_beams=4)
>>> prompts = read_prompts(input_ids, attention_mask, model.config, options)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxmodels.shared.configs import GPT2Config


@dataclass(frozen=True)
class GenerationOptions:
    """How text is written; names, definitions and order are those of transformers' `generate`.

    The repetition penalty divides the positive logits of tokens that the text already has, prompt
    included, and multiplies the negative ones (Keskar et al. 2019); a search penalises the log
    probabilities. Sampling divides the result by the temperature, keeps the `top_k` highest, and of
    those the fewest that hold `top_p` of the probability; of exactly equal logits all or none.

    Raises:
        ValueError: a value is out of range, or does nothing beside the others.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    num_beams: int = 1
    length_penalty: float = 1.0
    do_sample: bool = False
    eos_token_id: int | Sequence[int] | None = None
    pad_token_id: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        for name in ("temperature", "repetition_penalty"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(
                    f"{name} {getattr(self, name)} must be positive and finite; 1 changes nothing"
                    + (", do_sample=False takes the likeliest" if name == "temperature" else "")
                )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k {self.top_k} must be at least 1; None keeps every token")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} must be in (0, 1]; None keeps every token")
        if not np.isfinite(self.length_penalty):
            raise ValueError(f"length_penalty {self.length_penalty} must be finite; try 1")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed {self.seed} must be in [0, 2^32)")
        if self.do_sample and self.num_beams > 1:
            raise ValueError(
                f"do_sample=True with num_beams {self.num_beams} is not supported; sample with "
                "num_beams=1, or search with do_sample=False"
            )
        idle = {"temperature": 1.0, "top_k": None, "top_p": None}
        for name, default in idle.items():
            if not self.do_sample and getattr(self, name) != default:
                raise ValueError(
                    f"{name} {getattr(self, name)} has no effect without sampling; pass "
                    f"do_sample=True, or leave {name} out"
                )

    @property
    def eos_tokens(self) -> tuple[int, ...]:
        """The tokens that end a text."""
        if self.eos_token_id is None:
            return ()
        return tuple(int(token) for token in np.atleast_1d(self.eos_token_id))

    @property
    def padding(self) -> int:
        """The token that follows the end: by default the first that ends a text."""
        return self.pad_token_id if self.pad_token_id is not None else (*self.eos_tokens, 0)[0]

    @property
    def capacity(self) -> int:
        """The places that are kept for new tokens: one shape for many lengths."""
        return power_of_two(self.max_new_tokens)

    def length_penalties(self) -> np.ndarray:
        """(capacity,) float32: what the log probability of 1, 2, ... new tokens is divided by."""
        lengths = np.arange(1, self.capacity + 1, dtype=np.float64)
        return (lengths**self.length_penalty).astype(np.float32)


class Prompts(NamedTuple):
    """Prompts padded on the left: as they were given, and as the model reads them.

    P is the power of two that holds the longest, or the context where that is shorter.
    """

    given: np.ndarray  # (B, T) int32
    tokens: np.ndarray  # (B, P) int32
    mask: np.ndarray  # (B, P) int32, 0 where a token is padding
    seen: np.ndarray | None  # (B, V) bool, the prompt's tokens; None where none are penalised


def read_prompts(
    input_ids: Any, attention_mask: Any, config: Any, options: GenerationOptions
) -> Prompts:
    """Checks input_ids (B, T) and attention_mask (B, T), None for no padding.

    Rows that are padded on the right are shifted, so that all end together.

    Raises:
        ValueError: the model writes no text, or a prompt is empty, too long for the model's
            context, padded in its middle, or has a token that is out of the vocabulary.
    """
    if not isinstance(config, GPT2Config) or config.head != "language-model":
        raise ValueError(
            f"model: {type(config).__name__} with head {getattr(config, 'head', None)!r} writes no "
            "text; expected a GPT2 with head='language-model'"
        )
    ids = np.asarray(input_ids)
    if ids.ndim != 2 or 0 in ids.shape or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            f"input_ids of shape {ids.shape} and type {ids.dtype}: expected integers (B, T), at "
            "least one a row; put a lone prompt in a list"
        )
    mask = np.ones(ids.shape, bool) if attention_mask is None else np.asarray(attention_mask) != 0
    if mask.shape != ids.shape:
        raise ValueError(
            f"attention_mask of shape {mask.shape}: expected that of input_ids, {ids.shape}"
        )
    _check_tokens(ids, config.vocabulary_size, options)
    lengths = mask.sum(axis=1)  # (B,)
    for row, (places, length) in enumerate(zip(mask, lengths, strict=True)):
        if length == 0:
            raise ValueError(f"input_ids row {row} is empty; expected at least one unmasked token")
        if not (places[:length].all() or places[-length:].all()):
            raise ValueError(
                f"attention_mask row {row} is neither left nor right padding; expected zeros on "
                "one side only"
            )
    longest = int(lengths.max())
    if longest + options.max_new_tokens > config.context_length:
        raise ValueError(
            f"max_new_tokens {options.max_new_tokens} after a prompt of {longest} exceed the "
            f"model's context of {config.context_length}; ask for "
            f"{max(config.context_length - longest, 0)} at most, or shorten the prompt"
        )
    order = np.argsort(mask, axis=1, kind="stable")  # padding first
    ids, mask = (np.take_along_axis(part, order, axis=1).astype(np.int32) for part in (ids, mask))
    size = min(power_of_two(longest), config.context_length)
    tokens, mask_of_size = np.zeros((2, len(ids), size), np.int32)
    tokens[:, -longest:], mask_of_size[:, -longest:] = ids[:, -longest:], mask[:, -longest:]
    seen = None
    if options.repetition_penalty != 1:
        seen = np.zeros((len(ids), config.vocabulary_size), bool)
        seen[np.nonzero(mask)[0], ids[mask != 0]] = True
    return Prompts(ids, tokens, mask_of_size, seen)


def power_of_two(number: int) -> int:
    """The least power of two that is not below a positive number."""
    return 1 << (number - 1).bit_length()


def _check_tokens(ids: np.ndarray, vocabulary_size: int, options: GenerationOptions) -> None:
    eos, padding = np.array(options.eos_tokens, int), np.array([options.padding])
    for name, tokens in (("input_ids", ids), ("eos_token_id", eos), ("pad_token_id", padding)):
        wrong = tokens[(tokens < 0) | (tokens >= vocabulary_size)]
        if wrong.size:
            raise ValueError(
                f"{name}: token {wrong[0]} is out of the vocabulary; expected 0 to "
                f"{vocabulary_size - 1}; encode with the model's own tokenizer"
            )
