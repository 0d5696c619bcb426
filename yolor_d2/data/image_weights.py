"""Drawing images whose classes are still detected badly more often."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def class_weights(counts: np.ndarray, class_ap: Sequence[float]) -> np.ndarray:
    """Weight of an object of each class: (1 - AP)^2 over the number of such objects.

    Args:
        counts: (K,) objects per class in the training set.
        class_ap: K average precisions in 0-1.

    Returns:
        (K,) weights, 0 for classes without objects.
    """
    gaps = (1 - np.asarray(class_ap, dtype=np.float64)) ** 2
    return np.divide(gaps, counts, out=np.zeros(len(counts)), where=counts > 0)


def image_weights(
    labels: Sequence[np.ndarray], num_classes: int, class_ap: Sequence[float]
) -> np.ndarray:
    """Probability of each image: the sum of its objects' weights, normalised.

    Args:
        labels: classes of the objects of each image.
        num_classes: classes K.
        class_ap: K average precisions in 0-1.

    Returns:
        (N,) probabilities. Images without objects get 0; if all weights are 0, as with a perfect
        model, all images get the same.
    """
    counts = np.stack([np.bincount(x, minlength=num_classes) for x in labels])  # (N, K)
    weights = counts @ class_weights(counts.sum(axis=0), class_ap)
    total = weights.sum()
    return weights / total if total > 0 else np.full(len(labels), 1 / len(labels))


def read_class_ap(results: dict, names: Sequence[str]) -> list[float] | None:
    """Average precision of each class in 0-1 from an evaluation.

    Args:
        results: by task, or by data set and task; the first data set with metrics counts.
        names: names of the classes.

    Returns:
        None when nothing was evaluated. A class without a value gets the mean of all.
    """
    for tasks in (results, *results.values()):
        if "bbox" in tasks:
            metrics = tasks["bbox"]
            break
    else:
        return None
    mean = metrics["AP"] if math.isfinite(metrics["AP"]) else 0.0
    precisions = [metrics.get(f"AP-{name}", math.nan) for name in names]
    return [float(ap if math.isfinite(ap) else mean) / 100 for ap in precisions]
