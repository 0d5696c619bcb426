"""Augmentations of one sample: pure functions on numpy arrays, all chance from the given generator.

Boxes are xyxy in pixels with continuous coordinates: an image of width W spans [0, W], and the
centre of its first pixel lies at 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# Grey of the canvas around images.
FILL = 114
# A box stays after an affine map if its sides, in pixels, exceed this ...
MIN_SIDE = 2.0
# ... this share of its area is still inside ...
MIN_VISIBLE = 0.1
# ... and it is less elongated than this.
MAX_ASPECT = 20.0


@dataclass
class Sample:
    """An image with its ground truth.

    Attributes:
        image: (H, W, 3) uint8.
        boxes: (M, 4) float64 xyxy in pixels of `image`.
        labels: (M,) int64 classes.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


def resize_longer_side(sample: Sample, size: int) -> Sample:
    """Scale the sample so that its longer side is `size` pixels; both sides stay at least 1."""
    height, width = sample.image.shape[:2]
    scale = size / max(height, width)
    new_width, new_height = (max(int(side * scale + 0.5), 1) for side in (width, height))
    if (new_height, new_width) == (height, width):
        return sample
    # Averaging over source pixels when shrinking, as the antialiased resize of evaluation does.
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    image = cv2.resize(sample.image, (new_width, new_height), interpolation=interpolation)
    factors = np.array([new_width / width, new_height / height] * 2)
    return Sample(image, sample.boxes * factors, sample.labels)


def paste(canvas: np.ndarray, image: np.ndarray, left: int, top: int) -> None:
    """Copy the part of the image that falls onto the canvas; its corner may lie outside."""
    height, width = canvas.shape[:2]
    x1, y1 = max(left, 0), max(top, 0)
    x2, y2 = min(left + image.shape[1], width), min(top + image.shape[0], height)
    if x1 < x2 and y1 < y2:
        canvas[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]


def pad_to_square(sample: Sample, size: int) -> Sample:
    """Extend the sample, whose sides are at most `size`, to a square of `size` pixels.

    Grey is added to the right and below, as it is when batches are put together for inference.
    """
    canvas = np.full((size, size, 3), FILL, dtype=np.uint8)
    paste(canvas, sample.image, 0, 0)
    return Sample(canvas, sample.boxes, sample.labels)


def clip_boxes(boxes: np.ndarray, height: float, width: float) -> np.ndarray:
    """Boxes cut at the borders of an image."""
    return boxes.clip(0, [width, height, width, height])


def random_affine_matrix(
    rng: np.random.Generator, in_size: int, out_size: int, scale: float, translate: float
) -> tuple[np.ndarray, float]:
    """Scale about the image's centre, which then moves to a random place near that of the output.

    Args:
        rng: source of chance.
        in_size: side of the square input in pixels.
        out_size: side of the square output in pixels.
        scale: the factor comes from [1 - scale, 1 + scale].
        translate: the centre lands within this share of `out_size` around the middle.

    Returns:
        (2, 3) matrix in continuous coordinates, and the factor.
    """
    factor = rng.uniform(1 - scale, 1 + scale)
    centre = rng.uniform(0.5 - translate, 0.5 + translate, size=2) * out_size
    shift = centre - factor * in_size / 2
    return np.array([[factor, 0, shift[0]], [0, factor, shift[1]]]), factor


def warp_affine(sample: Sample, matrix: np.ndarray, out_size: int, factor: float) -> Sample:
    """Map a sample onto a square canvas.

    Boxes become the bounding boxes of their mapped corners, cut at the border; those that are then
    too small, mostly outside or too elongated are dropped (`MIN_SIDE`, `MIN_VISIBLE`,
    `MAX_ASPECT`).

    Args:
        sample: the input.
        matrix: (2, 3) in continuous coordinates.
        out_size: side of the output in pixels.
        factor: linear scale of the matrix.
    """
    # cv2 counts from the centre of the first pixel, half a pixel later than our coordinates.
    index_matrix = matrix.copy()
    index_matrix[:, 2] += matrix[:, :2].sum(axis=1) * 0.5 - 0.5
    image = cv2.warpAffine(
        sample.image, index_matrix, (out_size, out_size), borderValue=(FILL, FILL, FILL)
    )
    if len(sample.boxes) == 0:
        return Sample(image, sample.boxes, sample.labels)

    corners = sample.boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    corners = corners @ matrix[:, :2].T + matrix[:, 2]  # (M, 4, 2)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    boxes = clip_boxes(boxes, out_size, out_size)
    sides = boxes[:, 2:] - boxes[:, :2]
    full_area = (sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(axis=1) * factor**2
    keep = (
        (sides.min(axis=1) > MIN_SIDE)
        & (sides.prod(axis=1) > MIN_VISIBLE * full_area)
        & (sides.max(axis=1) < MAX_ASPECT * np.maximum(sides.min(axis=1), MIN_SIDE))
    )
    return Sample(image, boxes[keep], sample.labels[keep])


def random_hsv(image: np.ndarray, rng: np.random.Generator, gains: tuple[float, ...]) -> np.ndarray:
    """Multiply hue, saturation and value by random factors.

    Args:
        image: (H, W, 3) uint8 RGB.
        rng: source of chance.
        gains: three numbers g; each factor comes from [1 - g, 1 + g].
    """
    factors = 1 + rng.uniform(-1, 1, size=3) * gains
    levels = np.arange(256)
    tables = np.stack(
        [
            levels * factors[0] % 180,  # OpenCV's 8-bit hue counts steps of two degrees
            (levels * factors[1]).clip(0, 255),
            (levels * factors[2]).clip(0, 255),
        ],
        axis=-1,
    ).astype(np.uint8)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    return cv2.cvtColor(cv2.LUT(hsv, tables[:, None]), cv2.COLOR_HSV2RGB)


def flip_horizontal(sample: Sample) -> Sample:
    """Mirror left and right."""
    width = sample.image.shape[1]
    x1, y1, x2, y2 = sample.boxes.T
    boxes = np.stack([width - x2, y1, width - x1, y2], axis=1)
    return Sample(sample.image[:, ::-1], boxes, sample.labels)
