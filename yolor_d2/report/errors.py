"""What a detector gets wrong, and the AP that each kind of error costs.

The kinds are those of TIDE (Bolya et al., "A General Toolbox for Identifying Object Detection
Errors", 2020, arXiv 2008.08115, sections 2.2 and 2.3); detections are matched as COCO matches them.

Naming convention: N detections and O objects of a data set, P pairs of a detection and an object
that overlap; boxes are x, y, width, height in pixels, as in COCO's files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..evaluation.ranking import group_by_label
from .matching import (
    BACKGROUND_IOU,
    DETECTED_IOU,
    NONE,
    Pairs,
    Predictions,
    Truth,
    best_of,
    find_pairs,
    match_best,
)

# What a detection is. MISSED is of objects.
IGNORED, CORRECT, CLASS, POSITION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(-1, 7)
# The kinds of errors in the order of the paper, with their names.
KINDS = {
    CLASS: "class",
    POSITION: "position",
    BOTH: "both",
    DUPLICATE: "duplicate",
    BACKGROUND: "background",
    MISSED: "missed",
}
# Points of recall over which COCO's average precision is the mean.
RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Errors:
    """What the detections of a data set are.

    Attributes:
        scores: (N,).
        labels: (N,).
        kinds: (N,) see the constants of this module.
        targets: (N,) number of the object that a detection finds (CORRECT), or would find with
            another class (CLASS) or another box (POSITION); -1 for the others.
        overlaps: (N,) IoU of correct detections with their objects, 0 of others.
        truth_labels: (O,) classes of the objects.
        counts: (O,) bool, objects that are no crowd regions.
        missed: (O,) bool, objects that no detection accounts for.
        pairs: those that overlap by at least DETECTED_IOU.
    """

    scores: np.ndarray
    labels: np.ndarray
    kinds: np.ndarray
    targets: np.ndarray
    overlaps: np.ndarray
    truth_labels: np.ndarray
    counts: np.ndarray
    missed: np.ndarray
    pairs: Pairs


def find_errors(truth: Truth, predictions: Predictions) -> Errors:
    """Say of every detection what it is, and of every object whether it is missed.

    A detection that finds no object is, by the first that applies: IGNORED, inside a crowd region
    of its class; POSITION, 0.1 <= IoU < 0.5 with the object of its class that it overlaps most;
    CLASS, IoU >= 0.5 with an object of another class; DUPLICATE, IoU >= 0.5 with an object of its
    class that a better detection has found; BACKGROUND, IoU <= 0.1 with all objects; else BOTH.
    An object is missed if no detection finds it, and none has its class or position alone wrong.
    """
    count = len(predictions.labels)
    pairs = find_pairs(truth, predictions)
    same = predictions.labels[pairs.predicted] == truth.labels[pairs.truth]
    real = ~truth.crowd[pairs.truth]
    close = pairs.overlaps >= DETECTED_IOU
    matched = match_best(pairs.where(same & real & close), count)
    correct = matched != NONE
    ignored = np.zeros(count, dtype=bool)
    ignored[pairs.predicted[same & ~real & close]] = True
    ignored &= ~correct

    kinds = np.full(count, BOTH)
    targets = np.full(count, NONE)
    own, own_best = best_of(pairs.where(same & real), count)
    other, other_best = best_of(pairs.where(~same & real), count)
    kinds[np.maximum(own, other) <= BACKGROUND_IOU] = BACKGROUND
    kinds[own >= DETECTED_IOU] = DUPLICATE
    for kind, chosen, best in (
        (CLASS, other >= DETECTED_IOU, other_best),
        (POSITION, (own >= BACKGROUND_IOU) & (own < DETECTED_IOU), own_best),
    ):
        kinds[chosen] = kind
        targets[chosen] = best[chosen]
    kinds[ignored], targets[ignored] = IGNORED, NONE
    kinds[correct], targets[correct] = CORRECT, matched[correct]

    overlaps = np.zeros(count)
    formed = matched[pairs.predicted] == pairs.truth
    overlaps[pairs.predicted[formed]] = pairs.overlaps[formed]
    missed = ~truth.crowd
    missed[targets[targets != NONE]] = False
    return Errors(
        scores=predictions.scores,
        labels=predictions.labels,
        kinds=kinds,
        targets=targets,
        overlaps=overlaps,
        truth_labels=truth.labels,
        counts=~truth.crowd,
        missed=missed,
        pairs=pairs.where(close),
    )


def average_precision(scores: np.ndarray, correct: np.ndarray, num_objects: int) -> float:
    """COCO's average precision of a class: the mean over 101 points of recall.

    Args:
        scores: of all detections that count, in the order of the images.
        correct: bool, whether each finds an object.
        num_objects: to be found, at least 1.

    Returns:
        In 0-1.
    """
    order = np.argsort(-scores, kind="mergesort")
    hits = np.cumsum(correct[order])
    recall = hits / num_objects
    precision = hits / (np.arange(len(hits)) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, RECALLS, side="left")
    reached = places < len(envelope)
    return float(envelope[places[reached]].sum() / len(RECALLS))


def mean_precision(
    errors: Errors,
    labels: np.ndarray,
    correct: np.ndarray,
    kept: np.ndarray,
    forgiven: np.ndarray,
) -> float:
    """Mean average precision at an IoU of 0.5, over the classes that have objects.

    Args:
        errors: of the data set.
        labels: (N,) class of each detection.
        correct: (N,) bool.
        kept: (N,) bool, the detections that count.
        forgiven: (O,) bool, objects that need not be found. A class whose objects are all forgiven
            is perfect.

    Returns:
        In 0-1; NaN without any object.
    """
    num_classes = int(max(errors.truth_labels.max(initial=0), labels.max(initial=0))) + 1
    objects = np.bincount(errors.truth_labels[errors.counts], minlength=num_classes)
    wanted = errors.truth_labels[errors.counts & ~forgiven]
    numbers = np.bincount(wanted, minlength=num_classes).tolist()
    places = np.flatnonzero(kept)
    groups = group_by_label(labels[places], num_classes)
    values = []
    for label in np.flatnonzero(objects).tolist():
        chosen = places[groups[label]]
        values.append(
            average_precision(errors.scores[chosen], correct[chosen], numbers[label])
            if numbers[label]
            else 1.0
        )
    return float(np.mean(values)) if values else float("nan")


def repaired(errors: Errors, kind: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detections as they were without the errors of one kind (section 2.3 of the paper).

    Of those that have only the class or only the position wrong, the best one of each object that
    no detection has found becomes correct; all others of the kind disappear.

    Returns:
        (N,) labels, correct and kept, see `mean_precision`.
    """
    labels, correct = errors.labels.copy(), errors.kinds == CORRECT
    wrong = errors.kinds == kind
    kept = (errors.kinds != IGNORED) & ~wrong
    if kind in (CLASS, POSITION):
        taken = np.zeros(len(errors.truth_labels), dtype=bool)
        taken[errors.targets[errors.kinds == CORRECT]] = True
        numbers = np.flatnonzero(wrong)
        numbers = numbers[np.argsort(-errors.scores[numbers], kind="mergesort")]
        targets = errors.targets[numbers]
        numbers = numbers[~taken[targets]]
        # The first of each target is its best.
        _, first = np.unique(errors.targets[numbers], return_index=True)
        chosen = numbers[first]
        labels[chosen] = errors.truth_labels[errors.targets[chosen]]
        correct[chosen] = kept[chosen] = True
    return labels, correct, kept


