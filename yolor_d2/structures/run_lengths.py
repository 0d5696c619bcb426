"""Masks as run lengths, COCO's other form of an outline, and the polygons that they become.

The polygons run along the borders of the pixels, so that nothing is lost: filled as COCO's own
tools do it, they are the mask again. A hole is joined to the polygon around it by a cut of no
width.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

# Pixels of a mask, at most; a number beyond is a mistake that would fill the memory.
MOST_PIXELS = 2**28
# COCO's text of run lengths: characters from this on hold five bits each, the sixth says whether
# more follow.
FIRST_CHARACTER, MORE, SIGN = 48, 0x20, 0x10
# Characters of a number, at most: more bits than a run can have.
MOST_CHARACTERS = 8


def polygons_of(shape: dict[str, Any], size: tuple[int, int] | None = None) -> list[np.ndarray]:
    """Polygons around a mask.

    Args:
        shape: "size", its height and width, and "counts", its runs column by column, zeros first:
            a list of lengths or COCO's text of them.
        size: height and width that it has to have; None takes any.

    Returns:
        (n, 2) float32 x and y in pixels each, one for every part that does not touch the others,
        not even at a corner.

    Raises:
        ValueError: when it is no such mask, or of another size.
    """
    runs, height, width = read_runs(shape)
    if size is not None and size != (height, width):
        raise ValueError(f"run lengths are of size {[height, width]}, the image of {list(size)}")
    starts, stops = (np.cumsum(runs) - runs)[1::2], np.cumsum(runs)[1::2]
    filled = stops > starts
    if not filled.any():
        return []
    starts, stops = starts[filled], stops[filled]
    # The columns that have some of it alone.
    left, right = int(starts[0] // height), int((stops[-1] - 1) // height) + 1
    lengths = np.diff(np.stack([starts, stops], axis=1).ravel(), prepend=left * height)
    pixels = np.zeros((right - left) * height, dtype=np.uint8)
    values = np.arange(len(lengths), dtype=np.uint8) % 2
    pixels[: lengths.sum()] = np.repeat(values, lengths)
    pixels = pixels.reshape(right - left, height).T
    rows = np.flatnonzero(pixels.any(axis=1))
    top = int(rows[0])
    corner = np.array([left, top], dtype=np.float32)
    return [x + corner for x in trace(pixels[top : rows[-1] + 1])]


def read_runs(shape: dict[str, Any]) -> tuple[np.ndarray, int, int]:
    """(n,) int64 run lengths, height and width of a mask; see `polygons_of`."""
    try:
        height, width = shape["size"]
        counts = shape["counts"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("run lengths need 'size', two numbers, and 'counts'") from error
    if not all(type(x) is int and x > 0 for x in (height, width)) or height * width > MOST_PIXELS:
        raise ValueError(f"run lengths have the size {shape['size']}")
    if isinstance(counts, str | bytes):
        runs = unpack(counts.encode() if isinstance(counts, str) else counts)
    elif isinstance(counts, list | tuple) and all(type(x) is int for x in counts):
        runs = np.array([min(x, MOST_PIXELS + 1) for x in counts], dtype=np.int64)
    else:
        raise ValueError("'counts' of run lengths are neither text nor whole numbers")
    # Each alone first, so that their sum is none that has overflown.
    if len(runs) and (runs.min() < 0 or runs.max() > MOST_PIXELS):
        raise ValueError("run lengths are out of range")
    if runs.sum() != height * width:
        raise ValueError(
            f"run lengths have {runs.sum()} pixels, their size {height} x {width} = "
            f"{height * width}"
        )
    return runs, height, width


def unpack(text: bytes) -> np.ndarray:
    """(n,) int64 run lengths from COCO's text of them.

    From the fourth on, a number is the difference to the one before the last.
    """
    values = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - FIRST_CHARACTER
    last = (values & MORE) == 0
    if not len(values) or not last[-1] or values.min() < 0 or values.max() > 63:
        raise ValueError("'counts' of run lengths are no such text")
    ends = np.flatnonzero(last)
    begins = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - begins + 1
    if lengths.max() > MOST_CHARACTERS:
        raise ValueError("'counts' of run lengths are no such text")
    places = np.arange(len(values)) - np.repeat(begins, lengths)
    numbers = np.add.reduceat((values & (MORE - 1)) << (5 * places), begins)
    negative = (values[ends] & SIGN) > 0
    numbers[negative] -= np.int64(1) << (5 * lengths[negative])
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def trace(pixels: np.ndarray) -> list[np.ndarray]:
    """Polygons along the borders of the pixels of a mask.

    Args:
        pixels: (H, W) uint8, 0 or 1.

    Returns:
        (n, 2) float32 corners each, from the corner of the first pixel.
    """
    # OpenCV's outlines go through the centres of pixels. Of pixels of half the size, those are a
    # quarter of a pixel from the border, and the nearest whole number is on it.
    fine = pixels.repeat(2, axis=0).repeat(2, axis=1)
    contours, tree = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    outlines = [without_repeats((x[:, 0] + 1) // 2) for x in contours]
    polygons = []
    for outline, (_, _, hole, parent) in zip(outlines, tree[0].tolist() if contours else []):
        if parent >= 0:
            continue
        holes = []
        while hole >= 0:
            holes.append(outlines[hole])
            hole = int(tree[0][hole][0])
        # From left to right, so that a cut to the left meets what has been joined already.
        for inner in sorted(holes, key=lambda x: x[:, 0].min()):
            outline = join_hole(outline, inner)
        polygons.append(outline.astype(np.float32))
    return polygons


def without_repeats(points: np.ndarray) -> np.ndarray:
    """(n, 2) points of a closed outline without those that are also the one before."""
    return points[(points != np.roll(points, 1, axis=0)).any(axis=1)]


def join_hole(outline: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """One polygon of an outline and a hole in it: from the point next to the hole's leftmost one
    there, around it, and back the same way.

    Args:
        outline, hole: (n, 2) and (m, 2) whole numbers.
    """
    j = int(hole[:, 0].argmin())
    i = int(((outline - hole[j]) ** 2).sum(axis=1).argmin())
    return np.concatenate([outline[: i + 1], hole[j:], hole[: j + 1], outline[i:]])
