"""COCO's metrics, all together and of every class, by the C++ of faster-coco-eval."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from faster_coco_eval.core.faster_eval_api import COCOeval_faster
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..datasets.annotations import Annotations
from ..datasets.coco_json import collector_paused
from ..files.writing import atomic_write
from .coco_files import Detections
from .ranking import group_by_label

logger = logging.getLogger(__name__)

# The metrics of `COCOeval.stats`, in its order.
NAMES = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)
# By what is compared; the first ones of each, those of precision, are reported.
STATS = {
    "bbox": NAMES,
    "segm": NAMES,
    "keypoints": (
        *("AP", "AP50", "AP75", "APm", "APl"),
        *("AR", "AR50", "AR75", "ARm", "ARl"),
    ),
}
METRICS = {kind: tuple(x for x in names if x.startswith("AP")) for kind, names in STATS.items()}
# Beside the detections: what was accumulated for their boxes.
METRICS_NAME = "coco_figures.safetensors"
# Format of that file; the number changes with its form and with what is computed.
FORMAT = "yolor_d2 COCO figures 1"
ARRAYS = ("stats", "precision", "recall")


@dataclass(frozen=True)
class COCOMetrics:
    """What `COCOeval` has accumulated; -1 where a class has no object.

    Attributes:
        stats: see STATS, (12,) of boxes, in 0-1.
        precision: (T, R, K, A, M) by IoU threshold, recall, class, range of area (all, small,
            medium, large) and most detections (1, 10, 100).
        recall: (T, K, A, M).
        iou_type: what was compared; keypoints have no small area, and one number of detections, 20.
    """

    stats: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    iou_type: str = "bbox"

    def summary(self) -> dict[str, float]:
        """STATS in percent, NaN where nothing counts."""
        return {name: percent(value) for name, value in zip(STATS[self.iou_type], self.stats)}

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

    def class_precisions(self) -> list[float]:
        """AP of each class in percent, NaN without objects."""
        return [
            mean_percent(self.precision[:, :, number, 0, -1])
            for number in range(self.precision.shape[2])
        ]


def percent(value: float) -> float:
    return 100 * float(value) if value > -1 else float("nan")


def mean_percent(values: np.ndarray) -> float:
    """Mean of what counts, as `COCOeval.summarize` takes it; NaN for nothing."""
    valid = values[values > -1]
    return 100 * float(valid.mean()) if valid.size else float("nan")


class Records:
    """Objects or detections of one class in the form in which `COCOeval` asks for them.

    Args:
        images: numbers of the images that count.
        records: in the order of the files.
    """

    # What `COCOeval` asks for where it compares keypoints.
    cat_img_map: ClassVar = {0: ()}

    def __init__(self, images: list[int], records: list[dict]):
        self.images, self.records = images, records

    @property
    def imgs(self) -> dict[int, dict]:
        """Sizes of images, which nothing needs where every mask has its own."""
        return {number: {"height": 0, "width": 0} for number in self.images}

    def getImgIds(self) -> list[int]:
        return self.images

    def getCatIds(self) -> list[int]:
        return [0]

    def getAnnIds(self, **_: object) -> Sequence[int]:
        return range(len(self.records))

    def loadAnns(self, ids: Sequence[int]) -> list[dict]:
        return self.records


def evaluate_boxes(truth: Annotations, predictions: Detections) -> COCOMetrics:
    """`evaluate` for boxes."""
    return evaluate(truth, predictions)


@collector_paused()
def evaluate(
    truth: Annotations,
    predictions: Detections,
    iou_type: str = "bbox",
    objects: Sequence[Mapping[str, Any]] = (),
    detections: Sequence[Mapping[str, Any]] = (),
    **options: Any,
) -> COCOMetrics:
    """The metrics of `COCOeval`, whose memory is kept small: each class is matched by itself.

    They are those of pycocotools. An object without an area has that of its box.

    Args:
        truth: M objects of the data set.
        found: D detections there; it may be none.
        iou_type: what is compared, "bbox" or one of `iou_types.IOU_TYPES`.
        objects: M times what `COCOeval` needs of an object beside, see `iou_types.IoUType`.
        detections: D times the same of a detection.
        options: of `COCOeval_faster`.
    """
    lines: list[str] = []
    total = COCOeval_faster(iouType=iou_type, print_function=lines.append, **options)
    thresholds, recalls = len(total.params.iouThrs), len(total.params.recThrs)
    num_classes = len(truth.category_ids)
    per_class = (num_classes, len(total.params.areaRng), len(total.params.maxDets))
    precision = np.full((thresholds, recalls, *per_class), -1.0)
    recall = np.full((thresholds, *per_class), -1.0)

    truth_images = truth.image_rows
    areas = np.where(np.isnan(truth.areas), truth.boxes[:, 2] * truth.boxes[:, 3], truth.areas)
    # Ids only say what was matched. Here they are numbers from 1, as C++ takes a negative one for
    # none; 0 stays, which pycocotools takes for none too.
    ids = np.where(truth.ids == 0, 0, np.arange(1, len(truth.ids) + 1))
    objects_of = group_by_label(truth.labels, num_classes)
    predictions_of = group_by_label(predictions.labels, num_classes)
    for label, (some, those) in enumerate(zip(objects_of, predictions_of)):
        if not len(some):
            continue  # -1 whatever was found
        wanted = to_records(truth_images[some], truth.boxes[some], areas[some], ids[some])
        for record, crowd in zip(wanted, truth.crowd[some].tolist()):
            record["iscrowd"] = int(crowd)
        boxes = predictions.boxes[those]
        numbers = np.arange(1, len(those) + 1)
        given = to_records(predictions.images[those], boxes, boxes[:, 2] * boxes[:, 3], numbers)
        for record, score in zip(given, predictions.scores[those].tolist()):
            record["score"] = score
        for records, rows, extras in ((wanted, some, objects), (given, those, detections)):
            for record, row in zip(records, rows.tolist() if extras else ()):
                record |= extras[row]
        images = np.union1d(truth_images[some], predictions.images[those]).tolist()
        part = COCOeval_faster(
            Records(images, wanted),
            Records(images, given),
            iou_type,
            print_function=lambda _: None,
            **options,
        )
        part.evaluate()
        part.accumulate()
        precision[:, :, label] = part.eval["precision"][:, :, 0]
        recall[:, label] = part.eval["recall"][:, 0]
    total.eval = {"precision": precision, "recall": recall}
    total.summarize()
    logger.info("COCO's metrics of %s:\n%s", iou_type, "\n".join(lines))
    stats = np.asarray(total.stats[: len(STATS[iou_type])], dtype=np.float64)
    return COCOMetrics(stats=stats, precision=precision, recall=recall, iou_type=iou_type)


def to_records(
    images: np.ndarray, boxes: np.ndarray, areas: np.ndarray, ids: np.ndarray
) -> list[dict]:
    """Boxes of one class in COCO's form."""
    return [
        {"id": number, "image_id": image, "category_id": 0, "bbox": box, "area": area}
        for number, image, box, area in zip(
            ids.tolist(), images.tolist(), boxes.tolist(), areas.tolist()
        )
    ]


