"""Which detections and objects overlap, and which detection finds which object, as COCO has it.

Naming convention: N detections and O objects of a data set, P pairs of a detection and an object
that overlap; boxes are x, y, width, height in pixels, as in COCO's files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# IoU from which a detection finds an object, and up to which it has nothing to do with one: t_f and
# t_b of the paper.
DETECTED_IOU = 0.5
BACKGROUND_IOU = 0.1
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
