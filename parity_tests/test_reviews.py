"""Reviews are read faithfully from every source, split by their own seed, and encoded."""

import os
import socket
import sys
from collections import Counter

import numpy as np
import pytest

from jaxmodels.shared.data.review_sample import sample_reviews
from jaxmodels.shared.data.review_sources import CLASS_NAMES, read_reviews
from jaxmodels.shared.data.reviews import (
    ReviewDataConfig,
    encode_reviews,
    load_reviews,
)
from jaxmodels.shared.data.splits import stratified_split
from parity_tests.review_folders import (
    CONFIG,
    POOLED,
    SPLITS,
    TEST,
    TEST_LABELS,
    TEST_TEXTS,
    TRAIN,
    TRAIN_LABELS,
    TRAIN_TEXTS,
    check_data,
    csv_file,
    datasets,
    hub_tables,
    parquet_folder,
    raw_folder,
    tfds_folder,
    write_csv,
    write_reviews,
)


def pairs(texts, labels) -> Counter:
    return Counter(zip(texts, map(int, labels), strict=True))


# ---- Sources


@pytest.fixture
def reachable_hub(monkeypatch):
    """No network is assumed, so the Hub's answers are stand-ins; what is read is a real Dataset."""
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: None)
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, revision=None: asked.append(name) or hub_tables()
    )
    return asked


def check_content(source: str, *, in_order: bool) -> None:
    raw = read_reviews(source)
    assert raw.class_names == CLASS_NAMES == ("negative", "positive")
    assert raw.test is not None
    assert (len(raw.train), len(raw.test)) == (TRAIN, TEST)
    assert raw.train.labels.dtype == raw.test.labels.dtype == np.int32
    assert pairs(raw.train.texts, raw.train.labels) == pairs(TRAIN_TEXTS, TRAIN_LABELS)
    assert pairs(raw.test.texts, raw.test.labels) == pairs(TEST_TEXTS, TEST_LABELS)
    assert (raw.train.texts == TRAIN_TEXTS) == in_order


@pytest.mark.parametrize("options", [{}, {"text": "review"}, {"names": None}])
def test_parquet_folder_is_read_in_order(tmp_path, options):
    check_content(str(parquet_folder(tmp_path, **options)), in_order=True)


def test_parquet_folder_needs_no_network_and_no_cache(tmp_path, monkeypatch):
    folder = parquet_folder(tmp_path / "source")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("used the network"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    before = sorted(folder.rglob("*"))
    read_reviews(str(folder))
    assert sorted(folder.rglob("*")) == before
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("subfolder", ["", "aclImdb"])
def test_raw_folder_is_read_without_unsup(tmp_path, subfolder):
    raw_folder(tmp_path / subfolder)
    check_content(str(tmp_path), in_order=False)
    assert read_reviews(str(tmp_path)).train.labels.tolist() == sorted(TRAIN_LABELS)


def test_hub_is_read_through_datasets(reachable_hub):
    for source in ("hub", "hub:some-one/some.set"):
        check_content(source, in_order=True)
    assert reachable_hub == ["stanfordnlp/imdb", "some-one/some.set"]


def test_tfds_is_read_without_tensorflow(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_folder(tmp_path)))
    loaded_before = "tensorflow" in sys.modules
    check_content("tfds:tiny_reviews", in_order=False)  # tfds shuffles by a hash of the key
    assert loaded_before or "tensorflow" not in sys.modules
    with pytest.raises(ValueError, match=r"tfds:imdb_reviews .*tfds build imdb_reviews"):
        read_reviews("tfds")


@pytest.mark.parametrize("mark", ["", "\N{ZERO WIDTH NO-BREAK SPACE}"])
def test_kaggle_csv_is_read_in_order_and_has_no_test_split(tmp_path, mark):
    file = csv_file(tmp_path)
    file.write_bytes((mark + file.read_bytes().decode()).encode() + b"\r\n")
    raw = read_reviews(str(file))
    assert raw.test is None
    assert raw.train.texts == TRAIN_TEXTS + TEST_TEXTS
    assert tuple(raw.train.labels.tolist()) == TRAIN_LABELS + TEST_LABELS


def test_csv_columns_are_found_by_name(tmp_path):
    source = write_csv(tmp_path, "7,negative,dull", header="id,sentiment,review")
    assert read_reviews(source).train.texts == ("dull",)


