"""Batches: seeded, the same for every engine and number of hosts, resumable at any step.

A batch is a pure function of (seed, step): the order of an epoch comes from (seed, epoch), and the
crop and flip of an example from (seed, epoch, its row). Nothing is carried from batch to batch, so
a run resumes by naming the step. Grain reads ahead in background threads.

>>> batches = training_batches(data, config, batch_size=128, seed=0, start_step=1000)
>>> next(batches)["image"].shape
(128, 32, 32, 3)
"""

import sys
import time
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from jaxmodels.shared.data.counters import below, draws, host_rows
from jaxmodels.shared.data.images import ImageData, Split
from jaxmodels.shared.tasks import DataConfig

# image (B, H, W, C) float32 normalised, label (B,) int32, index (B,) int64: the row in the split.
# Evaluation adds mask (B,) float32: 0 where the last batch is filled up, and there index is -1.
Batch = dict[str, np.ndarray]

_READ_THREADS = 2
_READ_AHEAD = 8  # batches


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """How many full batches an epoch has. Training drops the last partial one.

    Raises:
        ValueError: the batch is larger than the split.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} must be at least 1")
    if batch_size > num_examples:
        raise ValueError(
            f"batch_size {batch_size} is larger than the split of {num_examples} examples, so an "
            f"epoch would have no step; try {max(1, num_examples)} or less"
        )
    return num_examples // batch_size


def training_batches(
    data: ImageData,
    config: DataConfig,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    host: int = 0,
    num_hosts: int = 1,
) -> Iterator[Batch]:
    """Endless augmented batches of the training split, from global step `start_step` on.

    `batch_size` is global: of each batch, host h of n yields the h-th of n equal runs of rows.

    Raises:
        ValueError: the sizes do not fit the split or the hosts.
    """
    # Imported late: grain brings jax along where that is installed, which torchref never needs.
    import grain

    for name, value in (("seed", seed), ("start_step", start_step)):
        if value < 0:
            raise ValueError(f"{name} {value} must not be negative")
    source = _TrainingBatches(data, config, batch_size, seed, host, num_hosts)
    read_ahead = grain.ReadOptions(num_threads=_READ_THREADS, prefetch_buffer_size=_READ_AHEAD)
    return iter(grain.MapDataset.source(source)[start_step:].to_iter_dataset(read_ahead))


def evaluation_batches(split: Split, data: ImageData, *, batch_size: int) -> Iterator[Batch]:
    """Every row of the split once, in order, unaugmented.

    The last batch is filled up with black images of label 0, index -1 and mask 0, so that shapes
    never change and a compiled step is compiled once.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} must be at least 1")
    starts = range(0, len(split), batch_size)
    return (_evaluation_batch(split, data, start, batch_size) for start in starts)


def normalise(images: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """images: (B, H, W, C) uint8 -> (pixel / 255 - mean) / std, (B, H, W, C) float32."""
    num_channels = images.shape[-1]
    shift = (255 * mean.astype(np.float64)).astype(np.float32)  # (C,)
    scale = (1 / (255 * std.astype(np.float64))).astype(np.float32)  # (C,)
    # Long rows: numpy would otherwise run one inner loop of C = 3 for every pixel.
    pixels_per_image = images[0].size // num_channels if len(images) else 1
    flat = images.reshape(len(images), -1).astype(np.float32)  # (B, H*W*C)
    flat -= np.tile(shift, pixels_per_image)
    flat *= np.tile(scale, pixels_per_image)
    return flat.reshape(images.shape)


def measure_throughput(
    data: ImageData, config: DataConfig, *, batch_size: int, seed: int, seconds: float = 2.0
) -> float:
    """Batches a second of the pipeline alone, with nothing else to do."""
    batches = training_batches(data, config, batch_size=batch_size, seed=seed)
    for _ in range(_READ_AHEAD + 1):  # what was read ahead while nobody counted
        next(batches)
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or count == 0:
        next(batches)
        count += 1
    return count / elapsed


class _TrainingBatches:
    """A grain RandomAccessDataSource whose item s is the whole batch of step s."""

    def __init__(
        self,
        data: ImageData,
        config: DataConfig,
        batch_size: int,
        seed: int,
        host: int,
        num_hosts: int,
    ) -> None:
        self._local = host_rows(batch_size, host, num_hosts)
        self._data, self._seed, self._batch_size = data, seed, batch_size
        self._padding = config.crop_padding
        self._flip = config.flip and data.mirror
        self._steps = steps_per_epoch(len(data.train), batch_size)
        # Threads reading ahead meet at most two epochs at once.
        self._order = lru_cache(maxsize=2)(lambda epoch: _order(len(data.train), seed, epoch))

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> Batch:
        epoch, step_in_epoch = divmod(index, self._steps)
        start = step_in_epoch * self._batch_size
        rows = self._order(epoch)[start : start + self._batch_size][self._local]
        images = self._data.train.images[rows]
        numbers = draws(self._seed, epoch, rows, count=3)
        if self._padding:
            images = _crop(images, self._padding, numbers[0], numbers[1])
        if self._flip:
            images = _flip(images, numbers[2])
        return {
            "image": normalise(images, self._data.mean, self._data.std),
            "label": self._data.train.labels[rows],
            "index": rows,
        }


def _order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """-> (N,) int64, the rows in the order of this epoch."""
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return generator.permutation(num_examples).astype(np.int64)


def _crop(
    images: np.ndarray, padding: int, row_draws: np.ndarray, column_draws: np.ndarray
) -> np.ndarray:
    """images: (B, H, W, C), draws: (B,) -> (B, H, W, C) cut from the images padded on each side.

    The padding is raw black, before normalisation, as He et al. 2016 and torchvision's
    RandomCrop(padding=4) followed by ToTensor and Normalize have it.
    """
    size, height, width, channels = images.shape
    padded = np.zeros((size, height + 2 * padding, width + 2 * padding, channels), np.uint8)
    padded[:, padding : padding + height, padding : padding + width] = images
    # windows[b, y, x] is image b cut at (y, x): a view, so that one gather copies each image once.
    image_stride, row_stride, column_stride, channel_stride = padded.strides
    offsets = 2 * padding + 1
    windows = np.lib.stride_tricks.as_strided(
        padded,
        (size, offsets, offsets, height, width, channels),
        (image_stride, row_stride, column_stride, row_stride, column_stride, channel_stride),
        writeable=False,
    )
    rows, columns = below(offsets, row_draws), below(offsets, column_draws)
    return windows[np.arange(size), rows, columns]


def _flip(images: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """images: (B, H, W, C), numbers: (B,) -> about half of them mirrored, in place."""
    chosen = below(2, numbers).astype(bool)
    images[chosen] = images[chosen][:, :, ::-1]
    return images


def _evaluation_batch(split: Split, data: ImageData, start: int, batch_size: int) -> Batch:
    rows = np.arange(start, min(start + batch_size, len(split)))
    fill = batch_size - len(rows)
    images = np.pad(split.images[rows], ((0, fill), (0, 0), (0, 0), (0, 0)))
    return {
        "image": normalise(images, data.mean, data.std),
        "label": np.pad(split.labels[rows], (0, fill)),
        "index": np.pad(rows, (0, fill), constant_values=-1),
        "mask": np.pad(np.ones(len(rows), np.float32), (0, fill)),
    }
