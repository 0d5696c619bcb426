"""Checks of outlines and run lengths, whole arrays at a time."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..datasets.forms import bounds_of_runs, is_segmentation
from ..datasets.source import Source
from ..files.values import shorten
from ..structures.polygons import LEAST_COORDINATES, Polygons, next_points, signed_areas, start_of
from ..structures.run_lengths import read_runs
from ..wording import counted
from .boxes import TOLERANCE, format_box

# Points that are looked at together, so that what is computed of them takes little memory.
CHUNK = 2**18
# A polygon that is thinner than this, in pixels, has no area; coordinates are rounded.
THIN = 1e-3
# Edges cross each other if their ends lie so many pixels beyond; less does not show in a mask.
CROSSING = 0.5
# An edge is compared with at most so many whose left end lies within its width.
MOST_NEIGHBOURS = 2000
# A mask is far from its box if their IoU is below this, and sides differ by so many pixels:
# boxes of a few pixels are rounded.
FAR_IOU, FAR_PIXELS = 0.7, 2.0


@dataclass(frozen=True)
class Outlines:
    """Polygons of the objects of a source, without those that are no numbers or too few points.

    Attributes:
        points: (P, 2) float32 x and y, polygon after polygon.
        ends: (G,) where the points of each polygon end.
        rows: (G,) the object of each polygon, as in `Source.annotations`, rising.
        indices: (G,) place of each polygon in "segmentation" of its object.
    """

    points: np.ndarray
    ends: np.ndarray
    rows: np.ndarray
    indices: np.ndarray


def read_outlines(source: Source) -> Outlines:
    """Polygons of all objects; those that are none are reported."""
    points, ends, rows, indices = array("f"), array("q"), array("q"), array("q")
    for row, (place, entry) in enumerate(source.objects()):
        shape = entry.get("segmentation")
        if isinstance(shape, list) and is_segmentation(shape):  # else it is reported as a whole
            for index, outline in enumerate(shape):
                fault = add_outline(points, outline)
                if not fault:
                    ends.append(len(points) // 2)
                    rows.append(row)
                    indices.append(index)
                    continue
                kind = "polygon_short" if len(outline) < LEAST_COORDINATES else "polygon_malformed"
                message = f"polygon {index} {fault}"
                source.report(kind, message, "annotations", place, index=index)
    flat = np.frombuffer(points, dtype=np.float32).reshape(-1, 2)
    return Outlines(flat, *(np.frombuffer(x, dtype=np.int64) for x in (ends, rows, indices)))


def add_outline(points: array, outline: list) -> str:
    """Append x1, y1, x2, y2, ... of a polygon; or say what is wrong with it."""
    if len(outline) < LEAST_COORDINATES:
        count = counted(len(outline), "number")
        return f"has {count}, expected x and y of at least three points"
    if len(outline) % 2:
        return f"has {len(outline)} numbers, expected x and y of each point"
    before = len(points)
    try:
        points.extend(outline)
    except (TypeError, OverflowError):
        del points[before:]
        return f"is {shorten(outline)}, expected numbers"
    return ""


def check_masks(source: Source) -> int:
    """Report outlines and run lengths that cannot be meant.

    Returns:
        Objects that have a mask, no crowds.
    """
    sizes = source.object_sizes()
    bounds = check_outlines(source, read_outlines(source), sizes)
    for row, (place, entry) in enumerate(source.objects()):
        shape = entry.get("segmentation")
        if isinstance(shape, dict) and shape and is_segmentation(shape):
            bound = check_run_lengths(source, place, shape, sizes[row])
            if bound is not None:
                bounds[row] = bound
    crowd = source.crowd_objects()
    bounds[crowd] = np.nan
    report_far_boxes(source, bounds, sizes)
    has_mask = ~np.isnan(bounds[:, 0])
    if "polygons" in source.needed:
        report_missing(source, has_mask, crowd)
    return int(np.count_nonzero(has_mask))


def report_missing(source: Source, has_mask: np.ndarray, crowd: np.ndarray) -> None:
    """Report objects without a mask where a task needs them."""
    if not has_mask.any():
        if len(has_mask):
            message = "no object has a mask, expected polygons or run lengths as 'segmentation'"
            source.report("no_masks", message)
        return
    for row in np.flatnonzero(~has_mask & ~crowd).tolist():
        message = "has a box alone, of which no mask is learned"
        source.report("mask_missing", message, "annotations", source.annotations[row])


# ---- Polygons


def chunks(ends: np.ndarray) -> Iterator[tuple[int, int]]:
    """First polygon, and the one after the last, of groups of about `CHUNK` points."""
    first = 0
    while first < len(ends):
        limit = start_of(ends, first) + CHUNK
        last = max(int(np.searchsorted(ends, limit, side="right")), first + 1)
        yield first, last
        first = last


def has_area(points: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(G,) bool: polygons that are more than a line; see `signed_areas`."""
    starts = ends - np.diff(ends, prepend=0)
    sides = np.maximum.reduceat(points, starts) - np.minimum.reduceat(points, starts)
    return np.abs(signed_areas(points, ends)) > THIN * sides.max(axis=1)


