"""What a detector gets wrong, and the AP that each kind of error costs.

The kinds are those of TIDE (Bolya et al., "A General Toolbox for Identifying Object Detection
Errors", 2020, arXiv 2008.08115, sections 2.2 and 2.3); detections are matched as COCO matches them.

Naming convention: N detections and O objects of a data set, P pairs of a detection and an object
that overlap; boxes are x, y, width, height in pixels, as in COCO's files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..evaluation.ranking import group_by_label

# IoU from which a detection finds an object, and up to which it has nothing to do with one: t_f and
# t_b of the paper.
DETECTED_IOU = 0.5
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
# Pairs whose overlap is computed at once: some ten megabytes.
MOST_PAIRS = 1 << 17


@dataclass(frozen=True)
class Truth:
    """Objects of a data set, image by image.

    Attributes:
        images: (O,) number of the image, rising.
        boxes: (O, 4).
        labels: (O,) classes from 0.
        crowd: (O,) bool, regions whose content does not count.
    """

    images: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray


@dataclass(frozen=True)
class Predictions:
    """Detections of a data set, image by image, the best of each image first.

    Attributes:
        images: (N,) number of the image, rising.
        boxes: (N, 4).
        labels: (N,) classes from 0.
        scores: (N,), falling within an image.
    """

    images: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Pairs:
    """Detections and objects of one image that overlap.

    Attributes:
        predicted: (P,) number of the detection, rising.
        truth: (P,) number of the object, rising for one detection.
        overlaps: (P,) IoU; with a crowd region the fraction of the detection that lies inside.
    """

    predicted: np.ndarray
    truth: np.ndarray
    overlaps: np.ndarray

    def where(self, chosen: np.ndarray) -> Pairs:
        """Some of them."""
        return Pairs(self.predicted[chosen], self.truth[chosen], self.overlaps[chosen])


def box_overlaps(boxes: np.ndarray, others: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """(P,) IoU of (P, 4) boxes with as many others, in the very steps of pycocotools.

    Args:
        boxes: of detections.
        others: of objects.
        crowd: (P,) bool, whether each object is a crowd region; see `Pairs.overlaps`.
    """
    x, y, width, height = boxes.T
    other_x, other_y, other_width, other_height = others.T
    across = np.minimum(x + width, other_x + other_width) - np.maximum(x, other_x)
    down = np.minimum(y + height, other_y + other_height) - np.maximum(y, other_y)
    overlaps = np.zeros(len(boxes))
    some = np.flatnonzero((across > 0) & (down > 0))
    shared = across[some] * down[some]
    area = (width * height)[some]
    other_area = (other_width * other_height)[some]
    overlaps[some] = shared / np.where(crowd[some], area, area + other_area - shared)
    return overlaps


def split_images(counts: np.ndarray) -> Iterator[slice]:
    """Ranges of images of about MOST_PAIRS pairs each, of (I,) numbers of pairs."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, before + MOST_PAIRS, side="right")), start + 1)
        yield slice(start, stop)
        start = stop


def find_pairs(truth: Truth, predictions: Predictions) -> Pairs:
    """All pairs whose overlap is at least BACKGROUND_IOU."""
    num_images = max(
        (int(x.images[-1]) + 1 for x in (truth, predictions) if len(x.images)), default=0
    )
    numbers = np.arange(num_images + 1)
    truth_starts = np.searchsorted(truth.images, numbers)
    prediction_starts = np.searchsorted(predictions.images, numbers)
    per_image = np.diff(truth_starts)
    parts = [Pairs(*(np.empty(0, kind) for kind in (int, int, float)))]
    for images in split_images(per_image * np.diff(prediction_starts)):
        first, last = prediction_starts[images.start], prediction_starts[images.stop]
        counts = per_image[predictions.images[first:last]]  # of objects beside each detection
        detections = np.repeat(np.arange(first, last), counts)
        within = np.arange(len(detections)) - np.repeat(np.cumsum(counts) - counts, counts)
        objects = truth_starts[predictions.images[detections]] + within
        overlaps = box_overlaps(
            predictions.boxes[detections], truth.boxes[objects], truth.crowd[objects]
        )
        parts.append(Pairs(detections, objects, overlaps).where(overlaps >= BACKGROUND_IOU))
    return Pairs(
        np.concatenate([x.predicted for x in parts]),
        np.concatenate([x.truth for x in parts]),
        np.concatenate([x.overlaps for x in parts]),
    )


def match_best(pairs: Pairs, num_detected: int) -> np.ndarray:
    """Objects that detections find, one each: the better detection chooses first, and takes the
    object that it overlaps most among those left.

    Args:
        pairs: that may be formed.
        num_found: N.

    Returns:
        (N,) number of the object, -1 for none. Of equal overlaps the last counts, as in COCO.
    """
    matched = np.full(num_detected, NONE)
    order = np.lexsort((-pairs.truth, -pairs.overlaps, pairs.predicted))
    taken: set[int] = set()
    done = NONE
    for number, target in zip(pairs.predicted[order].tolist(), pairs.truth[order].tolist()):
        if number != done and target not in taken:
            matched[number] = target
            taken.add(target)
            done = number
    return matched


def best_of(pairs: Pairs, num_detected: int) -> tuple[np.ndarray, np.ndarray]:
    """Greatest overlap of each of N detections, 0 for none, and the first object that has it."""
    overlaps, targets = np.zeros(num_detected), np.full(num_detected, NONE)
    order = np.lexsort((pairs.truth, -pairs.overlaps, pairs.predicted))
    numbers, first = np.unique(pairs.predicted[order], return_index=True)
    overlaps[numbers] = pairs.overlaps[order[first]]
    targets[numbers] = pairs.truth[order[first]]
    return overlaps, targets


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
        pairs: those that overlap by at least FOUND_IOU.
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
