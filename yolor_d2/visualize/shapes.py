"""Masks and keypoints of objects, as pictures and files have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from ..ops.masks import BoxMasks
from ..structures.run_lengths import join_hole, trace
from .labels import Colour

# How much of a mask's colour covers its pixels.
MASK_OPACITY = 0.4
# Keypoints of lower scores are not drawn, and are not labelled in label files: more likely than not
# they cannot be seen.
LEAST_POINT = 0.5
# Radius of a keypoint and the width of the line between two, for a line of a box of width 1.
POINT, BONE = 1.6, 0.7
# Around points, so that they stand out on anything.
RING: Colour = (255, 255, 255)
# Outlines in files go along the borders of pixels; they may be so many pixels off, so that slanting
# ones are lines and not stairs.
OUTLINE_ERROR = 0.75
# Digits behind the point in files: of places in pixels, and of scores.
PLACE_DIGITS, SCORE_DIGITS = 3, 5


@dataclass(frozen=True)
class Skeleton:
    """What the keypoints of a model are.

    Attributes:
        names: K names.
        lines: pairs of numbers of points between which a line is drawn.
    """

    names: tuple[str, ...]
    lines: tuple[tuple[int, int], ...] = ()

    @classmethod
    def from_names(
        cls, names: Sequence[str], connections: Sequence[Sequence] | None = None
    ) -> Skeleton:
        """As data sets and Detectron2's metadata have it.

        Args:
            names: K names.
            connections: two names each, and what else there is; those of unknown names are left
                out.
        """
        places = {name: i for i, name in enumerate(names)}
        pairs = [(places.get(x[0]), places.get(x[1])) for x in connections or ()]
        known = tuple((a, b) for a, b in pairs if a is not None and b is not None)
        return cls(tuple(names), known)


# ---- Masks


class MaskCrop(NamedTuple):
    """The mask of one object, in a rectangle outside of which there is nothing of it.

    Attributes:
        left, top: of the rectangle in the image.
        pixels: (h, w) bool.
    """

    left: int
    top: int
    pixels: np.ndarray

    def enlarged(self, factor: int) -> MaskCrop:
        """In an image a whole number of times larger."""
        pixels = self.pixels.repeat(factor, axis=0).repeat(factor, axis=1)
        return MaskCrop(self.left * factor, self.top * factor, pixels)


# The mask of the object of a number; all masks of an image together may take gigabytes.
Masks = Callable[[int], MaskCrop]


def crops(masks: BoxMasks) -> Masks:
    """Those of what a model gives."""

    def crop(index: int) -> MaskCrop:
        rows, columns, inside = masks.draw_region(index)
        return MaskCrop(columns.start, rows.start, np.ascontiguousarray(inside.T))

    return crop


def crop_of_polygons(polygons: Sequence[np.ndarray], size: tuple[int, int]) -> MaskCrop:
    """What is inside any of some polygons, as COCO's tools have it.

    Args:
        polygons: (n, 2) x and y in pixels each.
        size: (H, W) of the image.
    """
    # Here, as few need it.
    from faster_coco_eval.core import mask as coco_mask

    height, width = size
    nothing = MaskCrop(0, 0, np.zeros((0, 0), dtype=bool))
    if not len(polygons):
        return nothing
    points = np.concatenate(polygons)
    left, top = np.floor(points.min(axis=0)).clip(0, (width, height)).astype(int).tolist()
    right, bottom = np.ceil(points.max(axis=0)).clip(0, (width, height)).astype(int).tolist()
    if right <= left or bottom <= top:
        return nothing
    parts = [(np.asarray(x, np.float64) - (left, top)).ravel() for x in polygons]
    merged = coco_mask.merge(coco_mask.frPyObjects(parts, bottom - top, right - left))
    return MaskCrop(left, top, coco_mask.decode(merged).astype(bool))


def outlines(crop: MaskCrop) -> list[np.ndarray]:
    """Polygons around a mask in the image, (n, 2) float32 each, along the borders of its pixels;
    none where there is no pixel. Holes are joined to them by a cut of no width."""
    if not crop.pixels.any():
        return []
    corner = np.array([crop.left, crop.top], dtype=np.float32)
    return [x + corner for x in trace(crop.pixels.astype(np.uint8))]


def smoothed(polygon: np.ndarray) -> np.ndarray:
    """A polygon (n, 2) with fewer points, see `OUTLINE_ERROR`; the same where too few would be
    left."""
    outline = cv2.approxPolyDP(np.ascontiguousarray(polygon, np.float32), OUTLINE_ERROR, True)[:, 0]
    return outline if len(outline) >= 3 else polygon


def one_outline(crop: MaskCrop) -> np.ndarray | None:
    """One polygon around all parts of a mask, (n, 2), joined by cuts of no width, see `smoothed`;
    None where there is no pixel."""
    parts = sorted(outlines(crop), key=lambda x: -len(x))
    if not parts:
        return None
    polygon = parts[0]
    for part in parts[1:]:
        polygon = join_hole(polygon, part)
    return smoothed(polygon)


def draw_mask(canvas: np.ndarray, crop: MaskCrop, colour: Colour, width: int) -> None:
    """Cover a mask with a colour through which the picture is seen, and draw its outline.

    Args:
        canvas: (H, W, 3) uint8 RGB, changed in place; the mask lies inside.
        crop: the mask.
        colour: of both.
        width: of the outline in pixels.
    """
    pixels = crop.pixels
    if not pixels.any():
        return
    height, width_of_crop = pixels.shape
    part = canvas[crop.top : crop.top + height, crop.left : crop.left + width_of_crop]
    covered = part[pixels].astype(np.float32)
    covered += MASK_OPACITY * (np.array(colour, dtype=np.float32) - covered)
    part[pixels] = np.rint(covered).astype(np.uint8)
    contours, _ = cv2.findContours(pixels.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, colour, width, offset=(crop.left, crop.top))


# ---- Keypoints


def seen_points(points: np.ndarray, least: float = LEAST_POINT) -> np.ndarray:
    """(..., K) bool: which of keypoints (..., K, 3), whose last number is a score, or a visibility
    from 0, are there."""
    return points[..., 2] >= least


def draw_points(
    canvas: np.ndarray,
    points: np.ndarray,
    lines: Sequence[tuple[int, int]],
    colour: Colour,
    width: int,
) -> None:
    """Draw the keypoints of one object, and lines between them.

    Args:
        canvas: (H, W, 3) uint8 RGB, changed in place.
        points: (K, 3) x, y and score in 0-1, or visibility from 0 to 2.
        lines: pairs of points.
        colour: of the object.
        width: of the lines of its box in pixels.

    Raises:
        ValueError: when a place is not finite.
    """
    if not np.isfinite(points).all():
        raise ValueError("a keypoint has a number that is not finite")
    # Points far outside would not fit into OpenCV's numbers.
    limit = 4 * np.array([canvas.shape[1], canvas.shape[0]])
    # From coordinates to numbers of pixels, in sixteenths.
    places = np.rint(16 * (points[:, :2].clip(-limit, limit) - 0.5)).astype(int).tolist()
    seen = seen_points(points).tolist()
    bone, radius = max(round(BONE * width), 1), POINT * width + 0.5
    for a, b in lines:
        if seen[a] and seen[b]:
            cv2.line(canvas, places[a], places[b], colour, bone, cv2.LINE_AA, shift=4)
    for place, is_seen in zip(places, seen):
        if is_seen:
            cv2.circle(canvas, place, round(16 * (radius + 1)), RING, -1, cv2.LINE_AA, shift=4)
            cv2.circle(canvas, place, round(16 * radius), colour, -1, cv2.LINE_AA, shift=4)


# ---- As plain data


def point_records(points: np.ndarray) -> list[list[list[float]]]:
    """M times K times x, y, score of keypoints (M, K, 3)."""
    return [
        [
            [round(x, PLACE_DIGITS), round(y, PLACE_DIGITS), round(score, SCORE_DIGITS)]
            for x, y, score in point
        ]
        for point in np.asarray(points, dtype=np.float64).tolist()
    ]


def coco_points(points: Sequence[Sequence[float]]) -> list[float]:
    """x, y, score of one object's keypoints in one list, as COCO's results have them: with numbers
    of pixels, whose centres are half a pixel further on."""
    return [
        value
        for x, y, score in points
        for value in (round(x - 0.5, PLACE_DIGITS), round(y - 0.5, PLACE_DIGITS), score)
    ]


def polygon_text(crop: MaskCrop) -> str:
    """The outlines of a mask, see `smoothed`, "x y x y ...", with semicolons between its parts."""
    return ";".join(" ".join(f"{v:g}" for v in smoothed(x).ravel()) for x in outlines(crop))
