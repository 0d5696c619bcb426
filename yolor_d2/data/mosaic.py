"""Mosaic of four images around a random point (YOLOv4, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .augment import FILL, Sample, clip_boxes, paste


def mosaic4(samples: Sequence[Sample], size: int, rng: np.random.Generator) -> Sample:
    """Join four samples on a canvas of twice the size; they meet in a point of its inner half.

        ┌────────┬─────┐
        │   0    │  1  │
        ├────────┼─────┤
        │   2    │  3  │
        └────────┴─────┘

    Args:
        samples: four, with sides of at most `size` pixels; each touches the common point with a
            corner.
        size: half the side of the canvas in pixels.
        rng: source of chance.

    Returns:
        Sample of (2 * size, 2 * size) pixels. Boxes are cut at its border; what is left of them
        may be empty and falls to the affine map that follows.
    """
    centre_x, centre_y = rng.integers(size // 2, size + size // 2, size=2, endpoint=True)
    canvas = np.full((2 * size, 2 * size, 3), FILL, dtype=np.uint8)
    boxes = []
    for index, sample in enumerate(samples):
        height, width = sample.image.shape[:2]
        left = int(centre_x) - (width if index % 2 == 0 else 0)
        top = int(centre_y) - (height if index < 2 else 0)
        paste(canvas, sample.image, left, top)
        boxes.append(sample.boxes + [left, top, left, top])
    return Sample(
        canvas,
        clip_boxes(np.concatenate(boxes), 2 * size, 2 * size),
        np.concatenate([sample.labels for sample in samples]),
    )
