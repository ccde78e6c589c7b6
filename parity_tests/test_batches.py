"""Batches are a pure function of (seed, step), whatever the engine, the hosts and the start."""

import itertools
import os
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from jaxmodels.shared.data import counters
from jaxmodels.shared.data.batches import measure_throughput, steps_per_epoch
from jaxmodels.shared.data.image_batches import (
    evaluation_batches,
    normalise,
    training_batches,
)
from jaxmodels.shared.data.images import ImageData, ImageDataConfig, Split

# Pairwise distinct; 38 rows in batches of 12 are 3 steps an epoch, with 2 rows left over.
ROWS, BATCH, STEPS, HEIGHT, WIDTH, CHANNELS = 38, 12, 3, 5, 7, 2
PLAIN = ImageDataConfig(crop_padding=0, flip=False)
AUGMENTED = ImageDataConfig(crop_padding=1, flip=True)
MEAN, STD = np.array([0.4, 0.25], np.float32), np.array([0.5, 0.2], np.float32)


def image_data(rows: int = ROWS, *, mirror: bool = True) -> ImageData:
    """Images of raw values 1 to 255: a black pixel can only be padding."""
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (rows, HEIGHT, WIDTH, CHANNELS), dtype=np.uint8)
    split = Split(images, rng.integers(0, 10, rows).astype(np.int32))
    return ImageData("test", tuple("abcdefghij"), mirror, split, split, split, MEAN, STD)


DATA = image_data()


def take(
    count: int, config: ImageDataConfig = AUGMENTED, data: ImageData = DATA, **options
) -> list:
    options = {"batch_size": BATCH, "seed": 0} | options
    return list(itertools.islice(training_batches(data, config, **options), count))


def assert_equal_batches(left: list, right: list) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def raw(batch: dict) -> np.ndarray:
    """The uint8 pixels a batch was normalised from."""
    values = (batch["image"].astype(np.float64) * STD + MEAN) * 255
    assert np.abs(values - np.rint(values)).max() < 1e-3
    return np.rint(values).astype(np.uint8)


# ---- Order


def test_batch_has_the_promised_shapes_and_types():
    (batch,) = take(1)
    assert {name: (a.shape, a.dtype.name) for name, a in batch.items()} == {
        "image": ((BATCH, HEIGHT, WIDTH, CHANNELS), "float32"),
        "label": ((BATCH,), "int32"),
        "index": ((BATCH,), "int64"),
    }


def test_epoch_visits_each_row_at_most_once_and_drops_the_rest():
    rows = [batch["index"] for batch in take(3 * STEPS)]
    for epoch in range(3):
        seen = np.concatenate(rows[epoch * STEPS : (epoch + 1) * STEPS])
        assert len(np.unique(seen)) == STEPS * BATCH
        assert seen.min() >= 0
        assert seen.max() < ROWS
    for batch in take(STEPS):
        np.testing.assert_array_equal(batch["label"], DATA.train.labels[batch["index"]])


def test_seeds_and_epochs_differ_in_order():
    first, second = take(2 * STEPS), take(2 * STEPS, seed=1)
    assert_equal_batches(first, take(2 * STEPS))
    assert not np.array_equal(first[0]["index"], second[0]["index"])
    assert not np.array_equal(first[0]["index"], first[STEPS]["index"])
    # Epoch 1 of seed 0 is not epoch 0 of seed 1 either.
    assert not np.array_equal(first[STEPS]["index"], second[0]["index"])


