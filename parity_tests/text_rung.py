"""The rung `text`: both frameworks write the same text, token by token.

>>> verdicts = text_rung(TASKS["shakespeare-lstm"])  # float64, float32

The decoders are the ones that `scripts/generate.py` runs, on the task's own model with hot weights.
The noise of sampled tokens is a function of their place, so that both sides draw the same. A text
depends on its model alone: this rung needs no data and no tokenizer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch

import torchref.step
from jaxmodels import state
from jaxmodels.engine import initial_carry
from jaxmodels.objective import make_objective
from jaxmodels.shared.data.wikitext import LanguageDataConfig
from jaxmodels.shared.families.family import Predict
from jaxmodels.shared.tasks import Task
from jaxmodels.shared.text.decoding import GREEDY, Sampling, beam_search, stream
from jaxmodels.shared.text.generation import make_decoder
from jaxmodels.shared.weights import to_torch_layout
from jaxmodels.train import make_predict
from parity_tests.cases import task_pair
from parity_tests.ladder import BOUNDS
from parity_tests.pairs import Arrays, Dtype, Pair, hot_leaves, precision
from parity_tests.results import LeafError, Verdict
from torchref.engines.plain import to_tensors
from torchref.weights import load_tensors

# Prompts of these many tokens, read and continued side by side; then the same searched for. So many
# that some choices are close, within a thousandth of the logits' scale.
PROMPT_LENGTHS, NEW_TOKENS = (1, 3, 7, 2, 11, 5, 4, 9) * 8, 120
BEAMS, SEARCHED_TOKENS = 4, 24
SAMPLING = Sampling(seed=1)

# Flax's logits may be four times as far from the truth as torch's, as on the rung `forward`; the
# frameworks are then at most five times that far apart.
APART = 1 + BOUNDS["forward", "float32"]

MakePredict = Callable[[Task, Pair, Arrays, Dtype], Predict]


@dataclass(frozen=True)
class Text:
    """What one side wrote for one prompt; `margins` (N,) by which each token was chosen.

    A search has one margin for the whole text, its narrowest.
    """

    tokens: tuple[int, ...]
    margins: tuple[float, ...]


def flax_predict(task: Task, pair: Pair, leaves: Arrays, dtype: Dtype) -> Predict:
    graphdef, params, stats = state.split(pair.flax)
    params, stats = (
        {name: jnp.asarray(leaves[name], dtype) for name in part} for part in (params, stats)
    )
    model = state.merge(graphdef, params, stats)
    jitted = make_predict(graphdef, make_objective(task).inputs)

    def predict(batch: dict[str, np.ndarray], carry: Any) -> tuple[np.ndarray, Any]:
        if carry is None:
            carry = initial_carry(model)(len(batch["tokens"]))
        inputs = {name: jnp.asarray(value) for name, value in batch.items()}
        outputs, carry = jitted({"params": params, "stats": stats}, inputs, carry)
        return np.asarray(outputs), carry or None

    return predict


def torch_predict(task: Task, pair: Pair, leaves: Arrays, dtype: Dtype) -> Predict:
    model = pair.torch.to(getattr(torch, dtype))
    load_tensors(model, to_torch_layout(leaves, pair.rules), pair.rules)

    def predict(batch: dict[str, np.ndarray], carry: Any) -> tuple[np.ndarray, Any]:
        outputs, carry = torchref.step.predict(task, model, to_tensors(batch), carry)
        return outputs.numpy(), carry

    return predict


MAKERS: dict[str, MakePredict] = {"flax": flax_predict, "torch": torch_predict}


def writes_text(task: Task) -> bool:
    return isinstance(task.data, LanguageDataConfig)


def text_rung(task: Task, *, makers: dict[str, MakePredict] | None = None) -> list[Verdict]:
    """How many tokens differ: greedy, sampled and by beam search; in float64, then in float32.

    In float64 every difference counts. In float32 one counts where the margin of the choice exceeds
    twice what the logits may be apart, which is measured on torch alone: a Flax whose logits are
    wrong could else excuse its own text. What follows a difference that does not count is not
    compared, for it continues another text.
    """
    makers = makers or MAKERS
    pair = task_pair(task)
    leaves = _lively_leaves(pair)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(_vocabulary(task), size=length) for length in PROMPT_LENGTHS]
    verdicts = []
    for dtype in ("float64", "float32"):
        with precision(dtype):
            flax = _write(task, makers["flax"](task, pair, leaves, dtype), prompts)
            other = _write(task, makers["torch"](task, pair, leaves, dtype), prompts)
        apart = 0.0
        if dtype == "float32":
            apart = APART * _rounding(task, pair, leaves, prompts, other["sampled"])
        verdicts.append(_verdict(task, dtype, flax, other, apart))
    return verdicts


def _lively_leaves(pair: Pair) -> Arrays:
    """Hot weights that heed the last tokens: else a text soon repeats one, by a wide margin."""
    factors = {"weight_ih_l0": 4.0, "kernel": 3.0}
    leaves = hot_leaves(pair, 0)
    return {n: v * factors.get(n.rpartition(".")[2], 1.0) for n, v in leaves.items()}


def _write(task: Task, predict: Predict, prompts: list[np.ndarray]) -> dict[str, list[Text]]:
    """Every way of decoding -> a text a prompt."""
    step, select, start = make_decoder(task, predict)
    texts = {}
    for name, sampling in (("greedy", GREEDY), ("sampled", SAMPLING)):
        rows: list[list[Any]] = [[] for _ in prompts]
        for token in stream(
            step,
            start,
            prompts,
            vocabulary_size=_vocabulary(task),
            max_new_tokens=NEW_TOKENS,
            sampling=sampling,
        ):
            # The scores are logits over the temperature: back to logits.
            margin = token.margin * (sampling.temperature or 1)
            rows[token.row].append((token.token, margin))
        texts[name] = [Text(*zip(*row, strict=True)) for row in rows]
    found = beam_search(
        step,
        select,
        start,
        prompts,
        vocabulary_size=_vocabulary(task),
        beams=BEAMS,
        max_new_tokens=SEARCHED_TOKENS,
    )
    return texts | {"beam": [Text(text.tokens, (text.margin,)) for text in found]}


def _rounding(
    task: Task, pair: Pair, leaves: Arrays, prompts: list[np.ndarray], texts: list[Text]
) -> float:
    """How far torch's float32 logits are from its float64 ones at most, on the texts it wrote.

    Of a text that is longer than the model's context, its beginning is read.
    """
    limit = getattr(task.model, "context_length", None)
    rows = [np.append(p, t.tokens)[:limit] for p, t in zip(prompts, texts, strict=True)]
    length = max(map(len, rows))
    padded = np.array([np.pad(row, (0, length - len(row))) for row in rows], np.int32)
    batch = {"tokens": padded, "reset": np.zeros(len(rows), bool)}
    # The padding is as good a text as any.
    in32, in64 = (
        torch_predict(task, pair, leaves, dtype)(batch, None)[0] for dtype in ("float32", "float64")
    )
    return float(np.abs(in32 - in64).max())


def _verdict(
    task: Task,
    dtype: Dtype,
    flax: dict[str, list[Text]],
    other: dict[str, list[Text]],
    apart: float,
) -> Verdict:
    leaves, margins, excused = [], {}, 0
    for name in flax:
        for row, (left, right) in enumerate(zip(flax[name], other[name], strict=True)):
            # A search adds up log probabilities, each off by at most twice what its logits are.
            bound = 2 * apart * (1 if name != "beam" else 2 * SEARCHED_TOKENS)
            where = f"{name}, prompt {row + 1}"
            count, close = compare_texts(left, right, bound)
            leaves.append(LeafError(where, count))
            margins[where] = min(left.margins + right.margins)
            excused += close
    total = sum(leaf.value for leaf in leaves)
    closest = min(margins, key=lambda where: margins[where])
    tokens = sum(len(text.tokens) for texts in other.values() for text in texts)
    note = (
        f"{len(PROMPT_LENGTHS)} prompts, {tokens:,} tokens: {NEW_TOKENS} a prompt greedy and "
        f"sampled at temperature {SAMPLING.temperature}, {SEARCHED_TOKENS} by {BEAMS} beams"
    )
    if dtype == "float32":
        note += (
            f"; logits may be {apart:.1e} apart, {APART:g} times torch's own rounding; {excused} "
            f"text{'s' if excused != 1 else ''} parted at a closer choice than that excuses"
        )
    return Verdict(
        task.name,
        "text",
        dtype,
        total,
        BOUNDS["text", dtype],
        f"smallest margin {margins[closest]:.1e} ({closest})",
        next((leaf.name for leaf in leaves if leaf.value), ""),
        note=note,
        leaves=tuple(leaves),
    )


def compare_texts(left: Text, right: Text, bound: float) -> tuple[int, bool]:
    """(tokens that differ, whether the texts part where the margin is at most `bound`: then 0)."""
    different = [a != b for a, b in zip(left.tokens, right.tokens, strict=True)]
    if not any(different):
        return 0, False
    first = different.index(True)
    # A search has one margin for all its tokens.
    margin = min(text.margins[min(first, len(text.margins) - 1)] for text in (left, right))
    if margin <= bound and bound > 0:
        return 0, True
    return sum(different), False


def _vocabulary(task: Task) -> int:
    return task.model.vocabulary_size  # type: ignore[union-attr]
