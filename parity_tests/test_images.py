"""Every image source is read faithfully, split by its own seed, and measured."""

import os
import socket
import sys

import numpy as np
import pytest

from jaxmodels.shared.data.images import ImageData, ImageDataConfig, load_images, read_image
from parity_tests.image_folders import (
    CHANNELS,
    CONFIG,
    HEIGHT,
    NAMES,
    TEST_LABELS,
    TEST_PIXELS,
    TRAIN,
    TRAIN_LABELS,
    TRAIN_PIXELS,
    VALIDATION,
    WIDTH,
    batch,
    batches_folder,
    datasets,
    parquet_folder,
    png,
    python2_pickle,
    python3_pickle,
    tfds_folder,
    write_parquet,
)


def check_content(data: ImageData, train: np.ndarray, labels: list, test: np.ndarray) -> None:
    """The splits are disjoint, cover the source in its order, and the test split is untouched."""
    assert len(data.train) == len(train) - len(data.validation)
    assert data.train.images.dtype == np.uint8
    assert data.train.labels.dtype == np.int32
    seen = {image.tobytes(): row for row, image in enumerate(train)}
    assert len(seen) == len(train)
    rows = []
    for split in (data.train, data.validation):
        own = [seen[image.tobytes()] for image in split.images]
        assert own == sorted(own)
        np.testing.assert_array_equal(split.labels, np.array(labels)[own])
        rows += own
    assert sorted(rows) == list(range(len(train)))
    np.testing.assert_array_equal(data.test.images, test)


# ---- Sources


@pytest.mark.parametrize("column", ["img", "image"])
def test_parquet_folder_is_read_in_order(tmp_path, column):
    data = load_images(str(parquet_folder(tmp_path, image=column)), CONFIG)
    check_content(data, TRAIN_PIXELS, TRAIN_LABELS, TEST_PIXELS)
    assert len(data.validation) == VALIDATION
    assert data.test.labels.tolist() == TEST_LABELS
    assert data.class_names == NAMES
    assert data.mirror


def test_parquet_folder_needs_no_writing_no_network_no_cache(tmp_path, monkeypatch):
    folder = parquet_folder(tmp_path / "source")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("used the network"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for path in (folder / "data", folder):
        path.chmod(0o555)
    before = sorted(folder.rglob("*"))
    try:
        load_images(str(folder), CONFIG)
        assert sorted(folder.rglob("*")) == before
        assert not (tmp_path / "cache").exists()
    finally:
        folder.chmod(0o755)
        (folder / "data").chmod(0o755)


def test_labels_without_names_are_counted(tmp_path):
    folder = parquet_folder(tmp_path, named=False)
    labels = [*TEST_LABELS[1:], 0]  # without the class that only the test split has
    file = folder / "data" / "test-00000-of-00001.parquet"
    write_parquet(file, [png(image) for image in TEST_PIXELS], labels, named=False)
    assert load_images(str(folder), CONFIG).class_names == ("0", "1", "2", "3", "4")


def test_sample_has_three_fixed_splits():
    pytest.importorskip("sklearn")
    data = load_images("sample", ImageDataConfig())
    assert data.source == "sample: scikit-learn digits"
    assert not data.mirror
    assert [len(s) for s in (data.train, data.validation, data.test)] == [1294, 144, 359]
    assert data.train.images.shape[1:] == (32, 32, 3)
    assert data.train.images.max() == 255
    again = load_images("sample", ImageDataConfig(crop_padding=0))
    np.testing.assert_array_equal(data.test.images, again.test.images)
    other = load_images("sample", ImageDataConfig(split_seed=1))
    assert not np.array_equal(data.test.labels, other.test.labels)


def test_hub_is_read_through_datasets(monkeypatch):
    """No network is assumed, so the Hub's answers are stand-ins; what is read is a real Dataset."""
    import huggingface_hub

    def split(images, labels):
        features = datasets.Features(
            {"img": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))}
        )
        rows = {"img": [{"bytes": png(i), "path": None} for i in images], "label": labels}
        return datasets.Dataset.from_dict(rows, features=features)

    asked = []
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: None)
    content = datasets.DatasetDict(
        train=split(TRAIN_PIXELS, TRAIN_LABELS), test=split(TEST_PIXELS, TEST_LABELS)
    )
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, revision=None: asked.append(name) or content
    )
    for source in ("hub", "hub:some-one/some.set"):
        check_content(load_images(source, CONFIG), TRAIN_PIXELS, TRAIN_LABELS, TEST_PIXELS)
    assert asked == ["uoft-cs/cifar10", "some-one/some.set"]


def test_tfds_is_read_without_tensorflow(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_folder(tmp_path)))
    loaded_before = "tensorflow" in sys.modules
    data = load_images("tfds:tiny_signs", CONFIG)
    assert loaded_before or "tensorflow" not in sys.modules
    # tfds shuffles by a hash of the key, so compare as sets of (pixels, label).
    wanted = {(i.tobytes(), n) for i, n in zip(TRAIN_PIXELS, TRAIN_LABELS, strict=True)}
    splits = (data.train, data.validation)
    got = {(i.tobytes(), int(n)) for s in splits for i, n in zip(s.images, s.labels, strict=True)}
    assert got == wanted
    assert sorted(data.test.labels.tolist()) == sorted(TEST_LABELS)
    assert data.class_names == NAMES


