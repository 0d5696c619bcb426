"""What a detector gets wrong, and the AP that each kind of error costs.

The kinds are those of TIDE (Bolya et al., "A General Toolbox for Identifying Object Detection
Errors", 2020, arXiv 2008.08115, sections 2.2 and 2.3); detections are matched as COCO matches them.

Naming convention: D detections and M objects of one image, N detections and O objects of a data
set; boxes are x, y, width, height in pixels, as in COCO's files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as mask_utils

# IoU from which a detection finds an object, and up to which it has nothing to do with one: t_f and
# t_b of the paper.
FOUND_IOU = 0.5
BACKGROUND_IOU = 0.1
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
NONE = -1


@dataclass(frozen=True)
class Truth:
    """Objects, of one image or of many.

    Attributes:
        boxes: (M, 4).
        labels: (M,) classes from 0.
        crowd: (M,) bool, regions whose content does not count.
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray


@dataclass(frozen=True)
class Found:
    """Detections of one image, best first.

    Attributes:
        boxes: (D, 4).
        labels: (D,) classes from 0.
        scores: (D,), falling.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class ImageErrors:
    """What the detections of an image are.

    Attributes:
        kinds: (D,) see the constants of this module.
        targets: (D,) number of the object that a detection finds (CORRECT), or would find with
            another class (CLASS) or another box (POSITION); -1 for the others.
        missed: (M,) bool, objects that no detection accounts for.
        overlaps: (D, M) IoU; with crowd regions the share of the detection that lies inside.
    """

    kinds: np.ndarray
    targets: np.ndarray
    missed: np.ndarray
    overlaps: np.ndarray


def box_overlaps(boxes: np.ndarray, truth: Truth) -> np.ndarray:
    """(D, M) IoU, computed by pycocotools as for its own figures; see `ImageErrors.overlaps`."""
    if len(boxes) == 0 or len(truth.boxes) == 0:
        return np.zeros((len(boxes), len(truth.boxes)))
    return mask_utils.iou(
        np.ascontiguousarray(boxes, dtype=np.float64),
        np.ascontiguousarray(truth.boxes, dtype=np.float64),
        truth.crowd.astype(np.uint8).tolist(),
    )


def match_best(overlaps: np.ndarray, allowed: np.ndarray, minimum: float) -> np.ndarray:
    """Objects that detections find, one each: the better detection chooses first, and takes the
    object that it overlaps most among those left.

    Args:
        overlaps: (D, M), best detection first.
        allowed: (D, M) bool, pairs that may be formed.
        minimum: least overlap of a pair.

    Returns:
        (D,) number of the object, -1 for none. Of equal overlaps the last counts, as in COCO.
    """
    found = np.full(len(overlaps), NONE)
    fits = np.where(allowed & (overlaps >= min(minimum, 1 - 1e-10)), overlaps, -1.0)
    for row in np.flatnonzero((fits >= 0).any(axis=1)):
        best = fits.shape[1] - 1 - int(fits[row, ::-1].argmax())
        if fits[row, best] >= 0:
            found[row] = best
            fits[:, best] = -1
    return found


def find_errors(truth: Truth, found: Found) -> ImageErrors:
    """Say of every detection of an image what it is, and of every object whether it is missed.

    A detection that finds no object is, by the first that applies: IGNORED, inside a crowd region
    of its class; POSITION, 0.1 <= IoU < 0.5 with the object of its class that it overlaps most;
    CLASS, IoU >= 0.5 with an object of another class; DUPLICATE, IoU >= 0.5 with an object of its
    class that a better detection has found; BACKGROUND, IoU <= 0.1 with all objects; else BOTH.
    An object is missed if no detection finds it, and none has its class or position alone wrong.
    """
    overlaps = box_overlaps(found.boxes, truth)
    same = found.labels[:, None] == truth.labels[None, :]
    real = ~truth.crowd
    matched = match_best(overlaps, same & real, FOUND_IOU)
    ignored = (matched == NONE) & ((overlaps >= FOUND_IOU) & same & truth.crowd).any(axis=1)

    kinds = np.full(len(overlaps), BOTH)
    targets = np.full(len(overlaps), NONE)
    own, own_best = best_of(np.where(same & real, overlaps, -1.0))
    other, other_best = best_of(np.where(~same & real, overlaps, -1.0))
    kinds[np.maximum(own, other) <= BACKGROUND_IOU] = BACKGROUND
    kinds[own >= FOUND_IOU] = DUPLICATE
    for kind, chosen, best in (
        (CLASS, other >= FOUND_IOU, other_best),
        (POSITION, (own >= BACKGROUND_IOU) & (own < FOUND_IOU), own_best),
    ):
        kinds[chosen] = kind
        targets[chosen] = best[chosen]
    kinds[ignored], targets[ignored] = IGNORED, NONE
    correct = matched != NONE
    kinds[correct], targets[correct] = CORRECT, matched[correct]

    missed = real.copy()
    missed[targets[targets != NONE]] = False
    return ImageErrors(kinds=kinds, targets=targets, missed=missed, overlaps=overlaps)


def best_of(overlaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Greatest value of each row, -1 without columns, and its column."""
    if overlaps.shape[1] == 0:
        return np.full(len(overlaps), -1.0), np.full(len(overlaps), NONE)
    best = overlaps.argmax(axis=1)
    return overlaps[np.arange(len(overlaps)), best], best