# ---- The synthetic sample


def test_sample_is_fixed_balanced_and_split_by_its_seed():
    reviews = sample_reviews()
    assert reviews == sample_reviews()
    assert len({text for text, _ in reviews}) == 1200
    assert sum(label for _, label in reviews) == 600
    first, other = read_reviews("sample"), read_reviews("sample", split_seed=1)
    for raw in (first, other):
        assert "synthetic" in raw.source
        assert raw.test is not None
        assert np.bincount(raw.test.labels).tolist() == [120, 120]
        texts, labels = raw.train.texts + raw.test.texts, [*raw.train.labels, *raw.test.labels]
        assert pairs(texts, labels) == Counter(reviews)
    assert first.train.texts != other.train.texts


def test_sample_needs_more_than_a_bag_of_words():
    pytest.importorskip("sklearn")
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    raw = read_reviews("sample")
    assert raw.test is not None
    scores = []
    for longest in (1, 2):
        counts = CountVectorizer(ngram_range=(1, longest))
        model = LogisticRegression(max_iter=1000).fit(
            counts.fit_transform(raw.train.texts), raw.train.labels
        )
        scores.append(model.score(counts.transform(raw.test.texts), raw.test.labels))
    words, word_pairs = scores
    assert words < 0.75
    assert word_pairs > 0.82


# ---- Splits


def test_standard_split_takes_validation_from_train_and_leaves_test_alone(tmp_path):
    data = load_reviews(str(parquet_folder(tmp_path)), CONFIG)
    check_data(data, CONFIG)
    assert data.test.texts == TEST_TEXTS
    assert tuple(data.test.labels) == TEST_LABELS
    assert [len(getattr(data, name)) for name in SPLITS] == [17, 2, TEST]
    texts = data.train.texts + data.validation.texts
    assert pairs(texts, [*data.train.labels, *data.validation.labels]) == pairs(
        TRAIN_TEXTS, TRAIN_LABELS
    )
    for split in (data.train, data.validation):
        rows = [TRAIN_TEXTS.index(text) for text in split.texts]
        assert rows == sorted(rows)


@pytest.mark.parametrize("make", [csv_file, parquet_folder, raw_folder])
def test_pooled_split_covers_everything_in_7_1_2(tmp_path, make):
    data = load_reviews(str(make(tmp_path / "source")), POOLED)
    check_data(data, POOLED)
    splits = [getattr(data, name) for name in SPLITS]
    assert [len(split) for split in splits] == [18, 2, 5]  # of 25
    texts = [text for split in splits for text in split.texts]
    labels = np.concatenate([split.labels for split in splits])
    assert pairs(texts, labels) == pairs(TRAIN_TEXTS + TEST_TEXTS, TRAIN_LABELS + TEST_LABELS)


@pytest.mark.parametrize("config", [CONFIG, POOLED])
def test_split_follows_its_seed_alone(tmp_path, config):
    folder = str(parquet_folder(tmp_path))

    def texts(**changes):
        data = load_reviews(folder, ReviewDataConfig(**(vars(config) | changes)))
        return [getattr(data, name).texts for name in SPLITS]

    assert texts(max_length=3, lowercase=False) == texts()
    assert texts(split_seed=5) != texts()


def test_stratified_split_is_exact_disjoint_and_balanced():
    labels = np.array([0] * 70 + [1] * 30)[np.random.default_rng(0).permutation(100)]
    parts = stratified_split(labels, (0.7, 0.1, 0.2), seed=3)
    assert [len(part) for part in parts] == [70, 10, 20]
    assert [int(labels[part].sum()) for part in parts] == [21, 3, 6]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(100))
    for part in parts:
        assert (np.diff(part) > 0).all()
    small = stratified_split(np.array([0, 1] * 5), (0.7, 0.1, 0.2), seed=0)
    assert [len(part) for part in small] == [7, 1, 2]


def test_duplicates_across_the_splits_are_counted_and_kept(tmp_path):
    train = ["bad film", "good film", "bad end", "good end"]
    source = write_reviews(tmp_path, train, ["good end", "new", "bad film", "bad film", "Bad film"])
    data = load_reviews(source, ReviewDataConfig(validation_fraction=0.5, min_frequency=1))
    assert data.duplicates == 3
    assert len(data.test) == 5


# ---- Encoding


