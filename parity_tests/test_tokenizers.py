"""Tokenizers give back what they were given, are the same each time, and refuse the unknown."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmodels.shared.text.tokenizers import (
    ByteBPETokenizer,
    CharacterTokenizer,
    Tokenizer,
    decode_stream,
    load_tokenizer,
    train_tokenizer,
)

pytest.importorskip("tokenizers")

fuzz = settings(max_examples=100, deadline=None, derandomize=True, database=None)
TEXT = "Zoë says: to be or not to be, that is the question. 🙂\n" * 3
# Texts with many characters of several bytes; hypothesis alone prefers ASCII.
texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("é🙂👩‍🚀\u2028\0日本"))


def bpe(text: str = TEXT, size: int = 280) -> ByteBPETokenizer:
    return ByteBPETokenizer.train(text, size)


BPE = bpe()
BOTH: list[Tokenizer] = [CharacterTokenizer.train(TEXT), BPE]


# ---- Round trips


@given(text=texts)
@fuzz
def test_bpe_gives_any_text_back(text):
    assert BPE.decode(BPE.encode(text)) == text


@given(text=texts.filter(len))
@fuzz
def test_characters_give_their_text_back(text):
    tokenizer = CharacterTokenizer.train(text)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text)
    assert sorted(set(ids.tolist())) == list(range(tokenizer.vocabulary_size))


@pytest.mark.parametrize("tokenizer", BOTH)
@given(data=st.data())
@fuzz
def test_any_ids_are_decoded_and_streamed_alike(tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocabulary_size - 1)))
    whole = tokenizer.decode(np.array(ids, np.int32))
    assert "".join(decode_stream(tokenizer, ids)) == whole
    assert b"".join(map(tokenizer.token_bytes, ids)).decode("utf-8", "replace") == whole


def test_stream_holds_back_part_of_a_character():
    ids = bpe(size=256).encode("a🙂b")  # a token a byte
    assert list(decode_stream(bpe(size=256), ids)) == ["a", "🙂", "b"]
    assert list(decode_stream(bpe(size=256), ids[:3])) == ["a", "\ufffd"]


@pytest.mark.parametrize("tokenizer", BOTH)
def test_ids_are_int32_in_range(tokenizer):
    ids = tokenizer.encode(TEXT)
    assert ids.dtype == np.int32
    assert 0 <= ids.min() <= ids.max() < tokenizer.vocabulary_size
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer.decode([]) == ""


def test_bpe_merges_what_is_frequent():
    assert BPE.vocabulary_size == 280
    assert len(BPE.encode(TEXT)) < 0.7 * len(TEXT.encode())
    assert len(bpe(size=256).encode(TEXT)) == len(TEXT.encode())
    # As the library itself decodes.
    assert BPE._library.decode(BPE.encode(TEXT).tolist()) == TEXT


def test_bpe_is_the_same_in_every_process():
    """Other hash seeds and numbers of threads, the same merges in the same order."""
    program = f"""
from jaxmodels.shared.text.tokenizers import ByteBPETokenizer
print(ByteBPETokenizer.train({TEXT!r}, 280).file()[1], end="")
"""
    for threads in ("1", "4"):
        environment = {"RAYON_NUM_THREADS": threads, "PYTHONPATH": ":".join(sys.path)}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        assert done.stdout == BPE.file()[1]


# ---- Files


@pytest.mark.parametrize("tokenizer", BOTH)
def test_saved_tokenizer_is_loaded(tmp_path, tokenizer):
    name, content = tokenizer.file()
    json.loads(content)
    (tmp_path / name).write_text(content, encoding="utf-8")
    loaded = load_tokenizer(tmp_path)
    assert type(loaded) is type(tokenizer)
    assert loaded.vocabulary_size == tokenizer.vocabulary_size
    np.testing.assert_array_equal(loaded.encode(TEXT), tokenizer.encode(TEXT))
    assert loaded.decode(loaded.encode(TEXT)) == TEXT


WORDS = '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"日": 0}, "unk_token": "日"}}'


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no tokenizer; expected characters.json or tokenizer.json"),
        (
            {"characters.json": "{}", "tokenizer.json": "{}"},
            r"has characters.json and tokenizer.json; .* the one that belongs to the weights",
        ),
        ({"characters.json": "{"}, "characters.json is not a tokenizer that this library wrote"),
        ({"characters.json": "{}"}, "characters.json is not a tokenizer .*KeyError"),
        ({"characters.json": '{"characters": "ba"}'}, "characters.json .* must be sorted"),
        ({"characters.json": '{"characters": ""}'}, "characters.json .* at least one"),
        ({"tokenizer.json": "{}"}, "tokenizer.json is not a tokenizer that this library wrote"),
        ({"tokenizer.json": WORDS}, "tokenizer.json .* not a byte-level BPE"),
    ],
)
def test_folder_without_a_sound_tokenizer_is_refused(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value)


# ---- What is refused


@pytest.mark.parametrize("unknown", ["ż", "🙂", "\udc80", "\uffff"])
def test_unknown_character_is_named_with_its_position(unknown):
    tokenizer = CharacterTokenizer.train("abc é")
    code = f"{ord(unknown):04X}"
    message = rf"\(U\+{code}\) at position 4 is unknown; the 5 known are ' abcé'; .*tokenizer bpe"
    with pytest.raises(ValueError, match=message) as caught:
        tokenizer.encode(f"ab c{unknown}a")
    assert repr(unknown) in str(caught.value)


@pytest.mark.parametrize("tokenizer", BOTH)
@pytest.mark.parametrize("bad", [-1, 1000])
def test_id_out_of_range_is_refused(tokenizer, bad):
    message = f"token {bad} at position 1 is out of range; expected 0 to"
    for decode in (tokenizer.decode, lambda ids: list(decode_stream(tokenizer, ids))):
        with pytest.raises(ValueError, match=message.replace(" at position 1", ".*")):
            decode([0, bad])
    with pytest.raises(ValueError, match=message):
        tokenizer.decode([0, bad])


@pytest.mark.parametrize(
    ("kind", "text", "size", "message"),
    [
        ("bpe", TEXT, 255, "data.vocabulary_size 255 must be at least 256"),
        ("bpe", "to be to be", 300, r"vocabulary_size 300: the 11 .* have pairs for 259 only; try"),
        ("bpe", "a\ud800", 256, "character '.ud800' at position 1 is half a surrogate pair"),
        ("character", "a\ud800", 0, "character '.ud800' at position 1 is half a surrogate pair"),
        ("character", "", 0, "must be sorted, distinct and at least one"),
        ("words", "a", 0, "data.tokenizer 'words' must be character or bpe"),
    ],
)
def test_training_that_cannot_be_is_refused(kind, text, size, message):
    with pytest.raises(ValueError, match=message):
        train_tokenizer(kind, text, size)


def test_bpe_refuses_half_a_surrogate_pair():
    with pytest.raises(ValueError, match="position 2 is half a surrogate pair"):
        BPE.encode("ab\udfff")


def test_missing_library_names_its_extra(monkeypatch, tmp_path):
    name, content = BPE.file()
    (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for use in (bpe, lambda: load_tokenizer(tmp_path)):
        with pytest.raises(ValueError, match=r"pip install 'jaxmodels\[text\]'"):
            use()
    assert CharacterTokenizer.train("ab").encode("ba").tolist() == [1, 0]
