"""What COCO's evaluation compares beside boxes: a row each in `IOU_TYPES`.

The evaluator keeps for every detection the value that COCO's result format has for it, and here is
what becomes of it, and of the objects of the annotation file, when metrics are computed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from faster_coco_eval.core import mask as coco_mask

from ..datasets.annotations import Annotations
from ..datasets.coco_json import collector_paused
from ..datasets.source import read_coco
from ..networks.branches.keypoint_losses import sigmas_of
from ..ops.masks import BoxMasks, encode_mask
from ..structures.polygons import LEAST_COORDINATES
from ..wording import counted
from .coco_files import is_finite

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IoUType:
    """A kind of metrics beside those of boxes.

    Attributes:
        field: of the `Instances` that a model gives.
        key: of a record in COCO's result format.
        encode: the field of D detections to D values of the key, as JSON knows them.
        describe_objects: annotation file and what has been read of it, M objects, to M dicts: what
            COCO's evaluation needs of each object beside its box, class and area.
        describe_detections: D values of the key to D dicts, the same of the detections.
        options: what `describe_objects` and `describe_detections` gave, to options of
            `coco_figures.evaluate`, unless the evaluator is given others.
    """

    field: str
    key: str
    encode: Callable[[Any], list]
    describe_objects: Callable[[Path, Annotations], list[dict]]
    describe_detections: Callable[[Sequence[Any]], list[dict]]
    options: Callable[[Sequence[dict], Sequence[dict]], dict[str, Any]] = lambda *_: {}


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
    records: list[dict | None] = [None] * len(truth.ids)
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
            records[row] = function(row, *values)
    if any(x is None for x in records):
        raise ValueError(f"{str(path)!r} has changed since the evaluator has read it")
    return records  # pyright: ignore[reportReturnType]


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
                "for the metrics of masks"
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

    masks = map_objects(path, truth, ["segmentation"], describe)
    if missing:
        logger.warning(
            "%s: %s without an outline, which the metrics of masks leave out",
            *(path, counted(len(missing), "object")),
        )
    return masks


def describe_predicted_masks(values: Sequence[dict]) -> list[dict]:
    """See `IoUType`; the area of a detection is that of its mask."""
    areas = coco_mask.area(list(values)).tolist() if values else []
    return [{"segmentation": x, "area": float(area)} for x, area in zip(values, areas)]


# ---- Keypoints


def encode_keypoints(keypoints: torch.Tensor) -> list[list[float]]:
    """x, y, score of all points of each detection, as COCO writes them: its pixels have whole
    numbers at their centres, ours at their corners.

    Args:
        keypoints: (D, K, 3).
    """
    return torch.cat([keypoints[..., :2] - 0.5, keypoints[..., 2:]], dim=2).flatten(1).tolist()


def describe_keypoints(path: Path, truth: Annotations) -> list[dict]:
    """See `IoUType`. Objects none of whose points are labelled do not count, neither found nor
    missed.

    Raises:
        ValueError: when an object has no list of three numbers for every point.
    """
    first: list[int] = []

    def describe(row: int, points: object, labelled: object) -> dict:
        points = points or []
        if not isinstance(points, list) or len(points) % 3 or not all(map(is_finite, points)):
            raise ValueError(
                f"{str(path)!r}: annotation {truth.ids[row]} has the keypoints {points!r:.80}, "
                "expected x, y, visibility of every point"
            )
        if points and first and len(points) != first[0]:
            raise ValueError(
                f"{str(path)!r}: annotation {truth.ids[row]} has {len(points) // 3} keypoints, "
                f"others have {first[0] // 3}"
            )
        if points and not first:
            first.append(len(points))
        if not isinstance(labelled, int) or not points:
            labelled = sum(visibility > 0 for visibility in points[2::3])
        return {"keypoints": points, "num_keypoints": labelled}

    return map_objects(path, truth, ["keypoints", "num_keypoints"], describe)


def describe_predicted_keypoints(values: Sequence[list[float]]) -> list[dict]:
    """See `IoUType`; the area of a detection is that of its box."""
    return [{"keypoints": value} for value in values]


def keypoint_options(objects: Sequence[dict], detections: Sequence[dict]) -> dict[str, Any]:
    """The published sigmas, or this project's, see `sigmas_of`.

    Raises:
        ValueError: when detections have other points than the objects.
    """
    lengths = (
        next((len(x["keypoints"]) for x in y if x["keypoints"]), 0) for y in (objects, detections)
    )
    wanted, given = (length // 3 for length in lengths)
    if wanted and given and wanted != given:
        raise ValueError(f"the model has {given} keypoints, the objects of the data set {wanted}")
    return {"kpt_oks_sigmas": list(sigmas_of(given))} if given else {}


# By the name that COCO's evaluation has for it, which is that of its metrics.
IOU_TYPES: dict[str, IoUType] = {
    "segm": IoUType(
        field="pred_masks",
        key="segmentation",
        encode=encode_masks,
        describe_objects=describe_masks,
        describe_detections=describe_predicted_masks,
    ),
    "keypoints": IoUType(
        field="pred_keypoints",
        key="keypoints",
        encode=encode_keypoints,
        describe_objects=describe_keypoints,
        describe_detections=describe_predicted_keypoints,
        options=keypoint_options,
    ),
}
