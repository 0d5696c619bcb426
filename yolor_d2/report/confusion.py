"""The confusion matrix of classes, with the background."""

from __future__ import annotations

import numpy as np

from .errors import CORRECT, IGNORED, Errors
from .matching import NONE, match_best


def confuse(errors: Errors, passing: np.ndarray) -> np.ndarray:
    """Pairs of classes, one for each object and for each detection without one.

    Detections that find an object of their class are paired with it; each of the others with the
    object left that it overlaps most, by IoU >= 0.5; what is then left, with the background.

    Args:
        errors: of the data set.
        passing: (N,) bool, detections above the threshold.

    Returns:
        (P, 2) true and detected class, -1 for background.
    """
    correct = passing & (errors.kinds == CORRECT)
    left = errors.counts.copy()
    left[errors.targets[correct]] = False
    wrong = passing & (errors.kinds != CORRECT) & (errors.kinds != IGNORED)
    pairs = errors.pairs
    matched = match_best(pairs.where(wrong[pairs.predicted] & left[pairs.truth]), len(wrong))
    confused = matched != NONE
    left[matched[confused]] = False
    alone = errors.labels[wrong & ~confused]
    missed = errors.truth_labels[left]
    columns = (
        (errors.labels[correct], errors.labels[correct]),
        (errors.truth_labels[matched[confused]], errors.labels[confused]),
        (np.full(len(alone), NONE), alone),
        (missed, np.full(len(missed), NONE)),
    )
    return np.concatenate([np.stack(pair, axis=1) for pair in columns])


def count_pairs(pairs: np.ndarray, num_classes: int) -> np.ndarray:
    """(K + 1, K + 1) numbers of pairs; rows are true classes, columns detected ones, background
    last."""
    side = num_classes + 1
    true, detected = (pairs % side).T  # -1 is the last row and column
    return np.bincount(true * side + detected, minlength=side * side).reshape(side, side)