@pytest.mark.parametrize("config", [CONFIG, POOLED])
def test_word_outside_the_training_split_is_unknown(tmp_path, config):
    """Every review has a word of its own, so each one of another split must be unknown."""
    own = [f"own{row} shared" for row in range(25)]
    data = load_reviews(write_reviews(tmp_path, own[:20], own[20:]), config)
    words = {word for text in data.train.texts for word in text.split()}
    assert set(data.vocabulary.words) == words
    shared = int(data.vocabulary.encode(["shared"])[0])
    assert (data.train.tokens[:, 0] > shared).all()
    for split in (data.validation, data.test):
        assert len(split)
        assert (split.tokens[:, :2] == [1, shared]).all()


@pytest.mark.parametrize(
    ("truncate", "words"), [("head", ["one", "two", "three"]), ("tail", ["three", "four", "five"])]
)
def test_truncation_keeps_one_end_and_the_vocabulary_knows_no_other(tmp_path, truncate, words):
    source = write_reviews(tmp_path, ["one two three four five"] * 2, ["five one", "two"])
    config = ReviewDataConfig(
        max_length=3, truncate=truncate, min_frequency=1, validation_fraction=0
    )
    data = load_reviews(source, config)
    assert set(data.vocabulary.words) == set(words)
    np.testing.assert_array_equal(data.train.tokens, [data.vocabulary.encode(words)] * 2)
    assert data.train.lengths.tolist() == [3, 3]
    kept = data.vocabulary.encode(["five", "one"]).tolist()
    assert data.test.tokens[0].tolist() == [*kept, 0]
    assert data.test.lengths.tolist() == [2, 1]


@pytest.mark.parametrize("text", ["", " ", "<br />", "...", "the of"])
def test_review_without_words_is_one_unknown(tmp_path, text):
    pytest.importorskip("sklearn")
    source = write_reviews(tmp_path, ["fine film", text], [text, "fine"])
    config = ReviewDataConfig(
        max_length=4, min_frequency=1, remove_stop_words=True, validation_fraction=0
    )
    data = load_reviews(source, config)
    assert data.train.tokens[1].tolist() == data.test.tokens[0].tolist() == [1, 0, 0, 0]
    assert data.train.lengths.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"film", "films", "the", "moving"}),
        ({"lowercase": False}, {"film", "films", "The", "moving"}),
        ({"remove_stop_words": True}, {"film", "films", "moving"}),
        ({"stem": "snowball"}, {"film", "the", "move"}),
        ({"min_frequency": 2}, {"film", "the"}),
        ({"max_vocabulary": 3}, {"film"}),
    ],
)
def test_config_reaches_the_vocabulary(tmp_path, options, expected):
    pytest.importorskip("sklearn")
    pytest.importorskip("snowballstemmer")
    source = write_reviews(tmp_path, ["The film films", "The moving film"], ["x", "y"])
    config = ReviewDataConfig(**({"min_frequency": 1, "validation_fraction": 0} | options))
    assert set(load_reviews(source, config).vocabulary.words) == expected


def test_new_reviews_are_encoded_like_the_splits(tmp_path):
    data = load_reviews(str(parquet_folder(tmp_path)), CONFIG)
    tokens, lengths = encode_reviews(data.test.texts, data.vocabulary, CONFIG)
    np.testing.assert_array_equal(tokens, data.test.tokens)
    np.testing.assert_array_equal(lengths, data.test.lengths)
    none, no_lengths = encode_reviews([], data.vocabulary, CONFIG)
    assert (none.shape, no_lengths.shape) == ((0, 7), (0,))


@pytest.mark.real
def test_real_imdb_is_read():
    if "JAXMODELS_DATA" not in os.environ:
        pytest.skip("JAXMODELS_DATA is not set")
    config = ReviewDataConfig()
    data = load_reviews(os.environ["JAXMODELS_DATA"] + "/imdb", config)
    check_data(data, config)
    assert [len(getattr(data, name)) for name in SPLITS] == [22500, 2500, 25000]
    assert np.bincount(data.test.labels).tolist() == [12500, 12500]
    assert np.bincount(data.validation.labels).tolist() == [1250, 1250]
    assert len(data.vocabulary) == 20000
    assert data.vocabulary.words[:3] == ("the", "a", "and")
    assert data.duplicates == 123
    assert 0.01 < (data.test.tokens == 1).mean() < 0.05
