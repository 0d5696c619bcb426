"""Boxes on images, with their classes, masks and keypoints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .labels import GROWTH, PICTURE_SIDE, Colour, draw_label, place_labels, readable_name
from .shapes import Masks, Skeleton, draw_mask, draw_points

# RGB, told apart with any kind of colour vision (Okabe and Ito, 2008, without black, those that
# differ most first); classes beyond the list start over.
PALETTE = (
    (230, 159, 0),
    (0, 114, 178),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
)
# Lines in pixels: in a picture whose longer side is `labels.PICTURE_SIDE`, growing like letters; at
# most this fraction of the shorter side of a box, so that they do not hide it.
LINE, LINE_FRACTION = 2, 0.05


def line_widths(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """(M,) widths in pixels, at least 1, of the lines of boxes (M, 4) xyxy in a picture."""
    wanted = LINE * (max(height, width) / PICTURE_SIDE) ** GROWTH
    shorter = (boxes[:, 2:] - boxes[:, :2]).min(axis=1)
    return np.rint(np.minimum(wanted, LINE_FRACTION * shorter)).clip(1).astype(np.int64)


def draw_outline(canvas: np.ndarray, box: Sequence[int], colour: Colour, width: int) -> None:
    """Draw the sides of a box; what lies outside is left out.

    OpenCV's rectangle is 5 pixels wide where 3 are requested.

    Args:
        canvas: (H, W, 3) uint8 RGB, changed in place.
        box: xyxy, whole pixels in the middle of the lines.
        colour: of the lines.
        width: of the lines in pixels.
    """
    before = width // 2
    x1, y1, x2, y2 = (max(x - before, 0) for x in box)
    x3, y3, x4, y4 = (max(x - before + width, 0) for x in box)
    canvas[y1:y3, x1:x4] = colour
    canvas[y2:y4, x1:x4] = colour
    canvas[y1:y4, x1:x3] = colour
    canvas[y1:y4, x2:x4] = colour


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    classes: Sequence[int],
    names: Sequence[str],
    scores: Sequence[float] | None = None,
    *,
    labels: bool = True,
    line_width: int | None = None,
    identities: Sequence[int | None] | None = None,
    masks: Masks | None = None,
    keypoints: np.ndarray | None = None,
    skeleton: Skeleton | None = None,
) -> np.ndarray:
    """A copy of an image with its boxes and their classes, and with masks and keypoints where
    objects have some.

    Lines and letters are sized by the boxes and the picture. Of boxes over each other the best lies
    on top; labels come after all boxes, none over another, and small boxes have none, see
    `labels.place_labels`.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (M, 4) xyxy in pixels.
        classes: M classes.
        names: name of each class.
        scores: M scores to write beside the names.
        labels: whether to write at all.
        line_width: of the lines in pixels; None chooses.
        identities: M numbers of individuals, which are written before the names and choose the
            colours in place of the classes; None where an object has none.
        masks: of the M objects.
        keypoints: (M, K, 3) x, y in pixels, and score or visibility, see `shapes.draw_points`.
        skeleton: says between which keypoints lines are drawn; None draws none.

    Raises:
        ValueError: when a box or keypoint is not finite or the line width is below 1.
    """
    if line_width is not None and line_width < 1:
        raise ValueError(f"line_width is {line_width}, expected at least 1")
    canvas = np.ascontiguousarray(image).copy()
    height, width = canvas.shape[:2]
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    if not np.isfinite(boxes).all():
        raise ValueError("a box has a number that is not finite")
    lines = line_widths(boxes, height, width)
    if line_width is not None:
        lines[:] = line_width
    # Sides of boxes that leave the picture stay outside of it, but near.
    beyond = int(lines.max(initial=1)) + 1
    low, high = -beyond, np.array([width, height, width, height]) + beyond
    places = np.rint(boxes).clip(low, high).astype(np.int64)
    numbers = [-1 if x is None else x for x in identities or [None] * len(boxes)]
    colours = [
        PALETTE[(label if number < 0 else number) % len(PALETTE)]
        for label, number in zip(classes, numbers)
    ]
    best_first = range(len(boxes))
    if scores is not None:
        best_first = sorted(best_first, key=lambda i: -scores[i])
    if masks is not None:
        for i in reversed(best_first):
            draw_mask(canvas, masks(i), colours[i], int(lines[i]))
    for i in reversed(best_first):
        draw_outline(canvas, places[i].tolist(), colours[i], int(lines[i]))
    if keypoints is not None:
        bones = () if skeleton is None else skeleton.lines
        for i in reversed(best_first):
            draw_points(canvas, keypoints[i], bones, colours[i], int(lines[i]))
    if labels:
        texts = []
        for i, label in enumerate(classes):
            words = [f"#{numbers[i]}"] if numbers[i] >= 0 else []
            words.append(readable_name(names[label], label))
            texts.append(" ".join([*words, f"{scores[i]:.2f}"] if scores is not None else words))
        line = int(lines.max(initial=1))
        for label in place_labels(places, texts, best_first, (height, width), line=line):
            draw_label(canvas, label, colours[label.index])
    return canvas
