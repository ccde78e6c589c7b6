"""Image classification data as numpy: read, checked, split and measured.

>>> data = load_images("sample", TASKS["cifar10-resnet20"].data)
>>> data.train.images.shape, data.train.images.dtype
((1409, 32, 32, 3), dtype('uint8'))
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxmodels.shared.data.image_rows import Split, read_image
from jaxmodels.shared.data.image_sources import read_source

__all__ = ["ImageData", "ImageDataConfig", "Split", "load_images", "read_image"]

_IMAGES_PER_SUM = 1024  # squares are summed in 32 bits a block: 1,024 * 255^2 fits


@dataclass(frozen=True)
class ImageDataConfig:
    """How a data set is split and augmented. The padding is in pixels on each side.

    `resize_to` makes every image, cropped and flipped, as large as a pretrained model's were, in
    pixels; 0 leaves them.
    """

    dataset: Literal["cifar10"] = "cifar10"
    validation_fraction: float = 0.1
    split_seed: int = 0  # apart from the training seed, so that every seed meets the same test
    crop_padding: int = 4
    flip: bool = True
    resize_to: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"data.validation_fraction {self.validation_fraction} must be in [0, 1)"
            )
        if self.crop_padding < 0:
            raise ValueError(f"data.crop_padding {self.crop_padding} must not be negative")
        if self.resize_to < 0:
            raise ValueError(
                f"data.resize_to {self.resize_to} must not be negative; 0 leaves images as they are"
            )


@dataclass(frozen=True)
class ImageData:
    """A data set, ready to be batched.

    `source` says for people what was read. `mirror` is whether a mirrored image keeps its class; if
    not (digits), the config's `flip` is ignored. mean, std: (C,) float32, of the training split's
    pixels in [0, 1].
    """

    source: str
    class_names: tuple[str, ...]
    mirror: bool
    train: Split
    validation: Split
    test: Split
    mean: np.ndarray
    std: np.ndarray


def load_images(source: str, config: ImageDataConfig) -> ImageData:
    """Reads "sample", "hub", "hub:OWNER/NAME", "tfds", "tfds:NAME" or a local folder.

    The validation split is drawn from the training split by `config.split_seed`, whether or not the
    source has one of its own; the test split is the source's. Rows keep the source's order.

    Raises:
        ValueError: the source is unknown, unreachable or malformed; one line, with the mend.
    """
    raw = read_source(source, dataset=config.dataset, split_seed=config.split_seed)
    if raw.train.images.shape[1:] != raw.test.images.shape[1:]:
        raise ValueError(
            f"{raw.source}: test images are {raw.test.images.shape[1:]}; expected "
            f"{raw.train.images.shape[1:]} like the training images; resize them to one size"
        )
    train, validation = _split_validation(raw.train, config, raw.source)
    mean, std = _pixel_statistics(train.images)
    return ImageData(
        source=raw.source,
        class_names=raw.class_names,
        mirror=raw.mirror,
        train=train,
        validation=validation,
        test=raw.test,
        mean=mean,
        std=std,
    )


def _split_validation(split: Split, config: ImageDataConfig, source: str) -> tuple[Split, Split]:
    """-> (train, validation): disjoint, and together the split."""
    num_validation = round(config.validation_fraction * len(split))
    if config.validation_fraction > 0 and not 0 < num_validation < len(split):
        raise ValueError(
            f"{source}: data.validation_fraction {config.validation_fraction} of {len(split)} rows "
            f"is {num_validation}; expected at least one row on each side; try 0.5 or more rows"
        )
    order = np.random.Generator(np.random.PCG64(config.split_seed)).permutation(len(split))
    validation, train = np.sort(order[:num_validation]), np.sort(order[num_validation:])
    return (
        Split(split.images[train], split.labels[train]),
        Split(split.images[validation], split.labels[validation]),
    )


def _pixel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """images: (N, H, W, C) uint8 -> mean, std: (C,) float32 of the pixels in [0, 1], ddof 0.

    The sums are exact integers, so neither the order nor the block size shows in the result.
    """
    num_channels = images.shape[3]
    num_pixels = images.size // num_channels
    flat = images.reshape(len(images), -1)  # (N, H*W*C): long rows sum 10x faster than C of them
    total = np.zeros(flat.shape[1], np.int64)
    total_of_squares = np.zeros(flat.shape[1], np.int64)
    for start in range(0, len(flat), _IMAGES_PER_SUM):
        block = flat[start : start + _IMAGES_PER_SUM].astype(np.uint32)
        total += block.sum(axis=0, dtype=np.uint32).astype(np.int64)
        total_of_squares += np.square(block).sum(axis=0, dtype=np.uint32).astype(np.int64)
    sums = total.reshape(-1, num_channels).sum(axis=0)  # (C,)
    squares = total_of_squares.reshape(-1, num_channels).sum(axis=0)
    mean = sums / num_pixels
    # In exact integers: float64 would cancel where a channel is nearly constant.
    spread = [
        num_pixels * int(sum_of_squares) - int(sum_) ** 2
        for sum_of_squares, sum_ in zip(squares, sums, strict=True)
    ]
    variance = np.array([float(value) for value in spread]) / float(num_pixels) ** 2
    std = np.where(variance > 0, np.sqrt(variance), 255.0)  # a constant channel becomes all zeros
    return (mean / 255).astype(np.float32), (std / 255).astype(np.float32)
