"""Values in another form than COCO's that can only mean one thing. They are read as what they mean
and reported; a repaired copy has them in COCO's form."""

from __future__ import annotations

import math
import re

import numpy as np

from ..files.values import is_whole, shorten, to_float
from ..structures.run_lengths import read_runs
from .source import Source

# Keys of whole numbers.
WHOLE = {
    "images": ("id", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "iscrowd"),
    "categories": ("id",),
}
WHOLE_TEXT = re.compile(r"[+-]?[0-9]{1,18}")
NUMBER_TEXT = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?")
# Whole numbers up to this have a float of their own.
LARGEST_WHOLE_FLOAT = 2.0**53
# Boxes of a whole data set are corners if so many could be, and so many would leave their image if
# they were not; fewer than so many say nothing.
CORNERS, LEAVING, FEWEST = 0.95, 0.25, 3
# Kinds of findings that say in which form they were.
FORMS_OF_BOXES = ("boxes_are_shares", "boxes_are_corners")
# What rounding adds to a fraction of the image, and to a corner in pixels.
FRACTION_TOLERANCE, PIXEL_TOLERANCE = 1e-3, 1.0


def to_whole(value: object) -> int | None:
    """The whole number that a text or a float stands for, None if it is neither."""
    if type(value) is str and WHOLE_TEXT.fullmatch(value.strip()):
        return int(value)
    if type(value) is float and value.is_integer() and abs(value) < LARGEST_WHOLE_FLOAT:
        return int(value)
    return None


def to_number(text: str) -> float | None:
    """The number that a text stands for, None if it is none."""
    return float(text) if NUMBER_TEXT.fullmatch(text.strip()) else None


def read_as(
    source: Source, kind: str, message: str, section: str, place: int, values: dict
) -> None:
    """Report an entry, and read keys of it as these values."""
    source.report(kind, message, section, place)
    source.replace(section, place, values, f"{kind}: {message}")


def read_numbers(source: Source) -> None:
    """Read numbers that are text, and whole ones that are floats."""
    for section, keys in WHOLE.items():
        for place, entry in enumerate(source.data[section]):
            if not isinstance(entry, dict):
                continue
            values: dict[str, object] = {}
            for key in keys:
                # Of nearly all entries, only this line is run.
                if (
                    type(entry.get(key)) is not int
                    and (number := to_whole(entry.get(key))) is not None
                ):
                    values[key] = number
            if section == "annotations":
                values |= read_measures(entry)
            if values:
                key, value = next(iter(values.items()))
                message = f"{key!r} is {shorten(entry[key])}, expected {shorten(value)}"
                read_as(source, "number_malformed", message, section, place, values)


def read_measures(entry: dict) -> dict[str, object]:
    """'bbox' and 'area' of an annotation as numbers, where they are text."""
    values: dict[str, object] = {}
    box = entry.get("bbox")
    if isinstance(box, list) and any(type(x) is str for x in box):
        numbers = [to_number(x) if type(x) is str else x for x in box]
        if None not in numbers:
            values["bbox"] = numbers
    area = entry.get("area")
    if type(area) is str and (number := to_number(area)) is not None:
        values["area"] = number
    return values


def read_masks(source: Source) -> None:
    """Give annotations that have a mask but no box the box around it."""
    for place, entry in enumerate(source.data["annotations"]):
        if isinstance(entry, dict) and not entry.get("bbox"):
            box = box_around(entry.get("segmentation"))
            if box is not None:
                message = "'bbox' is missing, expected the box around its mask"
                read_as(source, "box_missing", message, "annotations", place, {"bbox": box})


def is_segmentation(shape: object) -> bool:
    """Whether Detectron2's reader takes this, so that the object is not skipped."""
    if not shape:  # missing or empty: a box alone
        return shape is None or isinstance(shape, list | dict)
    if isinstance(shape, dict):
        size, counts = shape.get("size"), shape.get("counts")
        sized = isinstance(size, list) and len(size) == 2 and all(map(is_whole, size))
        listed = isinstance(counts, list) and all(type(x) is int and 0 <= x < 2**32 for x in counts)
        return sized and (listed or isinstance(counts, str))
    if not isinstance(shape, list):
        return False
    return any(
        isinstance(points, list) and len(points) >= 6 and len(points) % 2 == 0 for points in shape
    ) and all(isinstance(points, list) for points in shape)


