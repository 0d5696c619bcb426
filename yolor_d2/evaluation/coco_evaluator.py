"""COCO's figures of the boxes that a model finds in a data set."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from tabulate import tabulate

from ..checkpoint.files import atomic_write
from ..d2.data import MetadataCatalog
from ..d2.evaluation import DatasetEvaluator
from ..d2.structures import Instances
from ..d2.utils import comm
from ..data.annotations import Annotations, collector_paused, hash_file
from .coco_figures import (
    FIGURES_NAME,
    NAMES,
    COCOFigures,
    evaluate_boxes,
    write_figures,
)
from .coco_files import RESULTS_NAME, Detections, find_places, read_truth
from .dataset_file import write_dataset_file

logger = logging.getLogger(__name__)

# The figures that are reported: those of precision.
METRICS = NAMES[:6]
PREDICTIONS_NAME = "instances_predictions.pth"
# Fields of instances that would have to be evaluated too.
UNKNOWN_FIELDS = ("pred_masks", "pred_keypoints")


@dataclass(frozen=True)
class Collected:
    """What was found in I images, D detections in all.

    Attributes:
        image_ids: I ids, as the inputs have them.
        counts: (I,) detections of each image.
        boxes: (D, 4) float32 x, y, width, height in pixels.
        scores: (D,).
        labels: (D,) int64 classes from 0.
    """

    image_ids: list[int]
    counts: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def records(self) -> list[dict]:
        """A dict for each image, as Detectron2 keeps them: "image_id" and, in "instances", COCO's
        records, whose categories are numbers of classes."""
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist())
        return [
            {
                "image_id": image_id,
                "instances": [
                    {"image_id": image_id, "category_id": label, "bbox": box, "score": score}
                    for _, (box, score, label) in zip(range(count), rows)
                ],
            }
            for image_id, count in zip(self.image_ids, self.counts.tolist())
        ]


def collect(images: Iterable[tuple[int, np.ndarray]]) -> Collected:
    """Put images together.

    Args:
        images: id and (M, 6) rows of each, see `to_rows`. One that comes again, as samplers that
            give every process as many images let it, counts once.
    """
    by_id: dict[int, np.ndarray] = {}
    for image_id, rows in images:
        by_id.setdefault(image_id, rows)
    rows = np.concatenate([np.empty((0, 6), np.float32), *by_id.values()])
    boxes = rows[:, :4].copy()
    boxes[:, 2:] -= boxes[:, :2]
    return Collected(
        image_ids=list(by_id),
        counts=np.array([len(x) for x in by_id.values()], dtype=np.int64),
        boxes=boxes,
        scores=rows[:, 4],
        labels=rows[:, 5].astype(np.int64),
    )


def to_rows(instances: Instances) -> torch.Tensor:
    """(M, 6) x1, y1, x2, y2, score, class of M detections, on their device.

    Raises:
        NotImplementedError: when there is more than boxes.
    """
    others = [name for name in UNKNOWN_FIELDS if instances.has(name)]
    if others:
        raise NotImplementedError(f"yolor_d2 evaluates boxes only, not {others}")
    boxes, scores = instances.pred_boxes.tensor.detach(), instances.scores.detach()
    # Whole numbers up to 2^24 are exact in it.
    kind = torch.promote_types(torch.promote_types(boxes.dtype, scores.dtype), torch.float32)
    columns = (boxes, scores[:, None], instances.pred_classes[:, None])
    return torch.cat([x.to(kind) for x in columns], dim=1)


class COCOEvaluator(DatasetEvaluator):
    """COCO's average precision of boxes, with both runtimes.

    Process 0 reads the annotations and evaluates what all processes have found.

    Args:
        dataset_name: of a data set. If its metadata name no annotation file in COCO's format, one
            is written into `output_dir`, and they name it from then on.
        output_dir: folder for the detections (RESULTS_NAME, PREDICTIONS_NAME) and what the report
            needs of the figures (FIGURES_NAME); None writes nothing.

    Raises:
        OSError: when the annotation file cannot be read or written.
        ValueError: when it is not in COCO's format, or there is neither a file nor a folder to
            write one into.
    """

    def __init__(self, dataset_name: str, *, output_dir: str | None = None):
        self.metadata = MetadataCatalog.get(dataset_name)
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.images: list[tuple[int, np.ndarray]] = []
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
        self.images += [(given["image_id"], part) for given, part in zip(inputs, parts)]

    def evaluate(self) -> dict:
        """The task "bbox" with METRICS and the AP of each class, in percent, NaN where nothing
        counts; {} without images or annotations, and in all processes but process 0."""
        gathered = comm.gather(self.images)
        if self.truth is None:
            return {}
        found = collect(image for images in gathered for image in images)
        if not found.image_ids:
            logger.warning("The evaluator got no images.")
            return {}
        categories = self.original_ids(found.labels)
        results_hash = None if self.output_dir is None else self.write(found, categories)
        if not len(self.truth.ids):
            logger.info("There are no annotations to evaluate with.")
            return {}
        if not len(found.scores):
            logger.warning("The model found nothing.")
            return {"bbox": dict.fromkeys(METRICS, math.nan)}
        image_ids = np.repeat(np.array(found.image_ids, dtype=np.int64), found.counts)
        detections = Detections(
            images=find_places(image_ids, self.truth.image_ids, "image_id"),
            labels=find_places(categories, self.truth.category_ids, "category_id"),
            boxes=found.boxes.astype(np.float64),
            scores=found.scores.astype(np.float64),
        )
        figures = evaluate_boxes(self.truth, detections)
        if self.output_dir is not None and results_hash is not None:
            path = self.output_dir / FIGURES_NAME
            write_figures(path, figures, annotations=self.truth_hash, results=results_hash)
        return {"bbox": self.figures(figures)}

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
    def write(self, found: Collected, categories: np.ndarray) -> str:
        """Write the detections, each file whole or not at all.

        Returns:
            SHA-256 of the results.
        """
        assert self.output_dir is not None
        self.output_dir.mkdir(parents=True, exist_ok=True)
        images = found.records()
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

    def figures(self, done: COCOFigures) -> dict[str, float]:
        """Figures in percent, which are also written to the log.

        Raises:
            ValueError: when the names of the classes are not as many as the categories.
        """
        summary = done.summary()
        figures = {name: summary[name] for name in METRICS}
        table = tabulate([figures.values()], METRICS, "pipe", floatfmt=".3f", stralign="center")
        logger.info("Figures of bbox in percent:\n%s", table)
        if not all(map(math.isfinite, figures.values())):
            logger.info("NaN stands for figures without any object to count.")
        names = self.metadata.get("thing_classes")
        if names is None or len(names) <= 1:
            return figures
        precisions = done.class_precisions()
        if len(names) != len(precisions):
            raise ValueError(
                f"data set {self.metadata.name!r} has the {len(names)} classes {names}, but its "
                f"annotation file {self.metadata.json_file!r} has {len(precisions)} categories"
            )
        by_class = dict(zip(names, precisions))
        logger.info("AP of bbox by category:\n%s", class_table(by_class))
        return {**figures, **{f"AP-{name}": value for name, value in by_class.items()}}


def class_table(by_class: dict[str, float], pairs_per_row: int = 3) -> str:
    cells: Sequence = [cell for item in by_class.items() for cell in item]
    width = 2 * min(pairs_per_row, len(by_class))
    rows = [cells[i : i + width] for i in range(0, len(cells), width)]
    return tabulate(rows, ["category", "AP"] * (width // 2), "pipe", floatfmt=".3f")
