"""Text becomes words, and words become ids, as the options say."""

import json

import numpy as np
import pytest

from jaxmodels.shared.data.vocabulary import Vocabulary, build_vocabulary, word_splitter


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A good, GOOD film!", "a good good film"),
        ("dull<br /><br />slow</p>end<!-- no -->", "dull slow end"),
        ("Tom &amp; Jerry&#39;s caf&eacute;&lt;br /&gt;end", "tom jerry's café end"),
        ("i <3 this, 1 < 2 > 0", "i 3 this 1 2 0"),
        (
            "don't 'quote' rock'n'roll it\N{RIGHT SINGLE QUOTATION MARK}s",
            "don't quote rock'n'roll it's",
        ),
        ("cafe\N{COMBINING ACUTE ACCENT} Été", "café été"),
        ("so good👍👍 ❤️ 很好", "so good 👍 👍 ❤ 很好"),
        ("snake_case - 7/10", "snake case 7 10"),
        (" \n<br />...", ""),
    ],
)
def test_text_becomes_words(text, words):
    split = word_splitter(lowercase=True, remove_stop_words=False, stem="none")
    assert split(text) == words.split()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lowercase": False}, "This was NOT the moving Films' endings"),
        ({}, "this was not the moving films endings"),
        ({"remove_stop_words": True}, "not moving films endings"),
        ({"lowercase": False, "remove_stop_words": True}, "NOT moving Films endings"),
        ({"stem": "snowball"}, "this was not the move film end"),
    ],
)
def test_cleaning_follows_its_options(options, words):
    pytest.importorskip("sklearn")
    pytest.importorskip("snowballstemmer")
    split = word_splitter(
        **({"lowercase": True, "remove_stop_words": False, "stem": "none"} | options)
    )
    assert split("This was NOT the moving Films' endings") == words.replace("'", "").split()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_frequency": 1, "max_size": 99}, ("film", "bad", "good", "a", "z")),
        ({"min_frequency": 2, "max_size": 99}, ("film", "bad", "good")),
        ({"min_frequency": 1, "max_size": 4}, ("film", "bad")),
        ({"min_frequency": 4, "max_size": 99}, ()),
    ],
)
def test_vocabulary_is_by_frequency_then_alphabet(options, words):
    reviews = [["z", "good", "film"], ["good", "film", "bad"], ["a", "film", "bad"]]
    vocabulary = build_vocabulary(reviews, **options)
    assert vocabulary.words == words
    assert len(vocabulary) == len(words) + 2


def test_vocabulary_encodes_and_survives_json():
    vocabulary = Vocabulary(("film", "👍"))
    ids = vocabulary.encode(["👍", "unheard", "film"])
    assert (ids.tolist(), ids.dtype) == ([3, 1, 2], np.int32)
    assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json()))) == vocabulary


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"film": 2}, "vocab.json is dict; expected a list of words"),
        (["film", 3], "vocab.json row 1: 3 is no word"),
        (["film", ""], "vocab.json row 1: '' is no word"),
        (["film", "bad", "film"], "vocab.json row 2: 'film' stands there twice"),
    ],
)
def test_damaged_vocabulary_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary.from_json(content, where="vocab.json")
