"""Mosaics: where images lie that are joined to one (YOLOv4, section 3.3)."""

from __future__ import annotations

import numpy as np


def mosaic4_corners(sizes: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Places of four images that meet in a point of the inner half of a canvas.

        ┌────────┬─────┐
        │   0    │  1  │
        ├────────┼─────┤
        │   2    │  3  │
        └────────┴─────┘

    Args:
        sizes: (4, 2) heights and widths, at most `size` pixels.
        size: half the side of the canvas in pixels.
        rng: source of chance.

    Returns:
        (4, 2) left and top of the images; what lies outside [0, 2 * size] is to be cut off.
    """
    x, y = rng.integers(size // 2, size + size // 2, size=2, endpoint=True)
    (h0, w0), (h1, _), (_, w2), _ = sizes
    return np.array([[x - w0, y - h0], [x, y - h1], [x - w2, y], [x, y]])


def mosaic9_corners(sizes: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Places of nine images, one in the middle and the others around it, clockwise from the top.

    Each touches the one before it and, but for those in the corners, the image in the middle. They
    leave gaps where they are of different sizes, but never overlap:

        ┌─────┬───┬─────┐
        │  8  │ 1 │  2  │
        ├───┬─┴───┴┬────┤
        │ 7 │  0   │ 3  │
        ├───┴┬───┬─┴────┤
        │ 6  │ 5 │  4   │
        └────┴───┴──────┘

    The middle image lies in the middle of a square of three times `size`; the canvas is a part of
    it at a random place.

    Args:
        sizes: (9, 2) heights and widths, at most `size` pixels.
        size: half the side of the canvas in pixels.
        rng: source of chance.

    Returns:
        (9, 2) left and top of the images; what lies outside [0, 2 * size] is to be cut off.
    """
    (height, width), (h1, w1), (h2, _), (h3, _), _, (_, w5), (_, w6), (h7, w7), (h8, w8) = sizes
    right, bottom = width, height  # edges of the middle image, whose corner is (0, 0)
    corners = [
        (0, 0),
        (0, -h1),
        (w1, -h2),
        (right, 0),
        (right, h3),
        (right - w5, bottom),
        (right - w5 - w6, bottom),
        (-w7, bottom - h7),
        (-w8, bottom - h7 - h8),
    ]
    offset = rng.integers(0, size, size=2, endpoint=True)
    return np.array(corners) + size - offset