def bounds_of_runs(runs: np.ndarray, height: int) -> np.ndarray | None:
    """(4,) float64 xyxy around the ones of a mask; None if there is none.

    Args:
        runs: (n,) lengths of zeros and ones in turn, column after column.
        height: of the mask in pixels.
    """
    stops = np.cumsum(runs)
    starts, stops = (stops - runs)[1::2], stops[1::2]
    starts, stops = starts[starts < stops], stops[starts < stops]
    if not len(starts):
        return None
    first, last = starts // height, (stops - 1) // height
    several = first < last  # such a run reaches the upper and the lower border
    top = np.where(several, 0, starts % height)
    bottom = np.where(several, height, (stops - 1) % height + 1)
    return np.array([first[0], top.min(), last[-1] + 1, bottom.max()], dtype=np.float64)


def box_around(shape: object) -> list[float] | None:
    """x, y, width, height of polygons or run lengths, None if they are none."""
    if not isinstance(shape, list | dict) or not shape or not is_segmentation(shape):
        return None
    if isinstance(shape, dict):
        try:
            runs, height, _ = read_runs(shape)
        except ValueError:
            return None
        bounds = bounds_of_runs(runs, height)
        if bounds is None:
            return None
        return [*bounds[:2].tolist(), *(bounds[2:] - bounds[:2]).tolist()]
    values = [[to_float(x) for x in points] for points in shape]
    if not all(x is not None and math.isfinite(x) for points in values for x in points):
        return None
    xs = [x for points in values for x in points[::2]]
    ys = [y for points in values for y in points[1::2]]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]  # pyright: ignore


def read_box_form(source: Source, sizes: np.ndarray) -> None:
    """Read boxes as fractions of the image, or as corners, where all of a data set seem to be.

    Args:
        source: whose `boxes` and entries are changed.
        sizes: (M, 2) height and width of the image of each box; NaN if unknown.
    """
    boxes = source.boxes
    if not len(boxes):
        return
    sides = sizes[:, ::-1]  # (M, 2) width, height
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(boxes).all(axis=1) & np.isfinite(sides).all(axis=1)
        usable = finite & (boxes[:, 2:] > 0).all(axis=1)
        if not usable.any():
            return
        first, second = boxes[usable, :2], boxes[usable, 2:]
        known = sides[usable]
        count = len(first)
        low, high = -FRACTION_TOLERANCE, 1 + FRACTION_TOLERANCE
        fractions = (first >= low).all() and (first <= high).all() and (second <= high).all()
        # In an image of one pixel they could be either.
        if fractions and max((first * known).max(), (second * known).max()) > high:
            centred = ((first + second) > high).any() and ((first - second / 2) >= low).all()
            corner = boxes[:, :2] - boxes[:, 2:] / 2 if centred else boxes[:, :2]
            read = np.concatenate([corner * sides, boxes[:, 2:] * sides], axis=1)
            form = "centres and sizes as shares" if centred else "shares"
            message = f"all {count} boxes lie within 0 to 1: read as {form} of the image"
            source.report("boxes_are_shares", f"{message}, expected pixels")
            replace_boxes(source, finite, read, "boxes_are_shares")
            return
        corners = (
            (first >= -PIXEL_TOLERANCE) & (second > first) & (second <= known + PIXEL_TOLERANCE)
        ).all(axis=1)
        leaving = (first + second > known + PIXEL_TOLERANCE).any(axis=1)
        if count >= FEWEST and corners.mean() >= CORNERS and leaving.mean() >= LEAVING:
            message = (
                f"{np.count_nonzero(leaving)} of {count} boxes would leave their image, but none "
                "need to as corners: read as [x1, y1, x2, y2], expected [x, y, width, height]"
            )
            source.report("boxes_are_corners", message)
            read = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
            replace_boxes(source, finite, read, "boxes_are_corners")


def replace_boxes(source: Source, rows: np.ndarray, boxes: np.ndarray, kind: str) -> None:
    """Put boxes in the place of those of a source.

    Args:
        source: whose `boxes` and entries are changed.
        rows: (M,) bool, which of its boxes.
        boxes: (M, 4) x, y, width, height in pixels.
        kind: of the finding. Areas that are possible in the new box stay, but for shares.
    """
    for row in np.flatnonzero(rows).tolist():
        place = source.annotations[row]
        box = boxes[row].tolist()
        values: dict[str, object] = {"bbox": box}
        area = to_float(source.data["annotations"][place].get("area"))
        largest = max(box[2], 0) * max(box[3], 0)
        if kind == "boxes_are_shares" or area is None or not 0 < area <= largest:
            values["area"] = largest
        source.replace("annotations", place, values, kind)
    source.boxes = np.where(rows[:, None], boxes, source.boxes)