@dataclass(frozen=True)
class DatasetErrors:
    """What the detections of a data set are.

    Attributes:
        scores: (N,).
        labels: (N,).
        kinds: (N,) see `find_errors`.
        targets: (N,) number of an object of the data set, -1 for none.
        truth_labels: (O,) classes of the objects.
        counts: (O,) bool, objects that are no crowd regions.
        missed: (O,) bool.
    """

    scores: np.ndarray
    labels: np.ndarray
    kinds: np.ndarray
    targets: np.ndarray
    truth_labels: np.ndarray
    counts: np.ndarray
    missed: np.ndarray


def join_errors(
    images: Sequence[tuple[Truth, Found, ImageErrors]],
) -> DatasetErrors:
    """Put images together, in their order."""
    sizes = [len(truth.labels) for truth, _, _ in images]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    targets = [
        np.where(errors.targets == NONE, NONE, errors.targets + start)
        for (_, _, errors), start in zip(images, starts)
    ]

    def join(parts: list[np.ndarray], kind: type) -> np.ndarray:
        return np.concatenate([np.empty(0, kind), *parts]).astype(kind)

    return DatasetErrors(
        scores=join([found.scores for _, found, _ in images], float),
        labels=join([found.labels for _, found, _ in images], int),
        kinds=join([errors.kinds for _, _, errors in images], int),
        targets=join(targets, int),
        truth_labels=join([truth.labels for truth, _, _ in images], int),
        counts=join([~truth.crowd for truth, _, _ in images], bool),
        missed=join([errors.missed for _, _, errors in images], bool),
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
    errors: DatasetErrors,
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
    values = []
    for label in np.unique(errors.truth_labels[errors.counts]):
        chosen = kept & (labels == label)
        wanted = errors.counts & (errors.truth_labels == label) & ~forgiven
        number = int(wanted.sum())
        values.append(
            average_precision(errors.scores[chosen], correct[chosen], number) if number else 1.0
        )
    return float(np.mean(values)) if values else float("nan")


def repaired(errors: DatasetErrors, kind: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def cost_of_errors(errors: DatasetErrors) -> dict:
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
    unfound = errors.counts.copy()
    unfound[errors.targets[correct]] = False
    no_positives = mean_precision(errors, labels, correct, kept & correct, nothing)
    no_negatives = mean_precision(errors, labels, correct, kept, unfound)
    return {
        "AP50": 100 * base,
        "kinds": kinds,
        "false positives": {
            "count": int((kept & ~correct).sum()),
            "cost": 100 * (no_positives - base),
        },
        "false negatives": {"count": int(unfound.sum()), "cost": 100 * (no_negatives - base)},
    }


# ---- At a threshold


@dataclass(frozen=True)
class Curve:
    """How well detections do above every score.

    Attributes:
        scores: (N,) falling; entry i is about the detections from the first to the i-th.
        precision: (N,) share of them that is correct.
        recall: (N,) share of the objects that they find; NaN without objects.
    """

    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    @property
    def f1(self) -> np.ndarray:
        """(N,) harmonic mean of precision and recall; 0 where nothing is correct."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / np.where(total > 0, total, 1)

    def at(self, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Precision, recall and F1 of the detections whose score exceeds each threshold.

        Precision is NaN where there is none.
        """
        # scores are falling: how many exceed the threshold
        numbers = np.searchsorted(-self.scores, -thresholds, side="left")
        places = numbers - 1
        some = numbers > 0
        if not len(self.scores):
            zero = np.zeros(len(thresholds))
            return np.full(len(thresholds), np.nan), zero, zero
        precision = np.where(some, self.precision[places], np.nan)
        return (
            precision,
            np.where(some, self.recall[places], 0.0),
            np.where(some, self.f1[places], 0.0),
        )

    def best_threshold(self) -> float | None:
        """The score above which F1 is greatest: half-way to the next lower one, so that rounding
        does not matter; None if no detection is correct."""
        f1 = np.nan_to_num(self.f1)
        # Of equal scores all count or none.
        last = np.append(self.scores[1:] < self.scores[:-1], True) if len(f1) else np.empty(0, bool)
        f1 = np.where(last, f1, 0.0)
        if not len(f1) or f1.max() <= 0:
            return None
        place = int(f1.argmax())
        lower = self.scores[place + 1] if place + 1 < len(self.scores) else 0.0
        return float((self.scores[place] + lower) / 2)


def curve_of(scores: np.ndarray, correct: np.ndarray, num_objects: int) -> Curve:
    """The curve of detections that count, in any order; see `average_precision`."""
    order = np.argsort(-scores, kind="mergesort")
    hits = np.cumsum(correct[order])
    return Curve(
        scores=scores[order],
        precision=hits / (np.arange(len(hits)) + 1),
        recall=hits / num_objects if num_objects else np.full(len(hits), np.nan),
    )


def confuse(truth: Truth, found: Found, errors: ImageErrors, passing: np.ndarray) -> np.ndarray:
    """Pairs of classes, one for each object and for each detection without one.

    Detections that find an object of their class are paired with it; each of the others with the
    object left that it overlaps most, by IoU >= 0.5; what is then left, with the background.

    Args:
        truth: objects of an image.
        found: its detections.
        errors: of the same.
        passing: (D,) bool, detections above the threshold.

    Returns:
        (P, 2) true and detected class, -1 for background.
    """
    correct = passing & (errors.kinds == CORRECT)
    left = ~truth.crowd
    left[errors.targets[correct]] = False
    pairs = [np.stack([found.labels[correct], found.labels[correct]], axis=1)]
    wrong = np.flatnonzero(passing & (errors.kinds != CORRECT) & (errors.kinds != IGNORED))
    objects = np.flatnonzero(left)
    overlaps = errors.overlaps[np.ix_(wrong, objects)]
    matched = match_best(overlaps, np.ones_like(overlaps, dtype=bool), FOUND_IOU)
    some = matched != NONE
    taken = objects[matched[some]]
    pairs.append(np.stack([truth.labels[taken], found.labels[wrong[some]]], axis=1))
    alone = found.labels[wrong[~some]]
    pairs.append(np.stack([np.full(len(alone), NONE), alone], axis=1))
    left[taken] = False
    missed = truth.labels[left]
    pairs.append(np.stack([missed, np.full(len(missed), NONE)], axis=1))
    return np.concatenate(pairs)


def count_pairs(pairs: np.ndarray, num_classes: int) -> np.ndarray:
    """(K + 1, K + 1) numbers of pairs; rows are true classes, columns detected ones, background
    last."""
    table = np.zeros((num_classes + 1, num_classes + 1), dtype=int)
    # -1 is the last row and column.
    np.add.at(table, (pairs[:, 0], pairs[:, 1]), 1)
    return table
