"""Marked annotations on and beyond their image: boxes, outlines and points, with whole labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from .boxes import draw_outline
from .labels import LETTERS, Colour, draw_label, label_size, place_labels

# Longer side of a picture in pixels.
LONGEST = 1280
SHORTEST = 480
# A picture reaches beyond its image to the boxes that do, by so many of the image's longer sides.
BEYOND = 1.0
# Pixels of lines, and of the line of a box that another one lies on.
LINE, BROAD_LINE = 2, 6
# Boxes all of whose sides are as near as this, in pixels of the picture, look like one.
ALIKE = 6
# What lies beyond an image, and the edge of the image.
AROUND, EDGE = (205, 205, 205), (120, 120, 120)
BLACK: Colour = (0, 0, 0)
# Radius of a point in pixels, and of the ring around a named one.
DOT, RING = 3, 7


class Mark(NamedTuple):
    """An annotation to be drawn.

    Attributes:
        place: of the annotation.
        box: (4,) xyxy in pixels of the image.
        colour: of box and label.
        outlines: (n, 2) polygons of the mask, where this is shown.
        points: (n, 2) labelled points, where these are shown.
        named: (n, 2) the points to stress.
    """

    place: int
    box: np.ndarray
    colour: Colour
    outlines: Sequence[np.ndarray] = ()
    points: np.ndarray = np.zeros((0, 2))
    named: np.ndarray = np.zeros((0, 2))

    @property
    def extent(self) -> np.ndarray:
        """(4,) xyxy around all of it."""
        parts = [self.box.reshape(2, 2), *self.outlines, self.points, self.named]
        every = np.concatenate(parts)
        return np.concatenate([every.min(axis=0), every.max(axis=0)])


def frame_of(size: tuple[int, int], boxes: np.ndarray) -> np.ndarray:
    """(4,) xyxy of the part of the plane that a picture shows: the image, and boxes as far as they
    are near it.

    Args:
        size: (height, width) of the image.
        boxes: (M, 4) in its pixels.
    """
    image = np.array([0, 0, size[1], size[0]])
    reach = BEYOND * max(size)
    points = np.concatenate([image.reshape(2, 2), boxes.reshape(-1, 2)])
    points = points.clip(image[:2] - reach, image[2:] + reach)
    low, high = points.min(axis=0), points.max(axis=0)
    gap = 0.02 * (high - low).max()  # so that lines that are not the image's can be seen
    low, high = np.where(low < 0, low - gap, low), np.where(high > image[2:], high + gap, high)
    return np.concatenate([low, high])


def is_outside(box: np.ndarray, frame: Sequence[float]) -> bool:
    """Whether nothing of a box lies in a frame, both xyxy."""
    left, top, right, bottom = frame
    return bool(box[0] > right or box[1] > bottom or box[2] < left or box[3] < top)


def draw_marks(image: np.ndarray, marks: Sequence[Mark], names: Sequence[str]) -> np.ndarray:
    """An image with marked annotations, and around it what reaches beyond.

    Args:
        image: (H, W, 3) uint8 RGB.
        marks: M annotations.
        names: M labels; those of annotations outside the picture get "(further out)".

    Returns:
        (H', W', 3) uint8 RGB, the image scaled.
    """
    boxes = np.array([x.box for x in marks]).reshape(-1, 4)
    extents = np.array([x.extent for x in marks]).reshape(-1, 4)
    left, top, right, bottom = frame_of(image.shape[:2], extents)
    longest = max(right - left, bottom - top)
    scale = min(LONGEST / longest, max(1.0, SHORTEST / max(image.shape[:2])))
    height, width = (max(round(side * scale), 1) for side in image.shape[:2])
    texts = [
        name + (" (further out)" if is_outside(mark.box, (left, top, right, bottom)) else "")
        for mark, name in zip(marks, names)
    ]
    # Labels are whole, however small the picture is, and there is a place for those of a pair.
    labels = np.array([label_size(text, LETTERS) for text in texts]).reshape(-1, 2)
    least = labels.max(axis=0, initial=0) * (1, min(len(texts), 3) + 2) + 2 * LINE
    size = np.maximum(np.rint([(right - left) * scale, (bottom - top) * scale]), least).astype(int)
    canvas = np.full((max(size[1], height), max(size[0], width), 3), AROUND, dtype=np.uint8)
    x, y = round(-left * scale), round(-top * scale)
    x, y = min(x, canvas.shape[1] - width), min(y, canvas.shape[0] - height)
    canvas[y : y + height, x : x + width] = cv2.resize(
        np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_AREA
    )
    if canvas.shape[:2] != (height, width):
        draw_outline(canvas, (x - 1, y - 1, x + width, y + height), EDGE, 1)
    corners = np.rint(boxes * scale + (x, y, x, y))
    # What goes on far away leaves the picture, and does not look as if it ended there.
    corners = corners.clip(-2 * BROAD_LINE, max(canvas.shape) + 2 * BROAD_LINE).astype(int)
    for i, box in enumerate(corners.tolist()):
        hidden = (np.abs(corners[i + 1 :] - corners[i]).max(axis=1, initial=0) <= ALIKE).any()
        line = BROAD_LINE if hidden else LINE
        draw_outline(canvas, box, marks[i].colour, line)
    for mark in marks:
        draw_parts(canvas, mark, scale, (x, y))
    placed = place_labels(
        corners, texts, range(len(texts)), canvas.shape[:2], line=LINE, letters=LETTERS
    )
    for label in placed:
        draw_label(canvas, label, marks[label.index].colour)
    return canvas


def draw_parts(canvas: np.ndarray, mark: Mark, scale: float, origin: tuple[int, int]) -> None:
    """Draw outlines and points of an annotation.

    Args:
        canvas: (H, W, 3) uint8, changed.
        mark: of the annotation.
        scale: pixels of the canvas per pixel of the image.
        origin: x and y of the image on the canvas.
    """

    def place(points: np.ndarray) -> np.ndarray:
        far = 2 * max(canvas.shape)
        return np.rint(points * scale + origin).clip(-far, far).astype(np.int32)

    lines = [place(outline).reshape(-1, 1, 2) for outline in mark.outlines]
    cv2.polylines(canvas, lines, True, mark.colour, 1, cv2.LINE_AA)
    for centre in place(mark.points).tolist():
        cv2.circle(canvas, centre, DOT, mark.colour, -1, cv2.LINE_AA)
    for centre in place(mark.named).tolist():
        cv2.circle(canvas, centre, RING, mark.colour, LINE, cv2.LINE_AA)
