"""The two files of an evaluation in COCO's format, annotations and results, as checked arrays."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from ..datasets.annotations import Annotations
from ..datasets.open_files import read_annotations

# Detections beside an evaluation.
RESULTS_NAME = "coco_instances_results.json"
# What readers make of content that is not as they expect.
UNEXPECTED = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)


@dataclass(frozen=True)
class Detections:
    """D detections of a data set, in the order in which they were reported.

    Attributes:
        images: (D,) int64 places of the images in `Annotations.image_ids`.
        labels: (D,) int64 places of the categories in `Annotations.category_ids`.
        boxes: (D, 4) float64 x, y, width, height in pixels.
        scores: (D,) float64.
    """

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


class ResultRecord(msgspec.Struct, gc=False):
    """What COCO's result format says about one detection."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


def read_json(path: Path) -> object:
    """Content of a JSON file.

    Raises:
        OSError: when it cannot be read.
        ValueError: naming the file, when it is no JSON.
    """
    return parse_json(path.read_bytes(), path)


def parse_json(content: bytes, path: Path) -> object:
    """Content of a file as plain data; see `read_json`."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from error


def read_truth(path: Path) -> Annotations:
    """A COCO annotation file.

    Raises:
        OSError: when it cannot be read.
        ValueError: naming the file, the record and what is wrong.
    """
    try:
        return read_annotations(path)
    except UNEXPECTED as error:
        check_annotations(read_json(path), str(path))
        if isinstance(error, ValueError):
            raise
        raise ValueError(
            f"{str(path)!r} is not as expected: {type(error).__name__}: {error}"
        ) from error


def read_results(path: Path, truth: Annotations, content: bytes | None = None) -> Detections:
    """A COCO result file.

    Args:
        path: of the file.
        truth: the annotations that the results are about.
        content: of the file, where it has been read already.

    Raises:
        OSError: when it cannot be read.
        ValueError: naming the file, the record and what is wrong.
    """
    content = path.read_bytes() if content is None else content
    try:
        return take_records(msgspec.json.decode(content, type=list[ResultRecord]), truth)
    except UNEXPECTED:  # msgspec's own errors are ValueErrors
        # The slow way says which record is wrong, and knows more ways to write a number.
        records = parse_json(content, path)
    if not isinstance(records, list):
        raise ValueError(f"{str(path)!r} is no list of COCO results")
    images, categories = set(truth.image_ids.tolist()), set(truth.category_ids.tolist())
    check_boxes(records, repr(str(path)), images, categories, "score")
    keys = ResultRecord.__struct_fields__
    return take_records([ResultRecord(*map(x.get, keys)) for x in records], truth)


def take_records(records: Sequence[ResultRecord], truth: Annotations) -> Detections:
    """Records as arrays.

    Raises:
        ValueError: when one is of an unknown image or category, or a number is not finite.
    """
    count = len(records)
    boxes = np.array([x.bbox for x in records], dtype=np.float64).reshape(-1, 4)
    scores = np.fromiter((x.score for x in records), np.float64, count)
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError("boxes and scores must be finite")
    image_ids = np.fromiter((x.image_id for x in records), np.int64, count)
    category_ids = np.fromiter((x.category_id for x in records), np.int64, count)
    return Detections(
        images=find_places(image_ids, truth.image_ids, "image_id"),
        labels=find_places(category_ids, truth.category_ids, "category_id"),
        boxes=boxes,
        scores=scores,
    )


def find_places(ids: np.ndarray, known: np.ndarray, name: str) -> np.ndarray:
    """Places of ids among known ones, which rise.

    Raises:
        ValueError: when one is not known; it names the first.
    """
    if not len(known):
        strange = np.ones(len(ids), dtype=bool)
        places = np.zeros(len(ids), dtype=np.int64)
    else:
        places = np.searchsorted(known, ids).clip(max=len(known) - 1)
        strange = known[places] != ids
    if strange.any():
        raise ValueError(f"{name} {ids[strange][0]} is not in the annotations")
    return places


def check_annotations(data: object, name: str) -> None:
    """Look at what the analysis reads of COCO annotations.

    Raises:
        ValueError: naming the file, the record and what is wrong.
    """
    if not isinstance(data, dict) or not all(
        isinstance(data.get(key), list) for key in ("images", "categories")
    ):
        raise ValueError(f"{name!r} is not in COCO format: it needs 'images' and 'categories'")
    for key, needed in (("images", ("id",)), ("categories", ("id", "name"))):
        for place, record in enumerate(data[key]):
            if not isinstance(record, dict) or any(x not in record for x in needed):
                raise ValueError(f"{name!r}: {key}[{place}] has not all of {', '.join(needed)}")
    images = {image["id"] for image in data["images"]}
    categories = {category["id"] for category in data["categories"]}
    annotations = data.get("annotations", [])
    if not isinstance(annotations, list):
        raise ValueError(f"{name!r} is not in COCO format: its 'annotations' are no list")
    check_boxes(annotations, f"{name!r}: annotations", images, categories)


def check_boxes(records: Sequence, name: str, images: set, categories: set, *extra: str) -> None:
    """Raise a ValueError unless each record has a box, and an image and a category that exist.

    Args:
        records: annotations or results.
        name: what to call them.
        images: ids.
        categories: ids.
        extra: keys of further numbers that each must have.
    """
    for place, record in enumerate(records):
        fault = None
        if not isinstance(record, dict):
            fault = "is no record"
        elif record.get("image_id") not in images:
            fault = f"has the image_id {record.get('image_id')!r}, of which there is no image"
        elif record.get("category_id") not in categories:
            fault = f"has the unknown category_id {record.get('category_id')!r}"
        else:
            box = record.get("bbox")
            numbers = [*box, *map(record.get, extra)] if isinstance(box, list) else []
            if len(numbers) != 4 + len(extra) or not all(map(is_finite, numbers)):
                wanted = " and ".join(["a bbox of four finite numbers", *extra])
                fault = f"needs {wanted}"
        if fault is not None:
            raise ValueError(f"{name}[{place}] {fault}")


def is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
