"""Pictures as a whole: as RGB, enlarged, side by side, in a grid, and written to files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ..files.writing import atomic_write
from .labels import LETTERS, draw_text

# The longer side of small images is enlarged by a whole factor to about this many pixels, at most
# so many times, so that boxes and labels can be distinguished.
SHOWN_SIDE, MOST_ENLARGED = 480, 4


def to_rgb(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) of an image with any number of channels: its first three, or its first as grey."""
    return image[:, :, :3] if image.shape[2] >= 3 else np.repeat(image[:, :, :1], 3, axis=2)


def enlarge(image: np.ndarray) -> tuple[np.ndarray, int]:
    """A small image a whole number of times larger, see `SHOWN_SIDE`; and that number."""
    factor = min(max(-(-SHOWN_SIDE // max(image.shape[:2])), 1), MOST_ENLARGED)
    if factor == 1:
        return image, 1
    size = (image.shape[1] * factor, image.shape[0] * factor)
    return cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_CUBIC), factor


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an RGB image in the format of the path's suffix.

    Raises:
        OSError: when it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix or ".png", image[:, :, ::-1])
    if not done:
        raise OSError(f"cannot encode {str(path)!r}")
    with atomic_write(path) as file:
        file.write(data.tobytes())


def beside(left: np.ndarray, right: np.ndarray, titles: tuple[str, str]) -> np.ndarray:
    """Two RGB images of one size in a row, each under its title."""
    panels = []
    for image, title in zip((left, right), titles):
        bar = np.full((28, image.shape[1], 3), 255, dtype=np.uint8)
        draw_text(bar, title, (6, 5), LETTERS, (0, 0, 0))
        panels.append(np.vstack([bar, image]))
    gap = np.full((panels[0].shape[0], 6, 3), 255, dtype=np.uint8)
    return np.hstack([panels[0], gap, panels[1]])


def tile_images(images: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """RGB images of one size in rows of a nearly square grid, on white."""
    height, width = images[0].shape[:2]
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    canvas = np.full((rows * (height + gap), columns * (width + gap), 3), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        canvas[y : y + height, x : x + width] = image
    return canvas[:-gap, :-gap]
