"""Encoded images and their labels, row by row, to checked arrays.

Every source of encoded images ends here, so a corrupt image or a label out of range is refused
once, in one wording, with its file and row. Past this point torch would raise an IndexError for
such a label and Flax would return NaN.

>>> read_image("cat.png", image_size=32, channels=3).shape
(32, 32, 3)
"""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.shared.data.labels import check_labels

_ROWS_PER_TASK = 256  # a task an image would spend longer in the queue than in the decoder


@dataclass(frozen=True)
class Split:
    """One split. images: (N, H, W, C) uint8; labels: (N,) int32."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class EncodedRows:
    """The rows of one file, still encoded as PNG, JPEG and so on; `where` names them in errors.

    An image is its bytes, or the path of its file where a source keeps images beside the table.
    """

    where: str
    images: Sequence[bytes | str | None]
    labels: Sequence[Any]


def decode_split(parts: Sequence[EncodedRows], *, num_classes: int) -> Split:
    """Decodes the files of one split, in order, to one array.

    The first image sets the size and the channels. A grey image among coloured ones becomes three
    equal channels; the reverse would lose colour and is refused.

    Raises:
        ValueError: no rows, or the first corrupt image, odd size or bad label, with file and row.
    """
    labels = [check_labels(p.labels, num_classes=num_classes, where=p.where) for p in parts]
    filled = [part for part in parts if len(part.images)]
    if not filled:
        names = ", ".join(part.where for part in parts) or "the split"
        raise ValueError(f"{names}: no rows; expected at least one image; fetch the data again")
    shape = _decode(filled[0].images[0], channels=None, where=f"{filled[0].where} row 0").shape
    images = np.empty((sum(len(part.images) for part in filled), *shape), np.uint8)

    def decode_chunk(part: EncodedRows, first: int, out: np.ndarray) -> None:
        for offset in range(len(out)):
            row = first + offset
            where = f"{part.where} row {row}"
            image = _decode(part.images[row], channels=shape[2], where=where)
            if image.shape != shape:
                raise ValueError(
                    f"{where}: image is {_size(image.shape)}; expected {_size(shape)} like the "
                    f"first of its split; resize the images to one size"
                )
            out[offset] = image

    # Pillow releases the interpreter lock while it decodes.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        tasks, start = [], 0
        for part in filled:
            for first in range(0, len(part.images), _ROWS_PER_TASK):
                count = min(_ROWS_PER_TASK, len(part.images) - first)
                out = images[start : start + count]
                tasks.append(pool.submit(decode_chunk, part, first, out))
                start += count
        try:
            for task in tasks:
                task.result()
        finally:
            pool.shutdown(cancel_futures=True)  # after an error, the rest is not worth decoding
    return Split(images, np.concatenate(labels))


def read_image(path: str | os.PathLike[str], *, image_size: int, channels: int) -> np.ndarray:
    """One image file -> (image_size, image_size, channels) uint8.

    An image of another size is cropped about its centre to a square, then resized with Pillow's
    bicubic filter, which averages over the source pixels when it shrinks.

    Raises:
        ValueError: there is no such file, it is no image, or `channels` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels {channels} must be 1 (grey) or 3 (red, green, blue)")
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(f"{path} {found}; expected an image file such as a PNG or JPEG")
    pixels = _decode(path.read_bytes(), channels=channels, where=str(path))
    if pixels.shape == (image_size, image_size, channels):
        return pixels
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(pixels[top : top + side, left : left + side], image_size)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W, C) uint8 of 1 or 3 channels -> (size, size, C), by Pillow's bicubic filter."""
    image_module, _ = _pillow()
    whole = np.ascontiguousarray(image[:, :, 0] if image.shape[2] == 1 else image)
    resized = image_module.fromarray(whole).resize((size, size), image_module.Resampling.BICUBIC)
    return np.asarray(resized).reshape(size, size, -1)


def _decode(encoded: bytes | str | None, *, channels: int | None, where: str) -> np.ndarray:
    """-> (H, W, C) uint8; C is 1 for a grey image and 3 for any other, unless `channels` says."""
    image_module, image_ops = _pillow()
    if encoded is None:
        raise ValueError(f"{where}: there is no image; expected an encoded one such as a PNG")
    try:
        file = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded
        with image_module.open(file) as image:
            if "exif" in image.info:  # a camera's photo may be stored on its side
                image = image_ops.exif_transpose(image)
            mode = image.mode
            if mode in ("1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr"):
                grey = mode in ("1", "L", "LA") if channels is None else channels == 1
                wanted = "L" if grey else "RGB"
                pixels = np.asarray(image if mode == wanted else image.convert(wanted))
            else:
                pixels = None
    except Exception as error:  # Pillow's plug-ins raise a dozen unrelated types for corrupt bytes
        reason = str(error).split("<")[0].strip() or type(error).__name__
        raise ValueError(
            f"{where}: the image cannot be decoded ({reason}); expected a whole PNG, JPEG or other "
            f"image; fetch the file again"
        ) from error
    if pixels is None:
        raise ValueError(
            f"{where}: image has mode {mode}; expected 8 bits a channel; convert it to 8 bits first"
        )
    return pixels.reshape(*pixels.shape[:2], -1)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(str(extent) for extent in shape)


def _pillow() -> tuple[Any, Any]:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ValueError(
            "decoding images needs Pillow; pip install 'jaxmodels[hub]' installs it"
        ) from error
    return Image, ImageOps
