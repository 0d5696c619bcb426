"""Annotations as arrays: what a COCO file says, read once and shared by all that need it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Annotations:
    """A data set of N images, M objects and K categories.

    Images come in the order of their ids, the objects of an image in that of the file.

    Attributes:
        image_ids: (N,) int64, rising.
        sizes: (N, 2) int64 heights and widths in pixels; -1 where the file does not say.
        file_names: N names as the file has them.
        starts: (N + 1,) int64; the objects of image i are the rows starts[i] to starts[i + 1].
        ids: (M,) int64 ids of the annotations.
        boxes: (M, 4) float64 x, y, width, height in pixels, as the file has them.
        labels: (M,) int64 places of the categories in `category_ids`.
        areas: (M,) float64 in pixels; NaN where the file does not say.
        crowd: (M,) bool, regions of many objects.
        identities: (M,) int64, which individual an object is; -1 where that is not known.
        category_ids: (K,) int64, rising.
        category_names: K names.
    """

    image_ids: np.ndarray
    sizes: np.ndarray
    file_names: list[str]
    starts: np.ndarray
    ids: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    identities: np.ndarray
    category_ids: np.ndarray
    category_names: list[str]


def read_annotations(path: Path) -> Annotations:
    """A COCO file."""
    data = json.loads(path.read_bytes())
    categories = sorted(data["categories"], key=lambda x: x["id"])
    category_ids = np.array([x["id"] for x in categories], dtype=np.int64)
    images = sorted(data["images"], key=lambda x: x["id"])
    image_ids = np.array([x["id"] for x in images], dtype=np.int64)
    objects = data.get("annotations", [])
    place = np.searchsorted(image_ids, np.array([x["image_id"] for x in objects], dtype=np.int64))
    order = np.argsort(place, kind="stable")
    objects = [objects[i] for i in order]
    return Annotations(
        image_ids=image_ids,
        sizes=np.array([(x.get("height", -1), x.get("width", -1)) for x in images]).reshape(-1, 2),
        file_names=[x["file_name"] for x in images],
        starts=np.searchsorted(place[order], np.arange(len(images) + 1)),
        ids=np.array([x["id"] for x in objects], dtype=np.int64),
        boxes=np.array([x["bbox"] for x in objects], dtype=np.float64).reshape(-1, 4),
        labels=np.searchsorted(category_ids, [x["category_id"] for x in objects]),
        areas=np.array([x.get("area", np.nan) for x in objects], dtype=np.float64),
        crowd=np.array([bool(x.get("iscrowd", 0)) for x in objects], dtype=bool),
        identities=np.array([x.get("instance_id", -1) for x in objects], dtype=np.int64),
        category_ids=category_ids,
        category_names=[x["name"] for x in categories],
    )
