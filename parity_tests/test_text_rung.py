"""The text rung holds for small models of either cell, and sees logits that are slightly off."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from jaxmodels.shared.configs import CharRNNConfig, GPT2Config
from jaxmodels.shared.tasks import TASKS
from parity_tests import text_rung as text_rung_module
from parity_tests.cases import task_pair
from parity_tests.pairs import hot_leaves
from parity_tests.text_rung import MAKERS, Text, compare_texts, flax_predict, text_rung
from parity_tests.tiny_runs import with_settings

SIZES = {"vocabulary_size": 23, "embedding_dim": 9, "hidden_dim": 14}


def tiny(cell: str) -> Any:
    if cell == "transformer":  # whose context is shorter than a text
        small = GPT2Config(
            vocabulary_size=23,
            context_length=8,
            hidden_dim=12,
            num_layers=1,
            num_heads=3,
            mlp_dim=14,
        )
        task = TASKS["shakespeare-transformer"]
        return with_settings(dataclasses.replace(task, model=small), data={"sequence_length": 8})
    model = CharRNNConfig(cell=cell, dropout_rate=0.2, **SIZES)  # type: ignore[arg-type]
    return dataclasses.replace(TASKS[f"shakespeare-{cell}"], model=model)


@pytest.mark.parametrize("cell", ["lstm", "gru", "transformer"])
def test_both_frameworks_write_the_same_text(cell: str) -> None:
    verdicts = text_rung(tiny(cell))
    assert [(v.rung, v.dtype, v.bound) for v in verdicts] == [
        ("text", "float64", 0),
        ("text", "float32", 0),
    ]
    for verdict in verdicts:
        assert verdict.ok, f"{verdict.value} tokens differ, first {verdict.first_divergence}"
        assert "smallest margin" in verdict.where
        assert "64 prompts, 16,896 tokens" in verdict.note


def test_texts_may_be_longer_than_a_transformers_context() -> None:
    model = GPT2Config(
        vocabulary_size=23, context_length=16, hidden_dim=12, num_layers=1, num_heads=2, mlp_dim=20
    )
    task = dataclasses.replace(TASKS["shakespeare-transformer"], model=model)
    pair = task_pair(task)
    prompts, texts = [np.arange(11), np.arange(3)], [Text(tuple(range(20)), ())] * 2
    apart = text_rung_module._rounding(task, pair, hot_leaves(pair, 0), prompts, texts)
    assert 0 < apart < 1e-4


def slightly_off(task: Any, pair: Any, leaves: Any, dtype: Any) -> Any:
    """Logits with noise of a thousandth of their scale, a function of the logits themselves."""
    predict = flax_predict(task, pair, leaves, dtype)

    def off(batch: Any, carry: Any) -> Any:
        logits, carry = predict(batch, carry)
        return logits + 1e-3 * logits.std() * np.sin(1e6 * logits), carry

    return off


def test_logits_off_by_a_thousandth_are_caught_in_either_precision() -> None:
    for verdict in text_rung(tiny("gru"), makers=MAKERS | {"flax": slightly_off}):
        assert not verdict.ok, verdict.dtype
        assert verdict.first_divergence


def forgetful(task: Any, pair: Any, leaves: Any, dtype: Any) -> Any:
    predict = flax_predict(task, pair, leaves, dtype)
    return lambda batch, carry: (predict(batch, None)[0], carry)


def test_a_decoder_that_forgets_its_state_is_caught() -> None:
    for verdict in text_rung(tiny("gru"), makers=MAKERS | {"flax": forgetful}):
        assert verdict.value > 100


def test_a_difference_counts_only_beyond_the_bound() -> None:
    left, right = Text((1, 2, 3, 4), (9, 0.5, 9, 9)), Text((1, 7, 3, 8), (9, 0.4, 9, 9))
    assert compare_texts(left, left, 1.0) == (0, False)
    assert compare_texts(left, right, 0.39) == (2, False)
    assert compare_texts(left, right, 0.41) == (0, True)
    assert compare_texts(left, right, 0.0) == (2, False)
    tied = Text((1, 7, 3, 8), (0.0,))
    assert compare_texts(left, tied, 0.0) == (2, False)  # float64 excuses nothing
    assert compare_texts(left, tied, 0.1) == (0, True)  # a search's one margin is of every token
