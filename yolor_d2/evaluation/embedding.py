"""Embeddings of detections: is the same individual found again in other images?"""

from __future__ import annotations

import logging

import numpy as np

from ..d2.structures import BoxMode
from ..data.dataset import IDENTITY_KEY
from .classification import average_precision
from .gathered import GatheringEvaluator

logger = logging.getLogger(__name__)

# A detection shows an object if they overlap by this much.
LEAST_IOU = 0.5


def pairwise_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(A, 4) and (B, 4) xyxy to (A, B)."""
    corner = np.maximum(first[:, None, :2], second[None, :, :2])
    opposite = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(opposite - corner, 0, None).prod(axis=2)
    areas = [(x[:, 2:] - x[:, :2]).prod(axis=1) for x in (first, second)]
    union = areas[0][:, None] + areas[1][None] - shared
    return shared / np.maximum(union, 1e-12)


def retrieval(vectors: np.ndarray, identities: np.ndarray, images: np.ndarray) -> dict[str, float]:
    """Search every object among those of the other images, by cosine.

    Args:
        vectors: (M, D) of length 1.
        identities: (M,) individuals.
        images: (M,) images.

    Returns:
        In percent, over the objects that another image shows too: "rank1", how often the nearest
        is the same individual; "mAP"; "rank1-chance", how often a random one would be. Over all
        pairs of different images: "AUC", the probability that two of one individual are nearer
        than two of different ones; 50 is chance. NaN where there is nothing to compare.
    """
    similar = vectors @ vectors.T
    same = identities[:, None] == identities[None]
    other = images[:, None] != images[None]
    rank1, precision, chance = [], [], []
    for i in range(len(vectors)):
        relevant = same[i, other[i]]
        if relevant.any():
            scores = similar[i, other[i]]
            rank1.append(relevant[scores.argmax()])
            precision.append(average_precision(scores, relevant))
            chance.append(relevant.mean())

    def percent(values: list) -> float:
        return 100 * float(np.mean(values)) if values else float("nan")

    pairs = np.triu(other, 1)
    return {
        "rank1": percent(rank1),
        "rank1-chance": percent(chance),
        "mAP": percent(precision),
        "AUC": 100 * area_under_curve(similar[pairs], same[pairs]),
    }


def area_under_curve(scores: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive scores above a negative; ties count half (Mann-Whitney)."""
    count = int(positive.sum())
    if count in (0, len(positive)):
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    above = ranks[positive].sum() - count * (count + 1) / 2
    return float(above / (count * (len(positive) - count)))


class EmbeddingEvaluator(GatheringEvaluator):
    """Task "embedding" from the `pred_embeddings` of a model, see `retrieval`.

    Objects are those of the annotations with an identity; each is given the vector of the
    detection that overlaps it most, by `LEAST_IOU` at least. "found" is the share of objects that
    have one; the others are left out of the comparison.
    """

    def record(self, given: dict, found: dict) -> dict:
        instances = found["instances"].to("cpu")
        if not instances.has("pred_embeddings"):
            raise KeyError("the model gives no 'pred_embeddings': its embedding branch is off")
        objects = [
            x
            for x in self.truth[given["image_id"]].get("annotations", [])
            if IDENTITY_KEY in x and not x.get("iscrowd", 0)
        ]
        identities, vectors = [], []
        boxes = instances.pred_boxes.tensor.numpy().astype(np.float64)
        for x in objects:
            if not len(boxes):
                break
            box = BoxMode.convert(x["bbox"], BoxMode(int(x["bbox_mode"])), BoxMode.XYXY_ABS)
            overlap = pairwise_iou(np.array([box], dtype=np.float64), boxes)[0]
            if overlap.max() >= LEAST_IOU:
                identities.append(str(x[IDENTITY_KEY]))
                vectors.append(instances.pred_embeddings[int(overlap.argmax())].numpy())
        return {"objects": len(objects), "identities": identities, "vectors": vectors}

    def figures(self, records: list[dict]) -> dict:
        total = sum(record["objects"] for record in records)
        vectors = [vector for record in records for vector in record["vectors"]]
        if not vectors:
            logger.warning("Embeddings: none of %d objects with an identity was found", total)
            names = ("rank1", "rank1-chance", "mAP", "AUC")
            return {"embedding": {**dict.fromkeys(names, float("nan")), "found": 0.0}}
        identities = np.array([name for record in records for name in record["identities"]])
        images = np.repeat(np.arange(len(records)), [len(r["vectors"]) for r in records])
        figures = retrieval(np.stack(vectors), identities, images)
        figures["found"] = 100 * len(vectors) / total
        logger.info(
            "Embeddings of %d objects: rank-1 %.2f %% (chance %.2f %%), mAP %.2f %%, AUC %.2f %%; "
            "%.1f %% of the objects were found",
            *(len(vectors), figures["rank1"], figures["rank1-chance"], figures["mAP"]),
            *(figures["AUC"], figures["found"]),
        )
        return {"embedding": figures}
