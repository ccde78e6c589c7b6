"""A written figure as pixels, for the tests of every kind of figure."""

from pathlib import Path

import numpy as np
from PIL import Image


def pixels_of(path: Path) -> np.ndarray:
    """(H, W, 3) uint8, after the checks that hold for every figure."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        array = np.asarray(image.convert("RGB"))
    height, width, _ = array.shape
    assert 200 <= height <= 4000
    assert 400 <= width <= 2000
    assert array.std() > 3, "a blank figure"
    edges = np.concatenate([array[0], array[-1], array[:, 0], array[:, -1]])
    assert (edges == 255).all(), "ink on the border: something is clipped"
    return array


def contains_colour(array: np.ndarray, colour: str) -> bool:
    """Whether any pixel is close to `colour` ("#rrggbb")."""
    target = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return bool((np.abs(array.astype(int) - target).max(axis=-1) <= 8).any())