def cost_of_errors(errors: Errors) -> dict:
    """How often each kind of error occurs, and what AP it costs.

    Returns:
        "AP50" in percent; "kinds": for each name of KINDS the "count" and "cost", the AP50 that
        would be gained without the errors of this kind alone, in points of percent; "false
        positives" and "false negatives", the same without any wrong detection, and without any
        object that is not found. Costs do not add up. NaN without any object.
    """
    labels, correct = errors.labels, errors.kinds == CORRECT
    kept = errors.kinds != IGNORED
    nothing = np.zeros(len(errors.counts), dtype=bool)
    base = mean_precision(errors, labels, correct, kept, nothing)
    kinds = {}
    for kind, name in KINDS.items():
        if kind == MISSED:
            count = int(errors.missed.sum())
            value = mean_precision(errors, labels, correct, kept, errors.missed)
        else:
            count = int((errors.kinds == kind).sum())
            value = mean_precision(errors, *repaired(errors, kind), nothing)
        kinds[name] = {"count": count, "cost": 100 * (value - base)}
    unmatched = errors.counts.copy()
    unmatched[errors.targets[correct]] = False
    no_positives = mean_precision(errors, labels, correct, kept & correct, nothing)
    no_negatives = mean_precision(errors, labels, correct, kept, unmatched)
    return {
        "AP50": 100 * base,
        "kinds": kinds,
        "false positives": {
            "count": int((kept & ~correct).sum()),
            "cost": 100 * (no_positives - base),
        },
        "false negatives": {"count": int(unmatched.sum()), "cost": 100 * (no_negatives - base)},
    }
