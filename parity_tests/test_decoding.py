"""Decoding is what its definition says, by brute force, whatever batch a prompt is in."""

import itertools

import numpy as np
import pytest

from jaxmodels.shared.text.decoding import (
    GREEDY,
    Sampling,
    _noise,
    best_indexes,
    choose,
    kept_tokens,
    stream,
)
from parity_tests.toy_text import NEW, PROMPTS, STATE, VOCABULARY, ToyModel, search, write

# ---- Greedy and the common loop


def test_greedy_takes_the_most_probable_token_each_time():
    model = ToyModel()
    for prompt, new in zip(PROMPTS, write(model), strict=True):
        assert len(new) == NEW
        for length, token in enumerate(new):
            assert token == np.argmax(model.logits((*prompt, *new[:length])))


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=5), Sampling(0.7, 3, 0.9, 2)])
def test_text_does_not_depend_on_the_batch(sampling):
    together = write(ToyModel(), sampling=sampling)
    for row, prompt in enumerate(PROMPTS):
        assert write(ToyModel(), [prompt], sampling=sampling, row_keys=[row]) == [together[row]]
    order = [2, 0, 3, 1]
    shuffled = write(ToyModel(), [PROMPTS[r] for r in order], sampling=sampling, row_keys=order)
    assert shuffled == [together[row] for row in order]


@pytest.mark.parametrize("decode", [write, search])
def test_shapes_never_change_and_arrays_are_left_alone(decode):
    """A framework may hold on to the array that it was given, and read it later."""
    model = ToyModel()
    decode(model, stop_tokens=[0])
    assert len({tokens.shape for tokens, _ in model.received}) == 1
    for tokens, as_received in model.received:
        assert tokens.tolist() == as_received


def test_stop_token_is_the_last_of_its_row():
    free = write(ToyModel())
    stop = free[0][1]
    stopped = write(ToyModel(), stop_tokens=[stop, 4])
    for with_stop, without in zip(stopped, free, strict=True):
        ends = [place for place, token in enumerate(without) if token in (stop, 4)]
        assert with_stop == (without[: ends[0] + 1] if ends else without)
    assert len(stopped[0]) <= 2


def test_tokens_are_streamed_as_they_are_chosen():
    model = ToyModel()
    tokens = stream(model.step, STATE, PROMPTS, vocabulary_size=VOCABULARY, max_new_tokens=NEW)
    assert not model.received
    assert next(tokens).row == 0
    assert len(model.received) == 1, "prompt 0 has one token, so one step is enough"
    rest = list(tokens)
    assert len(rest) == NEW * len(PROMPTS) - 1
    assert len(model.received) == max(map(len, PROMPTS)) + NEW - 1


def test_no_prompt_is_no_text():
    assert write(ToyModel(), []) == []
    assert search(ToyModel(), []) == []


@pytest.mark.parametrize("decode", [write, search])
def test_logits_past_the_vocabulary_are_ignored(decode):
    class Padded(ToyModel):
        def logits(self, text):
            return np.append(super().logits(text), [99.0, np.nan])

    assert decode(Padded()) == decode(ToyModel())
    with pytest.raises(
        ValueError, match=r"logits of shape \(\d+, 5\); expected \(\d+, 6 or more\)"
    ):
        decode(ToyModel(), vocabulary_size=6)


# ---- Sampling


def test_kept_tokens_by_hand():
    scores = np.log([0.1, 0.4, 0.05, 0.25, 0.2])

    def kept(**options):
        return np.flatnonzero(kept_tokens(scores, Sampling(**options))).tolist()

    assert kept() == [0, 1, 2, 3, 4]
    assert kept(top_k=1) == [1]
    assert kept(top_k=3) == [1, 3, 4]
    assert kept(top_k=9) == [0, 1, 2, 3, 4]
    assert kept(top_p=0.3) == [1]
    assert kept(top_p=0.41) == [1, 3]  # the fewest that hold as much: .4 does not
    assert kept(top_p=0.84) == [1, 3, 4]
    assert kept(top_p=0.86) == [0, 1, 3, 4]
    assert kept(top_p=1e-9) == [1]
    # Of the two that top_k keeps, .4 and .25, the first alone holds .615.
    assert kept(top_k=2, top_p=0.6) == [1]
    assert kept(top_k=2, top_p=0.63) == [1, 3]