def crossings(points: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(G,) bool: polygons that cross themselves.

    Edges that meet in a point, or lie on each other as the cut to a hole does, do not cross.
    Sorted by their left ends, edges are compared with the next ones as long as these begin within
    their width.

    Args:
        points, ends: see `signed_areas`.
    """
    polygon = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
    crossed = np.zeros(len(ends), dtype=bool)
    start, end = points, points[next_points(ends)]
    left = np.minimum(start[:, 0], end[:, 0])
    order = np.lexsort((left, polygon))
    start, end, left, polygon = start[order], end[order], left[order], polygon[order]
    right = np.maximum(start[:, 0], end[:, 0])
    top, bottom = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    rows = np.arange(len(points))
    for step in range(1, MOST_NEIGHBOURS + 1):
        rows = rows[: np.searchsorted(rows, len(points) - step)]
        others = rows + step
        close = (polygon[rows] == polygon[others]) & (left[others] < right[rows])
        rows, others = rows[close], others[close]
        if not len(rows):
            break
        near = (top[others] < bottom[rows]) & (top[rows] < bottom[others])
        a, b = rows[near], others[near]
        both = cross(start[a], end[a], start[b], end[b])
        both &= cross(start[b], end[b], start[a], end[a])
        if both.any():
            crossed[polygon[a[both]]] = True
            rows = rows[~crossed[polygon[rows]]]
    return crossed


def cross(start: np.ndarray, end: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(E,) bool: whether two points lie on both sides of a line, `CROSSING` from it at least.

    Args:
        start, end: (E, 2) points of the lines.
        one, other: (E, 2) points.
    """
    x, y = (end - start).T
    least = CROSSING * np.hypot(x, y)
    first = x * (one[:, 1] - start[:, 1]) - y * (one[:, 0] - start[:, 0])
    second = x * (other[:, 1] - start[:, 1]) - y * (other[:, 0] - start[:, 0])
    return (np.minimum(first, second) < -least) & (np.maximum(first, second) > least)


def check_outlines(source: Source, outlines: Outlines, sizes: np.ndarray) -> np.ndarray:
    """Report polygons that are no numbers, have no area, leave their image or cross themselves.

    Args:
        source: gets the findings.
        outlines: of its objects.
        sizes: (M, 2) height and width of the image of each object; NaN if unknown.

    Returns:
        (M, 4) float64 xyxy around the polygons of each object that are not outside of its image;
        NaN where there is none.
    """
    bounds = np.full((len(sizes), 4), np.nan)
    by_kind: dict[str, list[np.ndarray]] = {
        kind: [] for kind in ("malformed", "empty", "outside", "partly_outside", "crosses_itself")
    }
    for first, last in chunks(outlines.ends):
        begin = start_of(outlines.ends, first)
        ends, rows = outlines.ends[first:last] - begin, outlines.rows[first:last]
        points = outlines.points[begin : begin + ends[-1]].astype(np.float64)
        starts = ends - np.diff(ends, prepend=0)
        finite = np.logical_and.reduceat(np.isfinite(points).all(axis=1), starts)
        points[~np.repeat(finite, np.diff(ends, prepend=0))] = 0
        low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
        limits = sizes[rows, ::-1]
        with np.errstate(invalid="ignore", over="ignore"):
            outside = ((high <= 0) | (low >= limits)).any(axis=1)
            beyond = np.maximum(-low, high - limits).max(axis=1)
            crossing = crossings(points, ends)
            thin = ~has_area(points, ends)
        seen = finite & ~outside
        np.fmin.at(bounds, (rows[seen], slice(0, 2)), low[seen])
        np.fmax.at(bounds, (rows[seen], slice(2, 4)), high[seen])
        numbers = np.arange(first, last)
        by_kind["malformed"].append(numbers[~finite])
        by_kind["empty"].append(numbers[finite & thin & ~crossing])
        by_kind["outside"].append(numbers[finite & outside])
        by_kind["partly_outside"].append(numbers[seen & (beyond > TOLERANCE)])
        by_kind["crosses_itself"].append(numbers[finite & crossing])
    words = {
        "malformed": "has a number that is not finite",
        "empty": "has no area",
        "outside": "lies outside its image",
        "partly_outside": "reaches beyond its image",
        "crosses_itself": "crosses itself",
    }
    for kind, groups in by_kind.items():
        for number in np.concatenate([*groups, np.zeros(0, dtype=np.int64)]).tolist():
            row, index = int(outlines.rows[number]), int(outlines.indices[number])
            height, width = sizes[row]
            size = "" if np.isnan(width) or "outside" not in kind else f" of {width:.0f} x "
            size += f"{height:.0f}" if size else ""
            message = f"polygon {index} {words[kind]}{size}"
            place = source.annotations[row]
            source.report(f"polygon_{kind}", message, "annotations", place, index=index)
    return bounds


def cut_polygon(outline: list[float], size: tuple[int, int]) -> list[float]:
    """What of a polygon is inside an image of (height, width); empty if that has no area."""
    points = np.array(outline, dtype=np.float32).reshape(-1, 2)
    whole = Polygons(points, np.array([len(points)]), np.array([1]))
    left = whole.cut(size[1], size[0])
    if len(left.points) < 3 or not has_area(left.points.astype(np.float64), left.ends)[0]:
        return []
    return left.points.astype(np.float64).round(3).ravel().tolist()


def report_far_boxes(source: Source, bounds: np.ndarray, sizes: np.ndarray) -> None:
    """Report masks whose own box is another one than that of the object.

    Args:
        source: gets the findings.
        bounds: (M, 4) xyxy around the masks; NaN where there is none.
        sizes: (M, 2) height and width of the images; NaN if unknown.
    """
    limits = np.nan_to_num(sizes[:, ::-1], nan=np.inf)  # (M, 2) width, height
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        boxes = np.concatenate([source.boxes[:, :2], source.boxes[:, :2] + source.boxes[:, 2:]], 1)
        # What is beyond the image is reported elsewhere.
        seen, mask = (
            np.concatenate([x[:, :2].clip(0), np.minimum(x[:, 2:], limits)], axis=1)
            for x in (boxes, bounds)
        )
        shared = np.minimum(seen[:, 2:], mask[:, 2:]) - np.maximum(seen[:, :2], mask[:, :2])
        shared = shared.clip(0).prod(axis=1)
        areas = [(x[:, 2:] - x[:, :2]).clip(0).prod(axis=1) for x in (seen, mask)]
        iou = shared / (areas[0] + areas[1] - shared)
        far = (iou < FAR_IOU) & (np.abs(seen - mask).max(axis=1) > FAR_PIXELS)
    for row in np.flatnonzero(far).tolist():
        around = np.concatenate([bounds[row, :2], bounds[row, 2:] - bounds[row, :2]])
        message = (
            f"the box around its mask is {format_box(around.round(1))}, 'bbox' is "
            f"{format_box(source.boxes[row])}: an IoU of {iou[row]:.2f}"
        )
        source.report("mask_far_from_box", message, "annotations", source.annotations[row])


# ---- Run lengths


def check_run_lengths(
    source: Source, place: int, shape: dict, size: np.ndarray
) -> np.ndarray | None:
    """Report run lengths that are none of this image.

    Args:
        source: gets the findings.
        place: of the annotation.
        shape: its "segmentation", an object with "size" and "counts".
        size: (2,) height and width of the image; NaN if unknown.

    Returns:
        (4,) xyxy around the mask, None if nothing is wrong but there is none.
    """

    def report(kind: str, message: str) -> None:
        source.report(f"run_lengths_{kind}", message, "annotations", place)

    try:
        runs, height, width = read_runs(shape)
    except ValueError as error:
        report("malformed", str(error))
        return None
    if not np.isnan(size).any() and (height, width) != tuple(size):
        message = (
            f"'size' is {height} high and {width} wide, the image {size[0]:.0f} and {size[1]:.0f}"
        )
        report("size_differs", message)
        return None
    bounds = bounds_of_runs(runs, height)
    if bounds is None:
        report("empty", "the mask has no pixel")
    return bounds
