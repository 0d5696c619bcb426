"""Masks of the ground truth at the stride of the network's own masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from faster_coco_eval.core import mask as coco_mask
from torch import Tensor

# A pixel of a map is inside where this many of 255 parts of it are.
HALF = 128


class MaskMap:
    """The map of one object, drawn into.

    Args:
        size: (h, w) of the map.
        stride: pixels of the canvas per pixel of the map.
        offset: (top, left) of the image on the canvas, in its pixels.
    """

    def __init__(self, size: tuple[int, int], stride: int, offset: tuple[int, int]):
        self.values = np.zeros(size, dtype=np.uint8)
        self.stride = stride
        self.offset = offset

    def add_polygons(self, outlines: Sequence[np.ndarray]) -> None:
        """Draw polygons, x1, y1, x2, y2, ... each, in pixels of the image."""
        outlines = [np.asarray(x, dtype=np.float64).reshape(-1, 2) for x in outlines]
        outlines = [x + self.offset[::-1] for x in outlines if len(x) >= 3]
        if not outlines:
            return
        # Far beyond the canvas every pixel of the way would be walked.
        height, width = (side * self.stride for side in self.values.shape)
        outlines = [x.clip([-width, -height], [2 * width, 2 * height]) for x in outlines]
        points = np.concatenate(outlines)
        low, high = points.min(axis=0), points.max(axis=0)
        rows, columns = self.cover(low[1], high[1], 0), self.cover(low[0], high[0], 1)
        if not len(rows) or not len(columns):
            return
        shape = len(rows) * self.stride, len(columns) * self.stride
        corner = np.array([columns.start, rows.start]) * self.stride
        # OpenCV's filled polygons are half a pixel larger on every side; these are not.
        parts = coco_mask.frPyObjects([(x - corner).ravel().tolist() for x in outlines], *shape)
        fine = coco_mask.decode(coco_mask.merge(parts))  # pyright: ignore
        self.add(fine * 255, rows, columns, (low + high) / 2)

    def add_pixels(self, mask: np.ndarray) -> None:
        """Draw an (H, W) bool mask of the image."""
        top, left = self.offset
        down, across = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(down):
            return
        y1, y2, x1, x2 = down[0], down[-1] + 1, across[0], across[-1] + 1
        rows, columns = self.cover(top + y1, top + y2, 0), self.cover(left + x1, left + x2, 1)
        fine = np.zeros((len(rows) * self.stride, len(columns) * self.stride), dtype=np.uint8)
        y, x = top + y1 - rows.start * self.stride, left + x1 - columns.start * self.stride
        fine[y : y + y2 - y1, x : x + x2 - x1] = mask[y1:y2, x1:x2]
        self.add(fine * 255, rows, columns, np.array([left + x1 + x2, top + y1 + y2]) / 2)

    def cover(self, low: float, high: float, axis: int) -> range:
        """Pixels of the map between two places on the canvas, one at least; none beyond it."""
        limit = self.values.shape[axis]
        first, last = int(np.floor(low / self.stride)), int(np.ceil(high / self.stride))
        return range(max(first, 0), min(max(last, first + 1), limit))

    def add(self, fine: np.ndarray, rows: range, columns: range, centre: np.ndarray) -> None:
        """What is inside by halves is inside; of an object too small for that, the pixel that has
        most of it, or that of its centre, so that none vanishes."""
        fractions = cv2.resize(fine, (len(columns), len(rows)), interpolation=cv2.INTER_AREA)
        inside = fractions >= HALF
        if not inside.any():
            x, y = (centre // self.stride).astype(int)
            if fractions.any():
                inside.flat[fractions.argmax()] = True
            elif y in rows and x in columns:
                inside[y - rows.start, x - columns.start] = True
        self.values[rows.start : rows.stop, columns.start : columns.stop] |= inside


def mask_maps(
    masks: Any, count: int, size: tuple[int, int], stride: int, offset: tuple[int, int]
) -> Tensor:
    """Maps of the objects of one image.

    Args:
        masks: "gt_masks": polygons (`polygons`, a list of x1, y1, x2, y2, ... for each object) or
            pixels (`tensor`, or itself a tensor, (M, H, W)) of the image.
        count: M.
        size: (h, w) of the maps.
        stride: pixels of the canvas per pixel of the map.
        offset: (top, left) of the image on the canvas.

    Returns:
        (M, h, w) uint8, 1 inside; all 0 for an object without a mask, and for what is not on the
        canvas.

    Raises:
        TypeError: when the masks are of another kind.
    """
    values = np.zeros((count, *size), dtype=np.uint8)
    polygons = getattr(masks, "polygons", None)
    pixels = getattr(masks, "tensor", masks)
    if polygons is None and not isinstance(pixels, Tensor):
        raise TypeError(
            f"'gt_masks' are {type(masks).__name__}, expected PolygonMasks, BitMasks or a tensor "
            "(M, H, W)"
        )
    for i in range(count):
        one = MaskMap(size, stride, offset)
        one.values = values[i]
        if polygons is not None:
            one.add_polygons(polygons[i])
        else:
            one.add_pixels(pixels[i].cpu().numpy() != 0)
    return torch.from_numpy(values)
