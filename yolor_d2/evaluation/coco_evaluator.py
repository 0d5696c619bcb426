"""COCO's metrics of a model's detections in a data set: boxes, and all that `iou_types` has."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from tabulate import tabulate

from ..d2.data import MetadataCatalog
from ..d2.evaluation import DatasetEvaluator
from ..d2.structures import Instances
from ..d2.utils import comm
from ..datasets.annotations import Annotations
from ..datasets.coco_file import write_dataset_file
from ..datasets.coco_json import collector_paused
from ..datasets.prepared_copies import hash_file
from ..files.writing import atomic_write
from .coco_files import RESULTS_NAME, Detections, find_places, read_truth
from .coco_metrics import METRICS, COCOMetrics, evaluate, metrics_name, write_metrics
from .iou_types import IOU_TYPES

logger = logging.getLogger(__name__)

PREDICTIONS_NAME = "instances_predictions.pth"


class ImagePredictions(NamedTuple):
    """Predictions for one image, D detections.

    Attributes:
        image_id: as the input has it.
        rows: (D, 6) see `to_rows`.
        values: D values of a record for each of `IOU_TYPES` that the model gives.
    """

    image_id: int
    rows: np.ndarray
    values: Mapping[str, list]


@dataclass(frozen=True)
class Collected:
    """Predictions for I images, D detections in all.

    Attributes:
        image_ids: I ids, as the inputs have them.
        counts: (I,) detections of each image.
        boxes: (D, 4) float32 x, y, width, height in pixels.
        scores: (D,).
        labels: (D,) int64 classes from 0.
        values: D values of a record for each of `IOU_TYPES` that the model gives.
    """

    image_ids: list[int]
    counts: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    values: Mapping[str, list]

    def records(self) -> list[dict]:
        """A dict for each image, as Detectron2 keeps them: "image_id" and, in "instances", COCO's
        records, whose categories are numbers of classes."""
        keys = [IOU_TYPES[name].key for name in self.values]
        owners = np.repeat(self.image_ids, self.counts).tolist()
        columns = (owners, self.labels.tolist(), self.boxes.tolist(), self.scores.tolist())
        names = ("image_id", "category_id", "bbox", "score", *keys)
        rows = (dict(zip(names, row)) for row in zip(*columns, *self.values.values()))
        return [
            {"image_id": image_id, "instances": [next(rows) for _ in range(count)]}
            for image_id, count in zip(self.image_ids, self.counts.tolist())
        ]


def collect(images: Iterable[ImagePredictions]) -> Collected:
    """Put images together.

    Args:
        images: one that comes again, as samplers that give every process as many images let it,
            counts once.

    Raises:
        ValueError: when not all have the same kinds of values.
    """
    by_id: dict[int, ImagePredictions] = {}
    for image in images:
        by_id.setdefault(image.image_id, image)
    kinds = sorted({tuple(image.values) for image in by_id.values()})
    if len(kinds) > 1:
        fields = [[IOU_TYPES[name].field for name in names] for names in kinds]
        raise ValueError(
            f"the instances of some images have the fields {fields[0]}, of others "
            f"{fields[1]}, so that they cannot be evaluated together"
        )
    rows = np.concatenate([np.empty((0, 6), np.float32), *(x.rows for x in by_id.values())])
    boxes = rows[:, :4].copy()
    boxes[:, 2:] -= boxes[:, :2]
    return Collected(
        image_ids=list(by_id),
        counts=np.array([len(x.rows) for x in by_id.values()], dtype=np.int64),
        boxes=boxes,
        scores=rows[:, 4],
        labels=rows[:, 5].astype(np.int64),
        values={
            name: [value for image in by_id.values() for value in image.values[name]]
            for name in (kinds[0] if kinds else ())
        },
    )


def to_rows(instances: Instances) -> torch.Tensor:
    """(M, 6) x1, y1, x2, y2, score, class of M detections, on their device."""
    boxes, scores = instances.pred_boxes.tensor.detach(), instances.scores.detach()
    # Whole numbers up to 2^24 are exact in it.
    kind = torch.promote_types(torch.promote_types(boxes.dtype, scores.dtype), torch.float32)
    columns = (boxes, scores[:, None], instances.pred_classes[:, None])
    return torch.cat([x.to(kind) for x in columns], dim=1)


class COCOEvaluator(DatasetEvaluator):
    """COCO's average precision of boxes and of what else a model gives, see `IOU_TYPES`, with both
    runtimes.

    Process 0 reads the annotations and evaluates what all processes have found.

    Args:
        dataset_name: of a data set. If its metadata name no annotation file in COCO's format, one
            is written into `output_dir`, and they name it from then on.
        output_dir: folder for the detections (RESULTS_NAME, PREDICTIONS_NAME) and what the report
            needs of the metrics (`metrics_name`); None writes nothing.
        options: of `coco_figures.evaluate` for one of `IOU_TYPES`, by its name.

    Raises:
        OSError: when the annotation file cannot be read or written.
        ValueError: when it is not in COCO's format, or there is neither a file nor a folder to
            write one into.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        output_dir: str | None = None,
        options: Mapping[str, Mapping[str, Any]] = {},
    ):
        self.metadata = MetadataCatalog.get(dataset_name)
        self.options = options
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.images: list[ImagePredictions] = []
        if self.metadata.get("json_file") is None:
            if self.output_dir is None:
                raise ValueError(
                    f"data set {dataset_name!r} has no annotation file, and there is no output_dir "
                    "to write one into"
                )
            self.metadata.json_file = str(write_dataset_file(dataset_name, self.output_dir))
        self.truth: Annotations | None = None
        if comm.is_main_process():
            path = Path(self.metadata.json_file)
            # The hash first: if the file changes in between, it will not fit.
            self.truth_hash = hash_file(path)
            self.truth = read_truth(path)

    def reset(self) -> None:
        self.images = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        if not outputs:
            return
        rows = [to_rows(output["instances"]) for output in outputs]
        ends = np.cumsum([len(x) for x in rows])[:-1]
        # One transfer for all fields of all images.
        parts = np.split(torch.cat(rows).cpu().numpy(), ends)
        for given, part, output in zip(inputs, parts, outputs):
            instances = output["instances"]
            values = {
                name: kind.encode(instances.get(kind.field))
                for name, kind in IOU_TYPES.items()
                if instances.has(kind.field)
            }
            self.images.append(ImagePredictions(given["image_id"], part, values))

    def evaluate(self) -> dict:
        """The task "bbox", and each of `IOU_TYPES` that the model gives, with METRICS and the AP of
        each class, in percent, NaN where nothing counts; {} without images or annotations, and in
        all processes but process 0."""
        gathered = comm.gather(self.images)
        if self.truth is None:
            return {}
        collected = collect(image for images in gathered for image in images)
        if not collected.image_ids:
            logger.warning("The evaluator got no images.")
            return {}
        categories = self.original_ids(collected.labels)
        results_hash = None if self.output_dir is None else self.write(collected, categories)
        if not len(self.truth.ids):
            logger.info("There are no annotations to evaluate with.")
            return {}
        if not len(collected.scores):
            logger.warning("The model found nothing.")
            kinds = ("bbox", *collected.values)
            return {kind: dict.fromkeys(METRICS[kind], math.nan) for kind in kinds}
        image_ids = np.repeat(np.array(collected.image_ids, dtype=np.int64), collected.counts)
        detections = Detections(
            images=find_places(image_ids, self.truth.image_ids, "image_id"),
            labels=find_places(categories, self.truth.category_ids, "category_id"),
            boxes=collected.boxes.astype(np.float64),
            scores=collected.scores.astype(np.float64),
        )
        results = {}
        for kind in ("bbox", *collected.values):
            metrics = self.compare(kind, detections, collected.values.get(kind, []))
            if self.output_dir is not None and results_hash is not None:
                path = self.output_dir / metrics_name(kind)
                write_metrics(path, metrics, annotations=self.truth_hash, results=results_hash)
            results[kind] = self.summarise(metrics)
        return results

    def compare(self, kind: str, detections: Detections, values: list) -> COCOMetrics:
        """The metrics of boxes, or of one of `IOU_TYPES`.

        Args:
            kind: its name.
            detections: D of them.
            values: D values of its key.
        """
        assert self.truth is not None
        if kind == "bbox":
            return evaluate(self.truth, detections)
        iou_type = IOU_TYPES[kind]
        described = (
            iou_type.describe_objects(Path(self.metadata.json_file), self.truth),
            iou_type.describe_detections(values),
        )
        options = {**iou_type.options(*described), **self.options.get(kind, {})}
        return evaluate(self.truth, detections, kind, *described, **options)

    def original_ids(self, labels: np.ndarray) -> np.ndarray:
        """(D,) category ids of the annotation file in place of numbers of classes.

        Raises:
            ValueError: when the data set has no such class.
        """
        numbers = self.metadata.get("thing_dataset_id_to_contiguous_id")
        if numbers is None:
            return labels
        classes = np.array(sorted(numbers.values()), dtype=np.int64)
        ids = np.array(sorted(numbers, key=numbers.__getitem__), dtype=np.int64)
        return ids[find_places(labels, classes, "class")]

    @collector_paused()
    def write(self, collected: Collected, categories: np.ndarray) -> str:
        """Write the detections, each file whole or not at all.

        Returns:
            SHA-256 of the results.
        """
        assert self.output_dir is not None
        self.output_dir.mkdir(parents=True, exist_ok=True)
        images = collected.records()
        with atomic_write(self.output_dir / PREDICTIONS_NAME) as file:
            torch.save(images, file)
        digest, encoder = hashlib.sha256(), msgspec.json.Encoder()
        path = self.output_dir / RESULTS_NAME
        logger.info("Saving results to %s", path)
        with atomic_write(path) as file:
            between, ids = b"[", iter(categories.tolist())
            for image in images:
                for record in image["instances"]:
                    record["category_id"] = next(ids)
                if image["instances"]:
                    block = between + encoder.encode(image["instances"])[1:-1]
                    digest.update(block)
                    file.write(block)
                    between = b",\n"
            end = b"]" if between != b"[" else b"[]"
            digest.update(end)
            file.write(end)
        return digest.hexdigest()

    def summarise(self, done: COCOMetrics) -> dict[str, float]:
        """Metrics in percent, which are also written to the log.

        Raises:
            ValueError: when the names of the classes are not as many as the categories.
        """
        summary = done.summary()
        kind, metrics = done.iou_type, METRICS[done.iou_type]
        values = {name: summary[name] for name in metrics}
        table = tabulate([values.values()], metrics, "pipe", floatfmt=".3f", stralign="center")
        logger.info("Metrics of %s in percent:\n%s", kind, table)
        if not all(map(math.isfinite, values.values())):
            logger.info("NaN stands for metrics without any object to count.")
        names = self.metadata.get("thing_classes")
        if names is None or len(names) <= 1:
            return values
        precisions = done.class_precisions()
        if len(names) != len(precisions):
            raise ValueError(
                f"data set {self.metadata.name!r} has the {len(names)} classes {names}, but its "
                f"annotation file {self.metadata.json_file!r} has {len(precisions)} categories"
            )
        by_class = dict(zip(names, precisions))
        logger.info("AP of %s by category:\n%s", kind, class_table(by_class))
        return {**values, **{f"AP-{name}": value for name, value in by_class.items()}}


def class_table(by_class: dict[str, float], pairs_per_row: int = 3) -> str:
    cells: Sequence = [cell for item in by_class.items() for cell in item]
    width = 2 * min(pairs_per_row, len(by_class))
    rows = [cells[i : i + width] for i in range(0, len(cells), width)]
    return tabulate(rows, ["category", "AP"] * (width // 2), "pipe", floatfmt=".3f")
