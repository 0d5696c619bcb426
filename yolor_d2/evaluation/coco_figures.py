"""COCO's figures of boxes, from pycocotools itself, with those of every class."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

# The figures of `COCOeval.stats`, in its order.
NAMES = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)


@dataclass(frozen=True)
class COCOFigures:
    """What `COCOeval` has accumulated; -1 where a class has no object.

    Attributes:
        stats: (12,) see NAMES, in 0-1.
        precision: (T, R, K, A, M) by IoU threshold, recall, class, range of area (all, small,
            medium, large) and most detections (1, 10, 100).
        recall: (T, K, A, M).
    """

    stats: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    def summary(self) -> dict[str, float]:
        """NAMES in percent, NaN where nothing counts."""
        return {name: percent(value) for name, value in zip(NAMES, self.stats)}

    def of_class(self, number: int) -> dict[str, float]:
        """AP over all IoU thresholds, at two of them and by size, and AR, in percent."""
        precision, recall = self.precision[:, :, number, :, -1], self.recall[:, number, :, -1]
        return {
            "AP": mean_percent(precision[:, :, 0]),
            "AP50": mean_percent(precision[0, :, 0]),
            "AP75": mean_percent(precision[5, :, 0]),
            "APs": mean_percent(precision[:, :, 1]),
            "APm": mean_percent(precision[:, :, 2]),
            "APl": mean_percent(precision[:, :, 3]),
            "AR100": mean_percent(recall[:, 0]),
        }


def percent(value: float) -> float:
    return 100 * float(value) if value > -1 else float("nan")


def mean_percent(values: np.ndarray) -> float:
    """Mean of what counts, as `COCOeval.summarize` takes it; NaN for nothing."""
    valid = values[values > -1]
    return 100 * float(valid.mean()) if valid.size else float("nan")


def index_coco(images: Sequence[dict], annotations: Sequence[dict], categories: Sequence[dict]):
    """pycocotools' index of some records, made without a file."""
    coco = COCO()
    coco.dataset = {
        "images": list(images),
        "annotations": list(annotations),
        "categories": list(categories),
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def group_by_category(records: Sequence[dict]) -> dict[int, list[dict]]:
    groups: dict[int, list[dict]] = {}
    for record in records:
        groups.setdefault(record["category_id"], []).append(record)
    return groups


def evaluate_boxes(data: dict, results: Sequence[dict]) -> COCOFigures:
    """The figures of `COCOeval`, whose memory is kept small: each class is matched by itself.

    Args:
        data: content of a COCO annotation file.
        results: content of a COCO result file; not changed. It may be empty.
    """
    categories = sorted(data["categories"], key=lambda x: x["id"])
    images = {image["id"]: image for image in data["images"]}
    truth = group_by_category(data.get("annotations", []))
    found = group_by_category(results)
    total = COCOeval(iouType="bbox")
    params = total.params
    params.catIds = [category["id"] for category in categories]
    sizes = {
        "precision": (len(params.iouThrs), len(params.recThrs)),
        "recall": (len(params.iouThrs),),
    }
    per_class = (len(categories), len(params.areaRng), len(params.maxDets))
    total.eval = {name: -np.ones((*size, *per_class)) for name, size in sizes.items()}
    for number, category in enumerate(categories):
        objects = truth.get(category["id"])
        if not objects:
            continue  # -1 whatever was found
        detections = [
            {**x, "id": i, "area": x["bbox"][2] * x["bbox"][3], "iscrowd": 0}
            for i, x in enumerate(found.get(category["id"], []), start=1)
        ]
        used = sorted({x["image_id"] for x in (*objects, *detections)})
        some = [images[i] for i in used]
        part = COCOeval(
            index_coco(some, [dict(x) for x in objects], [category]),
            index_coco(some, detections, [category]),
            "bbox",
        )
        with contextlib.redirect_stdout(io.StringIO()):
            part.evaluate()
            part.accumulate()
        total.eval["precision"][:, :, number] = part.eval["precision"][:, :, 0]
        total.eval["recall"][:, number] = part.eval["recall"][:, 0]
    with contextlib.redirect_stdout(io.StringIO()):
        total.summarize()
    return COCOFigures(
        stats=np.asarray(total.stats),
        precision=total.eval["precision"],
        recall=total.eval["recall"],
    )
