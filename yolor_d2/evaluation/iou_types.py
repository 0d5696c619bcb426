"""What COCO's evaluation compares beside boxes: a row each in `IOU_TYPES`.

The evaluator keeps for every detection the value that COCO's result format has for it, and here is
what becomes of it, and of the objects of the annotation file, when figures are computed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from faster_coco_eval.core import mask as coco_mask

from ..data.annotations import Annotations, collector_paused
from ..data.check.source import read_coco
from ..data.polygons import LEAST_COORDINATES
from ..ops.masks import BoxMasks, encode_mask
from ..wording import counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IoUType:
    """A kind of figures beside those of boxes.

    Attributes:
        field: of the `Instances` that a model gives.
        key: of a record in COCO's result format.
        encode: the field of D detections to D values of the key, as JSON knows them.
        describe_objects: annotation file and what has been read of it, M objects, to M dicts: what
            COCO's evaluation needs of each object beside its box, class and area.
        describe_detections: D values of the key to D dicts, the same of the detections.
    """

    field: str
    key: str
    encode: Callable[[Any], list]
    describe_objects: Callable[[Path, Annotations], list[dict]]
    describe_detections: Callable[[Sequence[Any]], list[dict]]


@collector_paused()
def map_objects(
    path: Path, truth: Annotations, keys: Sequence[str], function: Callable[..., dict]
) -> list[dict]:
    """Read keys of the objects of a COCO file that `Annotations` lack.

    Args:
        path: of the file.
        truth: what has been read of it.
        keys: of its annotations.
        function: called with the row of an object in `truth` and its values, None where it has
            none. One object after the other, as all outlines at once would take gigabytes.

    Returns:
        What it gave, by row.

    Raises:
        ValueError: when the file has lost objects since.
    """
    order = np.argsort(truth.ids, kind="stable")
    rows = dict(zip(truth.ids[order].tolist(), order.tolist()))
    found: list[dict | None] = [None] * len(truth.ids)
    null = msgspec.Raw(b"null")
    record = msgspec.defstruct("Object", [("id", int), *((key, msgspec.Raw, null) for key in keys)])
    kind = msgspec.defstruct("File", [("annotations", list[record], [])])
    try:
        entries = msgspec.json.decode(path.read_bytes(), type=kind).annotations
    except msgspec.DecodeError:
        # It has numbers that JSON does not know, as Python writes them.
        entries = read_coco(path, annotated=False)["annotations"]
        decoded = ((x["id"], *map(x.get, keys)) for x in entries)
    else:
        read = msgspec.json.decode
        decoded = ((x.id, *(read(getattr(x, key)) for key in keys)) for x in entries)
    for number, *values in decoded:
        row = rows.get(number)
        if row is not None:
            found[row] = function(row, *values)
    if any(x is None for x in found):
        raise ValueError(f"{str(path)!r} has changed since the evaluator has read it")
    return found  # pyright: ignore[reportReturnType]


# ---- Masks


def encode_masks(masks: Any) -> list[dict]:
    """COCO's compressed run lengths, one mask after the other.

    Args:
        masks: `BoxMasks`, or anything that gives D (H, W) masks one by one, 0 outside.
    """
    if isinstance(masks, BoxMasks):
        return masks.rle()
    return [encode_mask(mask.cpu().numpy() != 0) for mask in masks]


def run_lengths(shape: object, size: tuple[int, int]) -> dict | None:
    """The value of "segmentation" as compressed run lengths, as pycocotools makes them.

    Args:
        shape: polygons, or run lengths, compressed or not.
        size: (H, W) of the image.

    Returns:
        None when there is nothing that encloses anything.
    """
    if isinstance(shape, dict) and "counts" in shape and "size" in shape:
        if isinstance(shape["counts"], list):
            return coco_mask.frPyObjects(shape, *size)  # pyright: ignore[reportReturnType]
        return {"size": list(shape["size"]), "counts": shape["counts"]}
    if not isinstance(shape, list):
        return None
    outlines = [x for x in shape if isinstance(x, list) and len(x) >= LEAST_COORDINATES]
    if not outlines:
        return None
    parts = coco_mask.frPyObjects([list(map(float, x)) for x in outlines], *size)
    return coco_mask.merge(parts)  # pyright: ignore[reportArgumentType]


def describe_masks(path: Path, truth: Annotations) -> list[dict]:
    """See `IoUType`. Objects without an outline do not count, neither found nor missed.

    Raises:
        ValueError: when the file does not say how large an image with objects is.
    """
    images, missing = truth.image_rows, []

    def describe(row: int, shape: object) -> dict:
        height, width = truth.sizes[images[row]].tolist()
        if height <= 0 or width <= 0:
            raise ValueError(
                f"{str(path)!r}: image {truth.image_ids[images[row]]} needs 'height' and 'width' "
                "for the figures of masks"
            )
        encoded = run_lengths(shape, (height, width))
        if encoded is None:
            missing.append(row)
            # What is inside a crowd counts neither for nor against anybody, and nothing is here.
            empty = encode_mask(np.zeros((height, width), dtype=bool))
            return {"segmentation": empty, "area": 0.0, "iscrowd": 1}
        entry: dict = {"segmentation": encoded}
        if np.isnan(truth.areas[row]):
            entry["area"] = float(coco_mask.area(encoded))
        return entry

    found = map_objects(path, truth, ["segmentation"], describe)
    if missing:
        logger.warning(
            "%s: %s without an outline, which the figures of masks leave out",
            *(path, counted(len(missing), "object")),
        )
    return found


def describe_found_masks(values: Sequence[dict]) -> list[dict]:
    """See `IoUType`; the area of a detection is that of its mask."""
    areas = coco_mask.area(list(values)).tolist() if values else []
    return [{"segmentation": x, "area": float(area)} for x, area in zip(values, areas)]


# By the name that COCO's evaluation has for it, which is that of its figures.
IOU_TYPES: dict[str, IoUType] = {
    "segm": IoUType(
        field="pred_masks",
        key="segmentation",
        encode=encode_masks,
        describe_objects=describe_masks,
        describe_detections=describe_found_masks,
    ),
}
