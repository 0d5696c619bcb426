"""A data set that was registered by a function, written as a COCO annotation file.

Boxes, areas, masks and keypoints are those that Detectron2's own conversion writes, so that the
metrics are the same.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from pycocotools import mask as mask_utils

from ..d2.data import DatasetCatalog, MetadataCatalog
from ..d2.structures import BoxMode
from ..d2.utils import comm
from ..files.writing import atomic_write
from ..structures.keypoints import FLIP_KEY

logger = logging.getLogger(__name__)


def write_dataset_file(name: str, folder: Path) -> Path:
    """Write the annotations of a data set, whole or not at all; process 0 does so for all.

    Args:
        name: of a registered data set in Detectron2's standard format.
        folder: gets the file; it is made where it is missing.

    Returns:
        The file.

    Raises:
        KeyError: when the name is unknown.
        ValueError: naming the data set, the image and what is wrong.
        OSError: when the file cannot be written.
    """
    path = folder / f"{name}_coco_format.json"
    if comm.is_main_process():
        logger.info("Writing the annotations of data set %r to %s", name, path)
        content = msgspec.json.encode(to_coco(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(content)
    return path


def to_coco(name: str) -> dict:
    """Content of a COCO annotation file for a data set; see `write_dataset_file`."""
    items = DatasetCatalog.get(name)
    metadata = MetadataCatalog.get(name)
    classes = metadata.get("thing_classes")
    if classes is None:
        raise ValueError(f"data set {name!r} has no thing_classes in its metadata")
    numbers = metadata.get("thing_dataset_id_to_contiguous_id")
    ids = {x: x for x in range(len(classes))}
    if numbers is not None:
        ids = {number: category for category, number in numbers.items()}
    images, annotations = [], []
    known: set[int] = set()
    for place, item in enumerate(items):
        number = item.get("image_id", place)
        where = f"data set {name!r}, image_id {number!r}"
        if not isinstance(number, int) or number in known:
            raise ValueError(f"{where}: expected whole numbers, each once")
        known.add(number)
        images.append(
            {
                "id": number,
                "width": int(item["width"]),
                "height": int(item["height"]),
                "file_name": str(item["file_name"]),
            }
        )
        for entry in item.get("annotations", []):
            if entry["category_id"] not in ids:
                raise ValueError(
                    f"{where}: category_id {entry['category_id']!r} is none of {sorted(ids)}"
                )
            box, area = box_and_area(entry, where)
            annotations.append(
                {
                    # From 1, as pycocotools takes 0 for "not found".
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": ids[entry["category_id"]],
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(entry.get("iscrowd", 0)),
                    **mask_and_points(entry, where),
                }
            )
    points = points_of(metadata)
    return {
        "info": {"description": f"Data set {name}, written by yolor_d2"},
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": ids[i], "name": str(label), **points} for i, label in enumerate(classes)
        ],
    }


def box_and_area(entry: dict, where: str) -> tuple[list[float], float]:
    """Box of an object as x, y, width, height, and the area of its mask, else of the box."""
    box = np.asarray(entry["bbox"], dtype=np.float64)
    mode = entry["bbox_mode"]
    if box.shape != (4,) or mode not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
        raise ValueError(
            f"{where}: expected a bbox of four numbers of the mode XYXY_ABS or XYWH_ABS, found "
            f"{box.tolist()} of the mode {mode!r}"
        )
    # In float32 where it is computed with, as in Detectron2.
    corner, far = np.float32(box[:2]), np.float32(box[2:])
    size = far
    if mode == BoxMode.XYXY_ABS:
        size = far - corner
        box = np.float64([*corner, *size])
    size = (corner + size) - corner
    shape = entry.get("segmentation")
    area = float(size[0] * size[1]) if shape is None else mask_area(shape, where)
    return [round(x, 3) for x in box.tolist()], area


def mask_and_points(entry: dict, where: str) -> dict[str, object]:
    """Segmentation and keypoints of an object in COCO's form, as far as it has some."""
    more: dict[str, object] = {}
    shape = entry.get("segmentation")
    if isinstance(shape, dict):
        counts = shape["counts"]
        more["segmentation"] = {
            "size": [int(x) for x in shape["size"]],
            "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
        }
    elif shape is not None:
        more["segmentation"] = [np.asarray(x, dtype=np.float64).ravel().tolist() for x in shape]
    points = entry.get("keypoints")
    if points is not None:
        table = np.array(points, dtype=np.float64).ravel()
        if len(table) % 3:
            raise ValueError(f"{where}: expected x, y and visibility of each keypoint")
        table = table.reshape(-1, 3)
        # COCO has numbers of pixels, Detectron2 coordinates of their centres.
        table[:, :2] -= 0.5
        more |= {"keypoints": table.ravel().tolist(), "num_keypoints": int((table[:, 2] > 0).sum())}
    return more


def points_of(metadata: Any) -> dict[str, object]:
    """Keypoint entries of the categories of a COCO file, from a data set's metadata."""
    names = list(metadata.get("keypoint_names") or [])
    if not names:
        return {}
    rules = metadata.get("keypoint_connection_rules") or []
    numbers = {name: i for i, name in enumerate(names, 1)}
    edges = [[numbers[a], numbers[b]] for a, b, *_ in rules if a in numbers and b in numbers]
    points: dict[str, object] = {"keypoints": names, "skeleton": edges}
    pairs = metadata.get("keypoint_flip_map")
    return points if pairs is None else {**points, FLIP_KEY: [list(pair) for pair in pairs]}


def mask_area(shape: Sequence[Sequence[float]] | dict, where: str) -> float:
    """Pixels of polygons, which may overlap, or of a run-length encoding."""
    if isinstance(shape, dict):
        if isinstance(shape["counts"], list):
            shape = mask_utils.frPyObjects(shape, *shape["size"])
        return float(mask_utils.area(shape))
    if not isinstance(shape, list | tuple):
        raise ValueError(f"{where}: the segmentation is a {type(shape).__name__}")
    area = 0.0
    for points in shape:
        x, y = np.asarray(points, dtype=np.float64).reshape(-1, 2).T
        area += 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))
    return area
