"""Augmentations of one sample: pure functions on numpy arrays, all chance from the given generator.

Boxes are xyxy in pixels with continuous coordinates: an image of width W spans [0, W], and the
centre of its first pixel lies at 0.5. What moves pixels by a matrix is in `warp`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from ...datasets.annotations import NO_IDENTITY
from ...structures.keypoints import join_keypoints, map_keypoints
from ...structures.polygons import Polygons, join_polygons

# Grey of the canvas around images.
FILL = 114


@dataclass
class Sample:
    """An image with its ground truth.

    Attributes:
        image: (H, W, C) uint8.
        boxes: (M, 4) float64 xyxy in pixels of `image`.
        labels: (M,) int64 classes.
        identities: (M,) int64 numbers of the individuals; `NO_IDENTITY` where none is known, the
            default for all.
        polygons: of the M objects, in pixels of `image`; None where nobody needs them.
        keypoints: (M, K, 3) float32, see `keypoints`, in pixels of `image`; None where nobody needs
            them.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    identities: np.ndarray = field(default=None)  # pyright: ignore[reportArgumentType]
    polygons: Polygons | None = None
    keypoints: np.ndarray | None = None

    def __post_init__(self):
        if self.identities is None:
            self.identities = np.full(len(self.labels), NO_IDENTITY, dtype=np.int64)

    def take(self, objects: np.ndarray) -> Sample:
        """The image with some of its objects, (M,) bool."""
        return Sample(
            self.image,
            self.boxes[objects],
            self.labels[objects],
            self.identities[objects],
            None if self.polygons is None else self.polygons.take(objects),
            None if self.keypoints is None else self.keypoints[objects],
        )


def resized_size(height: int, width: int, size: int) -> tuple[int, int]:
    """(H, W) of an image whose longer side becomes `size` pixels; both sides stay at least 1."""
    scale = size / max(height, width)
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def by_channels(
    image: np.ndarray, function: Callable[[np.ndarray], np.ndarray], most: int = 4
) -> np.ndarray:
    """Apply a function of images, which takes up to `most` channels, to any number of them.

    Args:
        image: (H, W, C).
        function: (H, W, c) to (H', W', c), or (H', W') for c = 1.
        most: channels at a time.
    """
    if image.shape[2] == 3:
        return function(image)
    parts = [
        function(np.ascontiguousarray(image[:, :, i : i + most]))
        for i in range(0, image.shape[2], most)
    ]
    parts = [part if part.ndim == 3 else part[:, :, None] for part in parts]
    return np.concatenate(parts, axis=2)


def resize_longer_side(image: np.ndarray, size: int) -> np.ndarray:
    """Scale an image so that its longer side is `size` pixels, see `resized_size`."""
    height, width = image.shape[:2]
    new_height, new_width = resized_size(height, width, size)
    if (new_height, new_width) == (height, width):
        return image
    # Averaging over source pixels when shrinking, as the antialiased resize of evaluation does.
    interpolation = cv2.INTER_AREA if size < max(height, width) else cv2.INTER_LINEAR
    return by_channels(
        image, lambda x: cv2.resize(x, (new_width, new_height), interpolation=interpolation)
    )


def paste(canvas: np.ndarray, image: np.ndarray, left: int, top: int) -> None:
    """Copy the part of the image that falls onto the canvas; its corner may lie outside."""
    height, width = canvas.shape[:2]
    x1, y1 = max(left, 0), max(top, 0)
    x2, y2 = min(left + image.shape[1], width), min(top + image.shape[0], height)
    if x1 < x2 and y1 < y2:
        canvas[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]


def clip_boxes(boxes: np.ndarray, height: float, width: float) -> np.ndarray:
    """Boxes cut at the borders of an image."""
    return boxes.clip(0, [width, height, width, height])