@pytest.mark.parametrize("num_hosts", [2, 3, 4])
def test_global_batch_is_the_same_for_any_number_of_hosts(num_hosts):
    whole = take(STEPS + 1)
    hosts = [take(STEPS + 1, host=host, num_hosts=num_hosts) for host in range(num_hosts)]
    joined = [
        {name: np.concatenate([host[step][name] for host in hosts]) for name in whole[0]}
        for step in range(STEPS + 1)
    ]
    assert hosts[0][0]["label"].shape == (BATCH // num_hosts,)
    assert_equal_batches(joined, whole)


@pytest.mark.parametrize("start", [1, STEPS - 1, STEPS, STEPS + 1, 2 * STEPS + 1])
def test_resuming_at_any_step_changes_nothing(start):
    whole = take(3 * STEPS)
    assert_equal_batches(take(3 * STEPS - start, start_step=start), whole[start:])
    with pytest.raises(AssertionError):
        assert_equal_batches(take(STEPS, start_step=start), whole[start - 1 : start - 1 + STEPS])


def test_far_steps_are_reached_at_once():
    (batch,) = take(1, start_step=10**9)
    assert batch["index"].shape == (BATCH,)


# ---- Augmentation


def test_unaugmented_config_returns_the_normalised_images():
    for batch in take(STEPS + 1, PLAIN):
        wanted = normalise(DATA.train.images[batch["index"]], DATA.mean, DATA.std)
        np.testing.assert_array_equal(batch["image"], wanted)


def candidates(image: np.ndarray, padding: int) -> dict[tuple[int, int, bool], bytes]:
    """Every image the augmentation may make of this one, written out plainly."""
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    made = {}
    for row, column in itertools.product(range(2 * padding + 1), repeat=2):
        cut = padded[row : row + HEIGHT, column : column + WIDTH]
        made[row, column, False], made[row, column, True] = cut.tobytes(), cut[:, ::-1].tobytes()
    return made


def augmentations(steps: int, config: ImageDataConfig, data: ImageData = DATA, **options) -> list:
    """[(epoch, row in the split, (row offset, column offset, flipped))] of each example."""
    made = []
    for step, batch in enumerate(take(steps, config, data, **options)):
        for index, image in zip(batch["index"], raw(batch), strict=True):
            options_of = candidates(data.train.images[index], config.crop_padding)
            (choice,) = [key for key, value in options_of.items() if value == image.tobytes()]
            made.append((step // STEPS, int(index), choice))
    return made


def test_every_crop_occurs_equally_and_half_are_flipped():
    choices = [choice for _, _, choice in augmentations(150, AUGMENTED)]
    counts = np.zeros((3, 3, 2))
    for row, column, flipped in choices:
        counts[row, column, int(flipped)] += 1
    expected = len(choices) / counts.size  # 100 of each, standard deviation 10
    assert counts.min() > 0.6 * expected
    assert counts.max() < 1.4 * expected
    assert abs(counts[:, :, 1].sum() / len(choices) - 0.5) < 0.05


def test_flip_needs_the_config_and_a_data_set_that_mirrors():
    flipped = {c[2] for _, _, c in augmentations(9, ImageDataConfig(crop_padding=0, flip=True))}
    assert flipped == {False, True}
    digits = image_data(mirror=False)
    assert {c[2] for _, _, c in augmentations(9, AUGMENTED, digits)} == {False}
    unflipped = ImageDataConfig(crop_padding=1, flip=False)
    assert {c[2] for _, _, c in augmentations(9, unflipped)} == {False}


def test_augmentation_depends_on_seed_epoch_and_row_alone():
    by_row = {(epoch, row): choice for epoch, row, choice in augmentations(6 * STEPS, AUGMENTED)}
    # A different order of the same rows (another batch size) leaves each example's draw alone.
    numbers = counters.draws(0, 4, np.arange(ROWS), count=3)
    shuffled = np.random.default_rng(1).permutation(ROWS)
    np.testing.assert_array_equal(counters.draws(0, 4, shuffled, count=3), numbers[:, shuffled])
    rows = [row for epoch, row in by_row if epoch == 0 and (1, row) in by_row]
    changed = np.mean([by_row[0, row] != by_row[1, row] for row in rows])
    assert changed > 0.7  # 17 of 18 on average
    other = {(e, r): c for e, r, c in augmentations(STEPS, AUGMENTED, seed=1)}
    shared = other.keys() & by_row.keys()
    assert np.mean([other[key] != by_row[key] for key in shared]) > 0.7


def test_hash_is_splitmix64():
    """The first outputs of Vigna's splitmix64.c from state 1234567, as published with it."""
    state = np.uint64(1234567) + np.arange(1, 6, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert counters._mix(state).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


# ---- Normalisation and evaluation


def test_normalisation_of_known_values():
    """(0 - .4) / .5, (255/255 - .4) / .5 and so on, by hand."""
    image = np.array([[[[0, 0], [255, 255], [51, 102]]]], np.uint8)  # (1, 1, 3, 2)
    wanted = [[[[-0.8, -1.25], [1.2, 3.75], [-0.4, 0.75]]]]
    got = normalise(image, DATA.mean, DATA.std)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize("batch_size", [7, 19, 38, 64])
def test_evaluation_covers_the_split_in_order_in_one_shape(batch_size):
    batches = list(evaluation_batches(DATA.test, DATA, AUGMENTED, batch_size=batch_size))
    assert len(batches) == -(-ROWS // batch_size)
    assert {batch["image"].shape for batch in batches} == {(batch_size, HEIGHT, WIDTH, CHANNELS)}
    assert {batch["mask"].dtype.name for batch in batches} == {"float32"}
    whole = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    assert whole["mask"].tolist() == [1] * ROWS + [0] * (len(batches) * batch_size - ROWS)
    assert whole["index"][:ROWS].tolist() == list(range(ROWS))
    assert set(whole["index"][ROWS:].tolist()) <= {-1}
    assert (whole["index"].dtype, whole["label"].dtype) == (np.int64, np.int32)
    np.testing.assert_array_equal(whole["label"][:ROWS], DATA.test.labels)
    np.testing.assert_array_equal(
        whole["image"][:ROWS], normalise(DATA.test.images, DATA.mean, DATA.std)
    )
    assert np.isfinite(whole["image"]).all()
    for batch in batches:  # filled up with a row of its own: a model may divide by a length
        rows = batch["image"][batch["mask"] == 0]
        np.testing.assert_array_equal(rows, np.broadcast_to(batch["image"][0], rows.shape))


def test_images_are_resized_after_the_crop_as_pillow_does():
    rng = np.random.default_rng(0)
    split = Split(rng.integers(256, size=(6, 8, 8, 3)).astype(np.uint8), np.zeros(6, np.int32))
    data = replace(DATA, train=split, mean=np.zeros(3, np.float32), std=np.ones(3, np.float32))
    larger = replace(AUGMENTED, resize_to=20)
    options = {"batch_size": 6, "seed": 0}
    small, large = (
        next(training_batches(data, config, **options))["image"] for config in (AUGMENTED, larger)
    )
    for image, found in zip(small, large, strict=True):
        pixels = Image.fromarray((image * 255).round().astype(np.uint8))
        expected = np.asarray(pixels.resize((20, 20), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(found * 255, expected, atol=1e-3)
    (evaluated,) = evaluation_batches(split, data, larger, batch_size=6)
    assert evaluated["image"].shape == (6, 20, 20, 3)
    assert not np.array_equal(evaluated["image"], large)  # the control: it is not augmented


def test_empty_split_has_no_batches():
    empty = Split(DATA.test.images[:0], DATA.test.labels[:0])
    assert list(evaluation_batches(empty, DATA, AUGMENTED, batch_size=4)) == []


# ---- What is refused, and running


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 39}, "batch_size 39 is larger than the split of 38 examples.* try 38"),
        ({"batch_size": 0}, "batch_size 0 must be at least 1"),
        ({"num_hosts": 5}, "batch_size 12 must divide by num_hosts 5; try 10"),
        ({"host": 2, "num_hosts": 2}, "host 2 must be at least 0 and below num_hosts 2"),
        ({"seed": -1}, "seed -1 must not be negative"),
        ({"start_step": -1}, "start_step -1 must not be negative"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):  # at the call, not at the first batch
        training_batches(DATA, AUGMENTED, **({"batch_size": BATCH, "seed": 0} | options))


def test_steps_per_epoch_counts_full_batches():
    assert [steps_per_epoch(38, size) for size in (12, 19, 20, 38)] == [3, 2, 1, 1]
    with pytest.raises(ValueError, match="batch_size 5 is larger than the split of 4 examples"):
        steps_per_epoch(4, 5)
    with pytest.raises(ValueError, match="batch_size 0 must be at least 1"):
        list(evaluation_batches(DATA.test, DATA, AUGMENTED, batch_size=0))


def test_throughput_is_measured():
    assert (
        measure_throughput(training_batches(DATA, AUGMENTED, batch_size=BATCH, seed=0), seconds=0.1)
        > 10
    )


def test_abandoned_iterators_let_the_process_end():
    program = """
        import numpy as np
        from jaxmodels.shared.data.image_batches import training_batches
        from jaxmodels.shared.data.images import ImageData, ImageDataConfig, Split
        split = Split(np.zeros((300, 32, 32, 3), np.uint8), np.zeros(300, np.int32))
        one = np.ones(3, np.float32)
        data = ImageData("", ("a",), True, split, split, split, one, one)
        kept = [training_batches(data, ImageDataConfig(), batch_size=128, seed=s) for s in range(3)]
        print(sum(len(next(batches)["label"]) for batches in kept))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["384"]


@pytest.mark.real
def test_real_cifar10_pipeline_is_faster_than_training():
    if "JAXMODELS_DATA" not in os.environ:
        pytest.skip("JAXMODELS_DATA is not set")
    from jaxmodels.shared.data.images import load_images

    data = load_images(os.environ["JAXMODELS_DATA"] + "/cifar10", ImageDataConfig())
    (batch,) = take(1, ImageDataConfig(), data, batch_size=128)
    assert abs(float(batch["image"].mean())) < 0.5
    # A ResNet-20 step takes 200 ms on a laptop and a few on one TPU chip.
    assert (
        measure_throughput(
            training_batches(data, ImageDataConfig(), batch_size=128, seed=0), seconds=1
        )
        > 50
    )