def test_equal_scores_go_to_the_lower_id():
    tied = np.array([1.0, 2.0, 2.0, 0.0, 2.0])
    assert choose(tied, GREEDY, key=0, position=1) == (1, 0.0)
    assert best_indexes(tied, 2).tolist() == [1, 2]
    assert best_indexes(tied, 9).tolist() == [1, 2, 4, 0, 3]
    many = np.random.default_rng(0).integers(0, 3, 1000).astype(float)  # sorts change with size
    wanted = sorted(range(1000), key=lambda index: (-many[index], index))
    assert best_indexes(many, 600).tolist() == wanted[:600]
    assert np.flatnonzero(kept_tokens(tied, Sampling(top_k=2))).tolist() == [1, 2]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.5),
        Sampling(temperature=3.0),
        Sampling(top_k=3),
        Sampling(top_p=0.7),
        Sampling(temperature=1.5, top_k=4, top_p=0.8, seed=9),
    ],
)
def test_frequencies_are_the_probabilities(sampling):
    logits = np.log([0.1, 0.35, 0.05, 0.3, 0.2])
    scaled = logits / sampling.temperature
    probabilities = np.exp(scaled) * kept_tokens(scaled, sampling)
    probabilities /= probabilities.sum()
    draws, kept = 2000, probabilities > 0
    tokens = [choose(logits, sampling, key=n % 50, position=n // 50)[0] for n in range(draws)]
    counts = np.bincount(tokens, minlength=len(logits))
    assert not counts[~kept].any()

    def chi_square(observed):
        expected = draws * probabilities[kept]
        return float((np.square(observed - expected) / expected).sum())

    degrees = kept.sum() - 1
    bound = degrees + 4 * np.sqrt(2 * degrees)
    assert chi_square(counts[kept]) < bound
    assert chi_square(np.full(kept.sum(), draws / kept.sum())) > bound, "uniform draws would pass"


def test_temperature_to_zero_is_greedy():
    greedy = write(ToyModel(), sampling=GREEDY)
    for temperature in (1e-3, 1e-9, 1e-320):  # the last makes infinities of ordinary logits
        assert write(ToyModel(), sampling=Sampling(temperature)) == greedy
    hot = [write(ToyModel(), sampling=Sampling(5.0, seed=seed)) for seed in range(3)]
    assert greedy not in hot


def test_noise_follows_seed_key_and_position():
    flat = np.zeros(1000)

    def chosen(seed=0, key=0, position=1):
        return choose(flat, Sampling(seed=seed), key, position)[0]

    assert chosen() == chosen()
    others = [
        {"seed": 1},
        {"key": 1},
        {"position": 2},
        {"seed": 2**64 - 1},
        {"key": 2**64 - 1},
        {"seed": 1, "key": 1},
    ]
    assert len({chosen(), *(chosen(**other) for other in others)}) == 7
    # Not one stream of numbers, read from different places.
    numbers = [_noise(0, 0, position, 1000).tolist() for position in (1, 2, 3)]
    assert len(set(itertools.chain(*numbers))) == 3000
    # The same prompt twice in a batch: two texts.
    first, second = write(ToyModel(), [[1], [1]], max_new_tokens=20, sampling=Sampling())
    assert first != second


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=3)])
def test_text_that_is_fed_back_goes_on_as_it_would_have(sampling):
    whole = write(ToyModel(), max_new_tokens=9, sampling=sampling)
    begun = write(ToyModel(), max_new_tokens=4, sampling=sampling)
    prompts = [[*prompt, *new] for prompt, new in zip(PROMPTS, begun, strict=True)]
    rest = write(ToyModel(), prompts, max_new_tokens=5, sampling=sampling)
    assert [a + b for a, b in zip(begun, rest, strict=True)] == whole


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=1), Sampling(0.5, seed=1)])
def test_logits_within_half_the_margin_choose_the_same(sampling):
    """The frameworks' claim: rounding changes no token while the margin is wider."""
    scale = sampling.temperature or 1.0
    rng = np.random.default_rng(0)
    for position in range(200):
        logits = 2 * rng.normal(size=VOCABULARY)
        token, margin = choose(logits, sampling, 0, position)
        signs = np.where(np.arange(VOCABULARY) == token, -1, 1)
        nearly = choose(logits + 0.49 * margin * scale * signs, sampling, 0, position)[0]
        beyond = choose(logits + 0.51 * margin * scale * signs, sampling, 0, position)[0]
        assert nearly == token
        assert beyond != token