# ---- Kept beside the detections


def hash_content(content: bytes) -> str:
    """SHA-256 of what a file holds."""
    return hashlib.sha256(content).hexdigest()


def metrics_name(iou_type: str) -> str:
    """File of kept metrics, beside the detections."""
    if iou_type == "bbox":
        return METRICS_NAME
    name = Path(METRICS_NAME)
    return f"{name.stem}_{iou_type}{name.suffix}"


def about_metrics(iou_type: str, annotations: str, results: str) -> dict[str, str]:
    """Metadata of a file of kept metrics."""
    kind = FORMAT if iou_type == "bbox" else f"{FORMAT} {iou_type}"
    return {"format": kind, "annotations": annotations, "results": results}


def write_metrics(path: Path, metrics: COCOMetrics, *, annotations: str, results: str) -> None:
    """Keep metrics, whole or not at all.

    Args:
        path: safetensors file.
        metrics: what is kept.
        annotations, results: SHA-256 of the files that they are about.

    Raises:
        OSError: when writing fails.
    """
    arrays = {name: np.ascontiguousarray(getattr(metrics, name)) for name in ARRAYS}
    about = about_metrics(metrics.iou_type, annotations, results)
    with atomic_write(path) as file:
        file.write(save(arrays, about))


def read_kept_metrics(
    path: Path, *, annotations: str, results: str, iou_type: str = "bbox"
) -> COCOMetrics | None:
    """Metrics as `write_metrics` has kept them.

    Returns:
        None when there are none, when they are about files of other content, or when the file is
        damaged, which is logged.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            if file.metadata() != about_metrics(iou_type, annotations, results):
                logger.info("%s is about other files", path)
                return None
            arrays = {name: file.get_tensor(name) for name in ARRAYS}
    except (SafetensorError, OSError) as error:
        logger.warning("%s cannot be read, so the metrics are computed again: %s", path, error)
        return None
    return COCOMetrics(**arrays, iou_type=iou_type)