def random_hsv(image: np.ndarray, rng: np.random.Generator, gains: tuple[float, ...]) -> np.ndarray:
    """Multiply hue, saturation and value by random factors.

    Images with another number of channels than three have no hue and no saturation: all their
    channels are multiplied by the factor of the value.

    Args:
        image: (H, W, C) uint8, RGB for C = 3.
        rng: source of chance.
        gains: three numbers g; each factor comes from [1 - g, 1 + g].
    """
    factors = 1 + rng.uniform(-1, 1, size=3) * gains
    if (factors == 1).all():
        return image  # the way to HSV and back would round the colours
    if image.shape[2] != 3:
        return np.minimum(image * factors[2].astype(np.float32), 255).astype(np.uint8)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hue, saturation, value = cv2.split(hsv)
    # OpenCV's 8-bit hue counts steps of two degrees.
    hues = (np.arange(256) * factors[0] % 180).astype(np.uint8)
    # In place, as new memory would cost as much time as the computation.
    cv2.LUT(hue, hues, dst=hue)
    cv2.convertScaleAbs(saturation, dst=saturation, alpha=factors[1])  # stops at 255
    cv2.convertScaleAbs(value, dst=value, alpha=factors[2])
    cv2.merge((hue, saturation, value), dst=hsv)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=hsv)


def flip_pixels(image: np.ndarray, axis: int) -> np.ndarray:
    """Mirror left and right (axis 1) or top and bottom (0)."""
    return by_channels(image, lambda x: cv2.flip(x, axis))


def map_points(sample: Sample, function: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
    """Polygons and keypoints of a sample, as far as it has them, where a function puts their (P, 2)
    points: what `dataclasses.replace` takes."""
    polygons, keypoints = sample.polygons, sample.keypoints
    return {
        "polygons": None if polygons is None else polygons.map(function),
        "keypoints": None if keypoints is None else map_keypoints(keypoints, function),
    }


def exchange_sides(moved: dict[str, Any], order: np.ndarray | None) -> dict[str, Any]:
    """What `map_points` gives, where a mirror made left points right ones.

    Args:
        moved: the points.
        order: see `keypoints.flip_order`; None exchanges none.
    """
    if order is None or moved["keypoints"] is None:
        return moved
    return {**moved, "keypoints": moved["keypoints"][:, order]}


def flip_horizontal(sample: Sample, order: np.ndarray | None = None) -> Sample:
    """Mirror left and right, which exchanges keypoints by `order`, see `exchange_sides`."""
    width = sample.image.shape[1]
    x1, y1, x2, y2 = sample.boxes.T
    boxes = np.stack([width - x2, y1, width - x1, y2], axis=1)
    moved = map_points(sample, lambda points: (width, 0) + points * (-1, 1))
    image = flip_pixels(sample.image, 1)
    return dataclasses.replace(sample, image=image, boxes=boxes, **exchange_sides(moved, order))


def flip_vertical(sample: Sample, order: np.ndarray | None = None) -> Sample:
    """Mirror top and bottom, which exchanges keypoints as the other mirror does: seen from the
    object itself, either makes of its left hand a right one."""
    height = sample.image.shape[0]
    x1, y1, x2, y2 = sample.boxes.T
    boxes = np.stack([x1, height - y2, x2, height - y1], axis=1)
    moved = map_points(sample, lambda points: (0, height) + points * (1, -1))
    image = flip_pixels(sample.image, 0)
    return dataclasses.replace(sample, image=image, boxes=boxes, **exchange_sides(moved, order))


def mixup(first: Sample, second: Sample, ratio: float) -> Sample:
    """Blend two samples of one size (arXiv 1710.09412); the boxes of both count in full.

    Args:
        first, second: the samples.
        ratio: weight of the first, in [0, 1].
    """
    return Sample(
        cv2.addWeighted(first.image, ratio, second.image, 1 - ratio, 0).reshape(first.image.shape),
        np.concatenate([first.boxes, second.boxes]),
        np.concatenate([first.labels, second.labels]),
        np.concatenate([first.identities, second.identities]),
        join_polygons([(x.polygons, len(x.labels)) for x in (first, second)]),
        join_keypoints([(x.keypoints, len(x.labels)) for x in (first, second)]),
    )
