"""Multi-label image classification: mean average precision over the classes."""

from __future__ import annotations

import logging

import numpy as np

from .gathered import GatheringEvaluator

logger = logging.getLogger(__name__)


def average_precision(scores: np.ndarray, relevant: np.ndarray) -> float:
    """Mean precision at the ranks of the relevant ones; NaN when there are none.

    Ties count as one rank, so that the order of the input does not matter.

    Args:
        scores: (N,) higher is better.
        relevant: (N,) bool.
    """
    if not relevant.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    scores, relevant = scores[order], relevant[order]
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # last rank of each score
    hits = np.cumsum(relevant)[last]
    precision = hits / (last + 1)
    return float((precision * np.diff(hits, prepend=0)).sum() / relevant.sum())


class ClassificationEvaluator(GatheringEvaluator):
    """Task "classification" from the "image_scores" of a model, in percent.

    An image shows the classes of its boxes. A class that it has as a crowd region only counts
    neither as shown nor as not shown. "mAP" is the mean over classes with a positive image, and
    "mAP-chance" what a random order is expected to give about: the share of positive images.
    """

    def record(self, given: dict, found: dict) -> dict:
        if "image_scores" not in found:
            raise KeyError("the model gives no 'image_scores': its classification branch is off")
        return {"scores": found["image_scores"].cpu().numpy()}

    def figures(self, records: list[dict]) -> dict:
        scores = np.stack([record["scores"] for record in records])  # (N, K)
        shown = np.zeros(scores.shape, dtype=bool)
        counted = np.ones(scores.shape, dtype=bool)
        for i, record in enumerate(records):
            annotations = self.truth[record["image_id"]].get("annotations", [])
            crowds = {x["category_id"] for x in annotations if x.get("iscrowd", 0)}
            objects = {x["category_id"] for x in annotations if not x.get("iscrowd", 0)}
            counted[i, list(crowds - objects)] = False
            shown[i, list(objects)] = True
        found, chance = [], []
        for k in range(scores.shape[1]):
            rows = counted[:, k]
            if shown[rows, k].any():
                found.append(average_precision(scores[rows, k], shown[rows, k]))
                chance.append(shown[rows, k].mean())
        if not found:
            return {"classification": {"mAP": float("nan"), "mAP-chance": float("nan")}}
        figures = {"mAP": 100 * float(np.mean(found)), "mAP-chance": 100 * float(np.mean(chance))}
        logger.info(
            "Image classification: mAP %.2f %% over %d classes and %d images (chance %.2f %%)",
            *(figures["mAP"], len(found), len(records), figures["mAP-chance"]),
        )
        return {"classification": figures}