@pytest.mark.parametrize("options", [{}, {"sampling": Sampling(seed=4, top_k=4, top_p=0.95)}])
def test_rounding_changes_no_text(options):
    assert write(ToyModel(), max_new_tokens=50, **options) == write(
        ToyModel(noise=1e-6), max_new_tokens=50, **options
    )
    assert write(ToyModel(noise=1.0), max_new_tokens=50, **options) != write(
        ToyModel(), max_new_tokens=50, **options
    )


def test_forbidden_tokens_are_never_chosen():
    logits = np.array([5.0, -np.inf, 4.0, -np.inf])
    for sampling in (GREEDY, Sampling(9.0), Sampling(9.0, top_k=3), Sampling(9.0, top_p=0.999)):
        assert {choose(logits, sampling, 0, n)[0] for n in range(200)} <= {0, 2}


# ---- What is refused

BAD_OPTIONS = [
    ({"max_new_tokens": 0}, "max_new_tokens 0 must be at least 1"),
    ({"prompts": [[1], []]}, "prompt row 1 is empty; expected at least one token"),
    ({"prompts": [[1], [2, 5]]}, "prompt row 1: token 5 is out of range; expected 0 to 4"),
    ({"prompts": [[-1]]}, "prompt row 0: token -1 is out of range"),
    ({"stop_tokens": [7]}, "stop_tokens: token 7 is out of range"),
    ({"stop_tokens": [-1]}, "stop_tokens: token -1 is out of range"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
@pytest.mark.parametrize("decode", [write, search])
def test_bad_prompts_and_sizes_are_refused(decode, options, message):
    with pytest.raises(ValueError, match=message):
        decode(ToyModel(), **options)


@pytest.mark.parametrize("keys", [[0, 1], [0, 1, 2, -1], [0, 1, 2, 2**64]])
def test_bad_row_keys_are_refused(keys):
    with pytest.raises(ValueError, match=r"row_keys .* must be 4 numbers in \[0, 2\^64\)"):
        write(ToyModel(), row_keys=keys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature -1.0 must be finite and not negative"),
        ({"temperature": float("inf")}, "temperature inf must be finite"),
        ({"temperature": float("nan")}, "temperature nan must be finite"),
        ({"top_k": -1}, "top_k -1 must not be negative; 0 keeps every token"),
        ({"top_p": 0.0}, r"top_p 0.0 must be in \(0, 1\]"),
        ({"top_p": 1.1}, r"top_p 1.1 must be in \(0, 1\]"),
        ({"seed": -1}, "seed -1 must be in"),
        ({"seed": 2**64}, "seed .* must be in"),
    ],
)
def test_bad_sampling_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**options)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("decode", [write, search])
def test_logits_that_are_not_finite_are_refused(decode, value):
    class Diverged(ToyModel):
        def logits(self, text):
            logits = super().logits(text)
            if len(text) == len(PROMPTS[2]) + 1 and text[:2] == tuple(PROMPTS[2]):
                logits[:] = np.where(np.isnan(value) | (np.arange(5) == 1), value, logits)
                logits[:] = value if value == -np.inf else logits
            return logits

    with pytest.raises(ValueError, match="prompt row 2: the logits of token 3 are not finite"):
        decode(Diverged())
