"""Whatever is wrong with an image source is refused in one line: what, where, the mend."""

import os
import pickle
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxmodels.shared.data.images import ImageDataConfig, load_images, read_image
from jaxmodels.shared.data.labels import check_labels
from parity_tests.image_folders import (
    CHANNELS,
    CONFIG,
    HEIGHT,
    IMAGE_TYPE,
    TEST_PIXELS,
    TRAIN_LABELS,
    TRAIN_PIXELS,
    WIDTH,
    batch,
    batches_folder,
    pa,
    parquet_folder,
    png,
    pq,
    python2_pickle,
    tfds_folder,
    write_parquet,
)
from parity_tests.stand_ins import cut_network

# ---- The original batches


class Payload:
    """Unpickled in the ordinary way, creates a folder."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_malicious_pickle_is_refused_and_not_run(tmp_path):
    attack = tmp_path / "attack"
    evil = pickle.dumps({b"data": Payload(attack), b"labels": []}, protocol=2)
    folder = batches_folder(tmp_path / "source", data_batch_3=evil)
    with pytest.raises(ValueError, match=r"data_batch_3 .* posix\.mkdir|data_batch_3 .* nt\.mkdir"):
        load_images(str(folder), CONFIG)
    assert not attack.exists()
    pickle.loads(evil)
    assert attack.exists(), "the payload is a dud, so the test above proves nothing"


@pytest.mark.parametrize(
    "name", ["numpy.load", "numpy.core.multiarray.frombuffer", "builtins.eval", "numpy.dtype.type"]
)
def test_any_other_global_is_refused_by_name(tmp_path, name):
    module, _, attribute = name.rpartition(".")
    evil = b"\x80\x02c" + module.encode() + b"\n" + attribute.encode() + b"\n."
    folder = batches_folder(tmp_path, test_batch=evil)
    with pytest.raises(ValueError, match=f"asks for {name}"):
        load_images(str(folder), CONFIG)


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"data_batch_4": None}, "lacks data_batch_4; expected data_batch_1 to data_batch_5"),
        ({"batches.meta": None}, "lacks batches.meta"),
        ({"data_batch_2": b"not a pickle"}, "data_batch_2 is not a genuine CIFAR-10 batch"),
        ({"data_batch_2": python2_pickle(batch(3, 2))[:-99]}, "data_batch_2 is not a genuine"),
        ({"data_batch_2": python2_pickle([1])}, "data_batch_2 .* holds a list, not a dict"),
        ({"test_batch": {b"labels": [1]}}, "test_batch: data is NoneType; expected an array"),
        (
            {"test_batch": batch(3, 2) | {b"labels": [1, 2]}},
            "test_batch: labels is 2 labels; .* list of 3",
        ),
        ({"test_batch": batch(3, 2) | {b"labels": [1, 6, 2]}}, "test_batch row 1: label 6 is out"),
        (
            {"test_batch": batch(3, 2) | {b"labels": [1, 2, None]}},
            "row 2: label None is not an int",
        ),
        ({"test_batch": batch(0, 2)}, "test_batch: no rows"),
        ({"batches.meta": {}}, "batches.meta has no label_names"),
        (
            {"test_batch": b"\x80\x02c_codecs\nencode\nU\x01aU\x05rot13\x86R."},
            "asks for the codec b'rot13'",
        ),
    ],
)
def test_damaged_batches_are_refused(tmp_path, replaced, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_images(str(batches_folder(tmp_path, **replaced)), CONFIG)
    assert "\n" not in str(caught.value)


# ---- What is wrong with a folder


def damage_nothing_there(folder):
    shutil.rmtree(folder)


def damage_file(folder):
    shutil.rmtree(folder)
    folder.write_bytes(b"")


def damage_empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def damage_no_layout(folder):
    damage_empty(folder)
    (folder / "holiday.png").write_bytes(png(TEST_PIXELS[0]))
    (folder / "notes.docx").write_bytes(b"hello")


def damage_unknown_files(folder):
    damage_empty(folder)
    (folder / "notes.docx").write_bytes(b"hello")


def damage_truncated(folder):
    file = folder / "data" / "train-00001-of-00002.parquet"
    file.write_bytes(file.read_bytes()[:-50])


def damage_no_test(folder):
    (folder / "data" / "test-00000-of-00001.parquet").unlink()


def damage_no_train(folder):
    for file in (folder / "data").glob("train*"):
        file.unlink()


def second_file(change, **options):
    """Rewrites the second training file with `change(images, labels)` of its ten rows."""

    def damage(folder):
        images = [png(image) for image in TRAIN_PIXELS[13:]]
        images, labels = change(images, list(TRAIN_LABELS[13:]))
        write_parquet(folder / "data" / "train-00001-of-00002.parquet", images, labels, **options)

    return damage


def replace_image(data):
    return second_file(lambda images, labels: ([*images[:4], data, *images[5:]], labels))


def replace_label(value):
    return second_file(lambda images, labels: (images, [*labels[:4], value, *labels[5:]]))


def damage_columns(folder):
    table = pa.table({"picture": [b"x"], "label": [1]})
    pq.write_table(table, folder / "data" / "test-00000-of-00001.parquet")


def damage_label_column(folder):
    column = pa.array([{"bytes": png(TEST_PIXELS[0]), "path": None}], IMAGE_TYPE)
    table = pa.table({"img": column, "kind": [1]})
    pq.write_table(table, folder / "data" / "test-00000-of-00001.parquet")


def damage_image_column(folder):
    table = pa.table({"img": ["cat.png"], "label": [1]})
    pq.write_table(table, folder / "data" / "test-00000-of-00001.parquet")


def damage_empty_test(folder):
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", [], [])


def damage_test_size(folder):
    images = [png(np.zeros((WIDTH, HEIGHT, CHANNELS), np.uint8))]
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", images, [0])


SIXTEEN_BITS = png(np.zeros((HEIGHT, WIDTH), np.uint16))
TURNED = png(np.zeros((WIDTH, HEIGHT, CHANNELS), np.uint8))
ROW = r"train-00001-of-00002\.parquet row 4: "
RANGE = r"; expected 0 to 5 \(6 classes\); mend or remove the row$"
DAMAGES = {
    "missing path": (damage_nothing_there, "does not exist; expected sample, hub, hub:OWNER/NAME"),
    "a file": (damage_file, "is a file; expected a folder in .*parquet layout.*data_batch_1"),
    "empty folder": (damage_empty, "is an empty folder; expected .*parquet layout"),
    "neither layout": (damage_no_layout, r"no known layout \(.*expected .*parquet layout"),
    "unknown files": (damage_unknown_files, r"no known layout \(.*expected .*data_batch_1"),
    "truncated": (damage_truncated, r"train-00001-of-00002\.parquet is not a readable parquet"),
    "no test": (damage_no_test, "has no test split; expected train and test, found train;"),
    "no train": (damage_no_train, "has no train split; expected train and test, found test;"),
    "no image column": (damage_columns, r"test-.*: expected a column img or image and .* picture"),
    "no label column": (
        damage_label_column,
        r"test-.*: expected .* a column label, found img, kind",
    ),
    "image column type": (
        damage_image_column,
        r"test-.*: the column of images is string; expected enc",
    ),
    "empty split": (damage_empty_test, r"test-00000-of-00001\.parquet: no rows; expected at least"),
    "test size": (damage_test_size, r"test images are \(7, 5, 3\); expected \(5, 7, 3\)"),
    "corrupt image": (replace_image(b"\x89PNG no"), ROW + "the image cannot be decoded"),
    "truncated image": (replace_image(png(TRAIN_PIXELS[0])[:70]), ROW + "the image cannot be"),
    "no image": (replace_image(None), ROW + "there is no image"),
    "16 bits": (replace_image(SIXTEEN_BITS), ROW + "image has mode I;16; expected 8 bits"),
    "another size": (replace_image(TURNED), ROW + "image is 7x5x3; expected 5x7x3 like the first"),
    "label too high": (replace_label(6), ROW + "label 6 is out of range" + RANGE),
    "label negative": (replace_label(-1), ROW + "label -1 is out of range" + RANGE),
    "label null": (replace_label(None), ROW + "label None is not an integer" + RANGE),
    "label fraction": (
        second_file(lambda images, labels: (images, [0.5, *map(float, labels[1:])])),
        r"train-00001-of-00002\.parquet: column label is double; expected integers",
    ),
    "label text": (
        second_file(lambda images, labels: (images, ["cow"] * len(labels)), named=False),
        r"train-00001-of-00002\.parquet: column label is string; expected integers",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_folder_is_refused(tmp_path, name):
    damage, message = DAMAGES[name]
    folder = parquet_folder(tmp_path / "source")
    damage(folder)
    with pytest.raises(ValueError, match=message) as caught:
        load_images(str(folder), CONFIG)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_row_of_a_long_file_is_counted_from_its_start(tmp_path):
    """Rows are decoded in chunks; 700 of them make several."""
    folder = parquet_folder(tmp_path)
    images = [png(image) for image in TRAIN_PIXELS[:7]] * 100
    file = folder / "data" / "train-00001-of-00002.parquet"
    write_parquet(file, images, [0] * 700)
    read = load_images(str(folder), ImageDataConfig(validation_fraction=0)).train.images
    np.testing.assert_array_equal(read[13:], np.concatenate([TRAIN_PIXELS[:7]] * 100))
    write_parquet(file, [*images[:600], b"no image", *images[601:]], [0] * 700)
    with pytest.raises(ValueError, match="row 600: the image cannot be decoded"):
        load_images(str(folder), CONFIG)


# ---- What is wrong with a remote source


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("source", ["hub", "hub:no-one/nothing"])
def test_unreachable_hub_says_what_works(tmp_path, monkeypatch, source, offline):
    cut_network(monkeypatch, tmp_path, offline=offline)
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"cannot be loaded .* --source sample or --source PATH"):
        load_images(source, CONFIG)
    assert time.monotonic() - start < 30


def test_hub_name_must_have_an_owner():
    with pytest.raises(ValueError, match="hub:cifar10 is no Hub data set; expected hub:OWNER/NAME"):
        load_images("hub:cifar10", CONFIG)


@pytest.mark.parametrize("source", ["tfds", "tfds:mnist", "tfds:no_such_set"])
def test_unprepared_tfds_says_what_works(tmp_path, monkeypatch, source):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    message = "(not prepared|unknown to tfds).*tfds build .* --source sample or --source PATH"
    with pytest.raises(ValueError, match=message) as caught:
        load_images(source, CONFIG)
    assert "\n" not in str(caught.value)


def test_damaged_tfds_file_is_named(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    (file,) = tfds_folder(tmp_path).rglob("*test.array_record*")
    file.write_bytes(b"")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match=r"tfds:tiny_signs split test in .* cannot be read"):
        load_images("tfds:tiny_signs", CONFIG)


@pytest.mark.parametrize(
    ("source", "module", "extra"),
    [
        ("sample", "sklearn.datasets", "sample"),
        ("hub", "datasets", "hub"),
        ("tfds", "array_record", "tfds"),
    ],
)
def test_missing_library_names_its_extra(monkeypatch, source, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"pip install 'jaxmodels\[{extra}\]'"):
        load_images(source, CONFIG)


# ---- One image, for prediction


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cat.png does not exist"), (b"", "cat.png: .*cannot"), (SIXTEEN_BITS, "mode I;16")],
)
def test_read_image_refuses(tmp_path, content, message):
    file = tmp_path / "cat.png"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_image(file, image_size=4, channels=3)


def test_read_image_refuses_a_folder_and_two_channels(tmp_path):
    with pytest.raises(ValueError, match="is a folder; expected an image file"):
        read_image(tmp_path, image_size=4, channels=3)
    with pytest.raises(ValueError, match="channels 2 must be 1"):
        read_image(tmp_path, image_size=4, channels=2)


def test_labels_are_one_integer_a_row():
    with pytest.raises(ValueError, match=r"file row 0: label \[0\] is not an integer"):
        check_labels([[0], [1]], num_classes=2, where="file")
