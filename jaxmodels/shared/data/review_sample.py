"""A made-up set of short film reviews, for trying things out with no network.

The reviews are synthetic: a small grammar fills in who, what and how. No figure measured on them
says anything about IMDb. They are made so that a bag of words does not suffice: praise is also put
as "not dull" and blame as "not clever", and some reviews first concede the opposite.

>>> sample_reviews()[1]
('The dialogue is really good — we watched it last night.', 1)
"""

from collections.abc import Sequence

import numpy as np

NUM_REVIEWS = 1200
_SEED = 20110619  # of the set itself: everyone has the same 1,200
_NEGATED_FRACTION = 0.3
_CONCEDED_FRACTION = 0.25

_BLAME = ("bad", "boring", "awful", "dull", "clumsy", "stale", "dreadful", "predictable")
_PRAISE = ("good", "clever", "funny", "brilliant", "gripping", "fresh", "superb", "moving")
_ADJECTIVES = (_BLAME, _PRAISE)  # by label
_SUBJECTS = (
    *("the plot", "the script", "the acting", "the music", "the ending", "the camera work"),
    *("the dialogue", "the cast", "the pace", "the director's touch", "every scene", "the villain"),
)
_DEGREES = ("", "", "really ", "quite ", "so ", "simply ")
_PLAIN = ("{s} was {d}{a}", "{s} is {d}{a}", "i found {s} {d}{a}", "{s} seemed {d}{a} to me")
_NEGATED = ("{s} was not {a}", "{s} is not {a}", "{s} was never {a}", "{s} isn't {a}")
_CONCEDED = ("although {c}, {v}", "you may hear that {c}, but {v}", "{c}, they say; no, {v}")
_CONTEXTS = (
    "i saw this {w} with my {p}",
    "my {p} chose this film {w}",
    "we watched it {w}",
    "it runs for {n} minutes",
    "this is the film that my {p} talked about {w}",
)
_WHEN = ("on friday", "last night", "at the festival", "on a plane", "years ago", "twice")
_PEOPLE = ("brother", "mother", "friends", "neighbour", "fiancé", "daughter")
_JOINTS = (". ", "<br /><br />", ", and ", "; ", "... ", " — ")


def sample_reviews() -> list[tuple[str, int]]:
    """-> 1,200 different (text, label), 0 negative and 1 positive by turns; always the same."""
    generator = np.random.Generator(np.random.PCG64(_SEED))
    reviews: dict[str, int] = {}
    while len(reviews) < NUM_REVIEWS:
        label = len(reviews) % 2
        reviews.setdefault(_review(generator, label), label)
    return list(reviews.items())


def _review(generator: np.random.Generator, label: int) -> str:
    """One or two opinions of one mind, perhaps a conceded other, between remarks of no opinion."""
    count = int(generator.integers(1, 3))
    subjects = iter(generator.permutation(_SUBJECTS))
    parts = [_opinion(generator, str(next(subjects)), label) for _ in range(count)]
    if generator.random() < _CONCEDED_FRACTION:
        conceded = _opinion(generator, str(next(subjects)), 1 - label)
        parts[0] = _choose(generator, _CONCEDED).format(c=conceded, v=parts[0])
    context = _choose(generator, _CONTEXTS).format(
        w=_choose(generator, _WHEN), p=_choose(generator, _PEOPLE), n=generator.integers(75, 180)
    )
    parts.insert(int(generator.integers(len(parts) + 1)), context)
    text = parts[0]
    for part in parts[1:]:
        text += _choose(generator, _JOINTS) + part
    return text[0].upper() + text[1:] + "."


def _opinion(generator: np.random.Generator, subject: str, label: int) -> str:
    negated = generator.random() < _NEGATED_FRACTION
    template = _choose(generator, _NEGATED if negated else _PLAIN)
    adjective = _choose(generator, _ADJECTIVES[1 - label if negated else label])
    return template.format(s=subject, d=_choose(generator, _DEGREES), a=adjective)


def _choose(generator: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(generator.integers(len(options)))]
