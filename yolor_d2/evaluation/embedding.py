"""Embeddings of detections: is the same individual found again, and are two told apart?"""

from __future__ import annotations

import logging

import numpy as np
import torch

from ..d2.evaluation import DatasetEvaluator
from ..d2.structures import Instances
from ..d2.utils import comm
from ..datasets.annotations import IDENTITY_KEY, NO_IDENTITY
from ..datasets.catalog import load_ground_truth
from ..datasets.ground_truth import GroundTruth
from .classification import mean_of_known
from .ranking import average_precision, chance_average_precision, roc

logger = logging.getLogger(__name__)

# Task of the metrics in the results of an evaluation.
EMBEDDING = "embedding"
# An object is found by a detection whose IoU with it is at least this.
MIN_IOU = 0.5
# Fraction of the pairs of different individuals that verification may take for one, as in JDE.
FALSE_RATE = 0.1
# Bins of the cosine between two embeddings, over [-1, 1].
BINS = 20_000


def match_objects(instances: Instances, boxes: torch.Tensor) -> tuple[list[int], list[int]]:
    """Detections that find objects, best first: each takes the object that it overlaps most among
    those that are left.

    Args:
        instances: detections with pred_boxes and scores, of any class.
        boxes: (M, 4) xyxy of the objects.

    Returns:
        Numbers of detections, and those of the objects that they find.
    """
    # Here, as it takes a second and training has no use for it.
    from torchvision.ops import box_iou

    if len(instances) == 0 or len(boxes) == 0:
        return [], []
    overlaps = box_iou(instances.pred_boxes.tensor, boxes)  # (D, M)
    detections, objects = [], []
    for number in instances.scores.argsort(descending=True, stable=True).tolist():
        value, best = overlaps[number].max(dim=0)
        if value >= MIN_IOU:
            detections.append(number)
            objects.append(int(best))
            overlaps[:, best] = -1
    return detections, objects


class EmbeddingEvaluator(DatasetEvaluator):
    """How well "pred_embeddings" tell individuals apart.

    Every object with an identity that a detection finds takes part with the embedding of that
    detection. Each is a query once, among all such objects of other images.

    Args:
        truth: the objects of all images, with their identities.
    """

    def __init__(self, truth: GroundTruth):
        self.truth = truth
        self.places = {truth.image_id(i): i for i in range(len(truth))}
        self.num_objects = int((truth.identities != NO_IDENTITY).sum())
        if self.num_objects == 0:
            logger.warning("No object to evaluate on has the key %r", IDENTITY_KEY)
        self.reset()

    @classmethod
    def from_dataset(cls, name: str) -> EmbeddingEvaluator:
        """For a registered data set."""
        return cls(load_ground_truth(name))

    def reset(self) -> None:
        # By image, as a sampler might give an image to two processes: embeddings (F, D), identities
        # and classes (F,) of the objects that were found.
        self.by_image: dict[int | str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for given, output in zip(inputs, outputs):
            instances = output["instances"].to("cpu")
            rows = self.truth.rows(self.places[given["image_id"]])
            boxes, labels, identities = (
                x[rows] for x in (self.truth.boxes, self.truth.labels, self.truth.identities)
            )
            known = identities != NO_IDENTITY
            detections, objects = match_objects(
                instances, torch.from_numpy(boxes[known].astype(np.float32))
            )
            vectors = instances.pred_embeddings[detections].float().numpy()
            self.by_image[given["image_id"]] = (
                vectors,
                identities[known][objects],
                labels[known][objects],
            )

    def evaluate(self) -> dict | None:
        """In process 0 the task "embedding", in percent: see `retrieval_metrics`, and "found", the
        fraction of the objects with an identity that detections find. {} without any such
        object."""
        gathered = comm.gather(self.by_image)
        if not comm.is_main_process():
            return None
        by_image = {image: values for part in gathered for image, values in part.items()}
        rows = [values for values in by_image.values() if len(values[1])]
        if not by_image or self.num_objects == 0:
            return {}
        metrics = {"found": 100 * sum(len(x[1]) for x in rows) / self.num_objects}
        if rows:
            vectors, identities, labels = (np.concatenate(x) for x in zip(*rows))
            images = np.repeat(np.arange(len(rows)), [len(x[1]) for x in rows])
            metrics.update(retrieval_metrics(vectors, identities, labels, images))
        logger.info("Embeddings: %s", ", ".join(f"{k} {v:.3f}" for k, v in metrics.items()))
        return {EMBEDDING: metrics}


def retrieval_metrics(
    vectors: np.ndarray, identities: np.ndarray, labels: np.ndarray, images: np.ndarray
) -> dict[str, float]:
    """Retrieval and verification by the cosine of embeddings, objects of one image apart.

    Args:
        vectors: (F, D) of length 1.
        identities: (F,).
        labels: (F,) classes, for a chance level.
        images: (F,) numbers of images.

    Returns:
        In percent, NaN where nothing counts. Over queries that another image has an object of the
        same individual for: "rank1", the fraction whose nearest is one, and "mAP"; the same as
        lists in random order would have it, "chance_rank1" and "chance_mAP"; and "class_rank1", as
        lists would that know the class but not the individual. Over all pairs: "AUC", the area
        under the ROC curve (chance: 50), and "TPR@FAR0.1" (chance: 10), see `FALSE_RATE`.
    """
    rank1, precision, chance_rank1, chance_map, class_rank1 = [], [], [], [], []
    same_pairs, different_pairs = np.zeros(BINS), np.zeros(BINS)
    for query in range(len(vectors)):
        gallery = images != images[query]
        relevant = identities[gallery] == identities[query]
        cosines = vectors[gallery] @ vectors[query]
        bins = ((cosines + 1) / 2 * BINS).astype(np.int64).clip(0, BINS - 1)
        # Every pair comes twice, once from either side.
        same_pairs += np.bincount(bins[relevant], minlength=BINS)
        different_pairs += np.bincount(bins[~relevant], minlength=BINS)
        if not relevant.any():
            continue
        # Among equally near ones chance decides.
        rank1.append(relevant[cosines == cosines.max()].mean())
        precision.append(average_precision(cosines, relevant))
        chance_rank1.append(relevant.mean())
        chance_map.append(chance_average_precision(len(relevant), int(relevant.sum())))
        class_rank1.append(relevant[labels[gallery] == labels[query]].mean())
    area, true_rate = roc(same_pairs, different_pairs, FALSE_RATE)
    metrics = {
        "rank1": mean_of_known(rank1),
        "mAP": mean_of_known(precision),
        "AUC": area,
        f"TPR@FAR{FALSE_RATE}": true_rate,
        "chance_rank1": mean_of_known(chance_rank1),
        "chance_mAP": mean_of_known(chance_map),
        "class_rank1": mean_of_known(class_rank1),
    }
    return {name: 100 * value for name, value in metrics.items()}
