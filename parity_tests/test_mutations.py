"""The audit: each known difference, injected, is caught on its own rung and on none below."""

import pytest

from parity_tests.cases import CASES
from parity_tests.mutations import MUTATIONS, Mutation, audit_one

SLOW = ("layer-wise rates",)  # ten steps of a ResNet


@pytest.mark.parametrize(
    "mutation",
    [
        pytest.param(
            mutation,
            marks=[pytest.mark.slow] * (mutation.topic in SLOW),
            id=mutation.topic.replace(" ", "-"),
        )
        for mutation in MUTATIONS
    ],
)
def test_mutation_is_caught_on_its_rung(mutation):
    row = audit_one(mutation)
    assert row.caught_by == (mutation.rung,), f"{row.where}: factor {row.factor:.2g}"
    assert row.factor > 1


def test_the_clean_pair_is_silent_in_the_audit():
    row = audit_one(Mutation("nothing", "control", "logistic", "step", lambda pair: pair))
    assert row.caught_by == ()
    assert not row.ok
    assert row.factor <= 1


def test_every_mutation_names_a_case_and_its_own_topic():
    assert {mutation.case for mutation in MUTATIONS} <= CASES.keys()
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
