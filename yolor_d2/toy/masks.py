"""Masks of the toy data as ground truth: box, polygons and run lengths."""

from __future__ import annotations

import cv2
import numpy as np

from .shapes import Array

# Polygons lie within so many pixels of the border of a mask, which is looked at in steps of this
# fraction of a pixel.
OUTLINE_TOLERANCE, OUTLINE_STEPS = 0.8, 4


def tight_box(mask: Array) -> list[float]:
    """Return the box [x, y, w, h] of the true pixels of an (H, W) mask; zeros if there are none."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if columns.size == 0:
        return [0.0, 0.0, 0.0, 0.0]
    x0, y0, x1, y1 = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return [float(x0), float(y0), float(x1 - x0), float(y1 - y0)]


def trace(mask: Array) -> list[list[float]]:
    """Return polygons [x1, y1, x2, y2, ...] in pixels around the true pixels of an (H, W) mask.

    A hole becomes part of the polygon around it, by a way to it and back.
    """
    x0, y0, w, h = (int(c) for c in tight_box(mask))
    window = mask[y0 : y0 + h, x0 : x0 + w].astype(np.uint8)
    fine = window.repeat(OUTLINE_STEPS, axis=0).repeat(OUTLINE_STEPS, axis=1)
    outlines, tree = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    tolerance = OUTLINE_TOLERANCE * OUTLINE_STEPS
    outlines = [cv2.approxPolyDP(x, tolerance, True)[:, 0] for x in outlines]
    # OpenCV's contours go through the centres of the pixels at the border.
    outlines = [(x + 0.5) / OUTLINE_STEPS + (x0, y0) for x in outlines]
    polygons = []
    for outline, (_, _, hole, parent) in zip(outlines, tree[0] if len(outlines) else []):
        if parent >= 0 or len(outline) < 3:
            continue
        while hole >= 0:
            if len(outlines[hole]) >= 3:
                outline = _join_hole(outline, outlines[hole])
            hole = tree[0][hole][0]
        polygons.append(outline.round(2).ravel().tolist())
    return polygons


def _join_hole(outline: Array, hole: Array) -> Array:
    """Return one polygon from an (N, 2) polygon and an (M, 2) hole, joined where they are near."""
    distances = ((outline[:, None] - hole[None]) ** 2).sum(axis=2)
    i, j = np.unravel_index(distances.argmin(), distances.shape)
    return np.concatenate([outline[: i + 1], hole[j:], hole[: j + 1], outline[i:]])


def encode_rle(mask: Array) -> dict[str, list[int]]:
    """Encode an (H, W) mask as COCO's uncompressed run lengths: column by column, zeros first."""
    # A zero in front, so that the first run is one of zeros; edges count without it.
    pixels = np.concatenate([[False], mask.ravel(order="F")])
    edges = np.flatnonzero(pixels[1:] != pixels[:-1])
    counts = np.diff(np.concatenate([[0], edges, [mask.size]]))
    return {"size": list(mask.shape), "counts": counts.tolist()}
