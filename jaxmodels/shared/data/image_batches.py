"""Batches of images: cropped and flipped by (seed, epoch, row), normalised.

>>> batches = training_batches(data, config, batch_size=128, seed=0)
>>> next(batches)["image"].shape
(128, 32, 32, 3)
"""

from collections.abc import Iterator

import numpy as np

from jaxmodels.shared.data.batches import Batch, ordered_batches, shuffled_batches
from jaxmodels.shared.data.counters import Host, below, draws
from jaxmodels.shared.data.image_rows import resize
from jaxmodels.shared.data.images import ImageData, ImageDataConfig, Split


def training_batches(
    data: ImageData,
    config: ImageDataConfig,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    host: Host = 0,
    num_hosts: int = 1,
) -> Iterator[Batch]:
    """Endless augmented batches of the training split, as `shuffled_batches` gives them.

    image: (B, H, W, C) float32 normalised; label: (B,) int32; index: (B,) int64.
    """
    flip = config.flip and data.mirror

    def make(rows: np.ndarray, epoch: int) -> Batch:
        images = data.train.images[rows]
        numbers = draws(seed, epoch, rows, count=3)
        if config.crop_padding:
            images = _crop(images, config.crop_padding, numbers[0], numbers[1])
        if flip:
            images = _flip(images, numbers[2])
        return {
            "image": _prepare(images, data, config),
            "label": data.train.labels[rows],
        }

    return shuffled_batches(
        make,
        len(data.train),
        batch_size=batch_size,
        seed=seed,
        start_step=start_step,
        host=host,
        num_hosts=num_hosts,
    )


def evaluation_batches(
    split: Split, data: ImageData, config: ImageDataConfig, *, batch_size: int
) -> Iterator[Batch]:
    """Every image of the split once, in order, unaugmented, as `ordered_batches` gives them."""

    def make(rows: np.ndarray) -> Batch:
        images = _prepare(split.images[rows], data, config)
        return {"image": images, "label": split.labels[rows]}

    return ordered_batches(make, len(split), batch_size=batch_size)


def _prepare(images: np.ndarray, data: ImageData, config: ImageDataConfig) -> np.ndarray:
    """images: (B, H, W, C) uint8 -> as the model takes them, float32."""
    if config.resize_to and images.shape[1:3] != (config.resize_to, config.resize_to):
        images = np.stack([resize(image, config.resize_to) for image in images])
    return normalise(images, data.mean, data.std)


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
