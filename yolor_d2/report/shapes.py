"""Masks and keypoints in a report: their metrics, and what its pictures show of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from ..datasets.annotations import Annotations
from ..datasets.keypoints import PIXEL_CENTRE, read_keypoints, read_layout
from ..datasets.polygons import read_polygons
from ..evaluation.coco_files import UNEXPECTED, Detections
from ..evaluation.coco_metrics import METRICS, evaluate
from ..evaluation.iou_types import IOU_TYPES
from ..structures.polygons import LEAST_COORDINATES
from ..structures.run_lengths import polygons_of

logger = logging.getLogger(__name__)

# The outlines of pictures may be so many pixels off, times the longer side in thousands: a page
# would otherwise have every pixel of a border.
OUTLINE_ERROR = 1.0
# Keypoints of detections with lower scores are not shown.
LEAST_POINT = 0.5


class ShapeRecord(msgspec.Struct, gc=False):
    """What COCO's result format says about the shape of one detection."""

    segmentation: Any = None
    keypoints: list[float] | None = None


def kinds_in(content: bytes) -> list[str]:
    """Which of `IOU_TYPES` the content of a result file has beside boxes."""
    return [name for name, kind in IOU_TYPES.items() if f'"{kind.key}"'.encode() in content]


def read_shapes(content: bytes) -> list[ShapeRecord]:
    """Shapes in the content of a result file, in its order.

    Raises:
        ValueError: when that is not as COCO's format has it.
    """
    try:
        return msgspec.json.decode(content, type=list[ShapeRecord])
    except UNEXPECTED as error:
        raise ValueError(f"the results have masks or keypoints of another form: {error}") from error


def task_metrics(
    kind: str,
    path: Path,
    truth: Annotations,
    predictions: Detections,
    shapes: Sequence[ShapeRecord],
) -> dict[str, float] | None:
    """COCO's metrics of masks or keypoints, as the evaluator computes them.

    Args:
        kind: of `IOU_TYPES`.
        path: annotation file.
        truth: what has been read of it.
        found: D detections.
        shapes: of each.

    Returns:
        None when the files lack what is needed, which is logged.
    """
    iou_type = IOU_TYPES[kind]
    values = [getattr(x, iou_type.key) for x in shapes]
    if any(value is None for value in values):
        logger.warning("Some of the results have no %r: no metrics of it", iou_type.key)
        return None
    try:
        objects = iou_type.describe_objects(path, truth)
        detections = iou_type.describe_detections(values)
        options = iou_type.options(objects, detections)
        metrics = evaluate(truth, predictions, kind, objects, detections, **options)
    except UNEXPECTED as error:
        logger.warning("No metrics of %s can be made: %s", kind, error)
        return None
    summary = metrics.summary()
    by_class = dict(zip(map(str, truth.category_names), metrics.class_precisions()))
    named = {f"AP-{name}": value for name, value in by_class.items()} if len(by_class) > 1 else {}
    return {**{name: summary[name] for name in METRICS[kind]}, **named}


# ---- Pictures


def take_rows(pictures: dict[str, list[dict]]) -> list[tuple[dict, list[int], list[int]]]:
    """The pictures of a report, each with the rows of its objects in the annotations and of its
    detections in the result file, which are taken out of it."""
    return [
        (
            picture,
            [x.pop("row") for x in picture["objects"]],
            [x.pop("row") for x in picture["detections"]],
        )
        for chosen in pictures.values()
        for picture in chosen
    ]


def add_shapes(
    pictures: Sequence[tuple[dict, list[int], list[int]]],
    path: Path,
    truth: Annotations,
    shapes: Sequence[ShapeRecord],
    kinds: Sequence[str],
) -> list[list[int]]:
    """Add to objects and detections of pictures "polygons", lists of x, y, x, y, ..., and
    "keypoints", lists of x, y and visibility or score.

    Args:
        pictures: see `take_rows`.
        path: annotation file.
        truth: what has been read of it.
        shapes: of all detections.
        kinds: of `IOU_TYPES`, which the results have.

    Returns:
        Pairs of numbers of keypoints between which lines are drawn.
    """
    outlines = read_polygons(path, truth) if "segm" in kinds else None
    points = read_keypoints(path, truth) if "keypoints" in kinds else None
    for picture, objects, detections in pictures:
        limit = OUTLINE_ERROR * max(picture["width"] or 0, picture["height"] or 0) / 1000
        for entry, row in zip(picture["objects"], objects):
            if outlines is not None:
                entry["polygons"] = simplified(outlines[row], limit)
            if points is not None and (points[row, :, 2] > 0).any():
                entry["keypoints"] = rounded(points[row])
        for entry, row in zip(picture["detections"], detections):
            shape = shapes[row]
            if outlines is not None:
                entry["polygons"] = simplified(read_outlines(shape.segmentation), limit)
            if points is not None and shape.keypoints:
                given = np.array(shape.keypoints).reshape(-1, 3) + (PIXEL_CENTRE, PIXEL_CENTRE, 0)
                entry["keypoints"] = rounded(given)
    layout = None if points is None else read_layout(path, truth)
    if layout is None:
        return []
    return [[layout.names.index(name) for name in line] for line in layout.connections]


def read_outlines(shape: object) -> list[np.ndarray]:
    """Polygons (n, 2) of a value of "segmentation"; none where there is nothing."""
    if isinstance(shape, dict):
        try:
            return polygons_of(shape)
        except ValueError as error:
            logger.warning("The report does not show a mask: %s", error)
            return []
    parts = shape if isinstance(shape, list) else []
    return [np.array(x, np.float32).reshape(-1, 2) for x in parts if len(x) >= LEAST_COORDINATES]


def simplified(polygons: Sequence[np.ndarray], limit: float) -> list[list[float]]:
    """x, y, x, y, ... of polygons with fewer points, off by the limit in pixels at most."""
    outlines = []
    for polygon in polygons:
        points = cv2.approxPolyDP(np.ascontiguousarray(polygon, np.float32), limit, True)[:, 0]
        if len(points) >= LEAST_COORDINATES // 2:
            outlines.append([round(v, 1) for v in points.ravel().tolist()])
    return outlines


def rounded(points: np.ndarray) -> list[list[float]]:
    return [[round(x, 1), round(y, 1), round(score, 3)] for x, y, score in points.tolist()]


# ---- Of a page


def path_of_polygons(polygons: Sequence[Sequence[float]]) -> str:
    """SVG's path around polygons."""
    return "".join(f"M{' '.join(f'{v:g}' for v in polygon)}Z" for polygon in polygons)


def path_of_lines(points: Sequence[Sequence[float]], lines: Sequence[Sequence[int]]) -> str:
    """SVG's path along the lines between keypoints that are there."""
    return "".join(
        f"M{points[a][0]:g} {points[a][1]:g}L{points[b][0]:g} {points[b][1]:g}"
        for a, b in lines
        if max(a, b) < len(points) and min(points[a][2], points[b][2]) >= LEAST_POINT
    )


def path_of_points(points: Sequence[Sequence[float]]) -> str:
    """SVG's path of lines without length at the keypoints that are there: dots where ends of lines
    are round."""
    return "".join(f"M{x:g} {y:g}h0" for x, y, score in points if score >= LEAST_POINT)


def with_paths(entry: dict, lines: Sequence[Sequence[int]]) -> dict:
    """An object or detection of a picture with what the page draws, empty where there is none."""
    points = entry.get("keypoints") or []
    return {
        **entry,
        "outline": path_of_polygons(entry.get("polygons") or []),
        "bones": path_of_lines(points, lines),
        "points": path_of_points(points),
    }