@pytest.mark.parametrize("write", [python2_pickle, python3_pickle])
@pytest.mark.parametrize("subfolder", ["", "cifar-10-batches-py"])
def test_original_batches_are_read(tmp_path, write, subfolder):
    batches_folder(tmp_path / subfolder, write)
    data = load_images(str(tmp_path), CONFIG)
    parts = [batch(n + 1, n) for n in range(1, 6)]
    rows = np.concatenate([part[b"data"] for part in parts])
    # Written out pixel by pixel: a row is all the red, then all the green, then all the blue.
    train = np.stack([rows[:, c * 1024 : (c + 1) * 1024] for c in range(3)], axis=-1)
    labels = [label for part in parts for label in part[b"labels"]]
    test = np.stack([batch(3, 9)[b"data"][:, c * 1024 : (c + 1) * 1024] for c in range(3)], axis=-1)
    check_content(data, train.reshape(-1, 32, 32, 3), labels, test.reshape(-1, 32, 32, 3))
    assert data.class_names == NAMES


def test_grey_image_among_coloured_ones_becomes_three_channels(tmp_path):
    folder = parquet_folder(tmp_path)
    file = folder / "data" / "train-00001-of-00002.parquet"
    images = [png(image) for image in TRAIN_PIXELS[13:]]
    images[4] = png(TRAIN_PIXELS[0][:, :, 1])
    write_parquet(file, images, TRAIN_LABELS[13:])
    image = load_images(str(folder), ImageDataConfig(validation_fraction=0)).train.images[13 + 4]
    np.testing.assert_array_equal(image, TRAIN_PIXELS[0][:, :, [1, 1, 1]])


# ---- Splits and statistics


def test_statistics_are_of_the_training_split_alone(tmp_path):
    folder = parquet_folder(tmp_path)
    data = load_images(str(folder), CONFIG)
    training = data.train.images.astype(np.float64) / 255
    np.testing.assert_allclose(data.mean, training.mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(data.std, training.std(axis=(0, 1, 2), ddof=0), rtol=1e-6)
    assert data.mean.dtype == data.std.dtype == np.float32
    everything = TRAIN_PIXELS.astype(np.float64) / 255
    assert np.abs(data.mean - everything.mean(axis=(0, 1, 2))).min() > 1e-4
    assert np.abs(data.std - training.std(axis=(0, 1, 2), ddof=1)).min() > 1e-5


def test_constant_channel_has_a_finite_normalisation(tmp_path):
    folder = parquet_folder(tmp_path)
    grey = [png(np.full((HEIGHT, WIDTH, CHANNELS), 77, np.uint8))] * 5
    for file in (folder / "data").glob("*.parquet"):
        write_parquet(file, grey, [0] * 5)
    assert load_images(str(folder), CONFIG).std.tolist() == [1, 1, 1]


def test_validation_split_follows_its_seed_and_fraction(tmp_path):
    folder = str(parquet_folder(tmp_path))
    first = load_images(folder, CONFIG)
    same = load_images(folder, ImageDataConfig(validation_fraction=0.25, split_seed=1, flip=False))
    other = load_images(folder, ImageDataConfig(validation_fraction=0.25, split_seed=2))
    np.testing.assert_array_equal(first.validation.images, same.validation.images)
    assert not np.array_equal(first.validation.images, other.validation.images)
    none = load_images(folder, ImageDataConfig(validation_fraction=0))
    assert (len(none.train), len(none.validation)) == (TRAIN, 0)
    with pytest.raises(ValueError, match=r"validation_fraction 0\.001 of 23 rows is 0"):
        load_images(folder, ImageDataConfig(validation_fraction=0.001))


# ---- One image, for prediction


def test_read_image_keeps_or_resizes(tmp_path):
    file = tmp_path / "cat.png"
    square = TRAIN_PIXELS[0][:, :HEIGHT]
    file.write_bytes(png(square))
    np.testing.assert_array_equal(read_image(file, image_size=HEIGHT, channels=3), square)
    assert read_image(file, image_size=HEIGHT, channels=1).shape == (HEIGHT, HEIGHT, 1)
    # Black | white | black in proportions 1:2:1: the centre crop is all white.
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = 255
    file.write_bytes(png(wide))
    resized = read_image(file, image_size=3, channels=3)
    np.testing.assert_array_equal(resized, np.full((3, 3, 3), 255))


@pytest.mark.real
def test_real_cifar10_is_read():
    if "JAXMODELS_DATA" not in os.environ:
        pytest.skip("JAXMODELS_DATA is not set")
    data = load_images(os.environ["JAXMODELS_DATA"] + "/cifar10", ImageDataConfig())
    assert [len(s) for s in (data.train, data.validation, data.test)] == [45000, 5000, 10000]
    assert data.class_names[0] == "airplane"
    assert data.mirror
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    # The figures everyone quotes for CIFAR-10; a JPEG copy differs in the third decimal.
    np.testing.assert_allclose(data.mean, [0.4914, 0.4822, 0.4465], atol=0.003)
    np.testing.assert_allclose(data.std, [0.2470, 0.2435, 0.2616], atol=0.004)
