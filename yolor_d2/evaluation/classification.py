"""Multi-label classification of images: average precision by class."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence

import numpy as np

from ..d2.data import MetadataCatalog
from ..d2.evaluation import DatasetEvaluator
from ..d2.utils import comm
from ..datasets.catalog import load_labels
from .ranking import average_precision, chance_average_precision

logger = logging.getLogger(__name__)

# Task of the metrics in the results of an evaluation.
CLASSIFICATION = "classification"


class ClassificationEvaluator(DatasetEvaluator):
    """How well "image_scores" say which classes are in an image.

    A class is present if the image has an object of it. Where it has a crowd region of it alone,
    the image does not count for this class.

    Args:
        items: dataset dicts of all images.
        class_names: K names.
    """

    def __init__(self, items: Sequence[dict], class_names: Sequence[str]):
        self.class_names = list(class_names)
        self.classes = {
            item["image_id"]: [
                (annotation["category_id"], bool(annotation.get("iscrowd", 0)))
                for annotation in item.get("annotations", [])
            ]
            for item in items
        }
        self.reset()

    @classmethod
    def from_dataset(cls, name: str, num_classes: int) -> ClassificationEvaluator:
        """For a registered data set."""
        items = load_labels(name)
        numbers = [str(i) for i in range(num_classes)]
        return cls(items, MetadataCatalog.get(name).get("thing_classes") or numbers)

    def reset(self) -> None:
        self.scores: dict[int | str, np.ndarray] = {}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for given, prediction in zip(inputs, outputs):
            self.scores[given["image_id"]] = prediction["image_scores"].float().cpu().numpy()

    def truth(self, image_ids: Sequence[int | str]) -> tuple[np.ndarray, np.ndarray]:
        """(N, K) bool: which classes are present, and which images count."""
        present = np.zeros((len(image_ids), len(self.class_names)), dtype=bool)
        crowds = np.zeros_like(present)
        for row, image_id in enumerate(image_ids):
            for label, is_crowd in self.classes[image_id]:
                (crowds if is_crowd else present)[row, label] = True
        return present, present | ~crowds

    def evaluate(self) -> dict | None:
        """In process 0 the task "classification", in percent: "mAP", the mean over the classes that
        are present in an image; "chance_mAP", what a list in random order would have; and the AP of
        each class. {} without images."""
        gathered = comm.gather(self.scores)
        if not comm.is_main_process():
            return None
        by_image = dict(itertools.chain.from_iterable(part.items() for part in gathered))
        if not by_image:
            logger.warning("The evaluator of image classes got no predictions.")
            return {}
        present, counts = self.truth(list(by_image))
        scores = np.stack(list(by_image.values()))
        precisions, chances = [], []
        for label in range(len(self.class_names)):
            rows = counts[:, label]
            relevant = present[rows, label]
            precisions.append(100 * average_precision(scores[rows, label], relevant))
            chances.append(100 * chance_average_precision(len(relevant), int(relevant.sum())))
        metrics = {"mAP": mean_of_known(precisions), "chance_mAP": mean_of_known(chances)}
        logger.info(
            "Image classes: mAP %.3f, by chance %.3f; AP by class: %s",
            *metrics.values(),
            ", ".join(f"{n} {ap:.3f}" for n, ap in zip(self.class_names, precisions)),
        )
        by_class = {f"AP-{name}": ap for name, ap in zip(self.class_names, precisions)}
        return {CLASSIFICATION: {**metrics, **by_class}}


def mean_of_known(values: Sequence[float]) -> float:
    """Mean without NaN; NaN when nothing else is there."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
