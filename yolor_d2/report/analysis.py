"""From annotations and detections to the content of a report: metrics, curves, errors, images.

Everything at one threshold is at an IoU of 0.5, and counts at most 100 detections of a class in an
image, as COCO does. All metrics are in percent; scores, and the thresholds on them, in 0-1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..datasets.annotations import Annotations
from ..evaluation.coco_files import Detections
from ..evaluation.coco_metrics import COCOMetrics
from ..evaluation.ranking import group_by_label
from .confusion import confuse, count_pairs
from .curves import Curve, curve_of
from .errors import CORRECT, IGNORED, KINDS, Errors, cost_of_errors, find_errors
from .matching import Predictions, Truth

# Detections of a class in an image that count.
MOST_DETECTIONS = 100
# Scores at which precision, recall and F1 are given.
GRID = np.linspace(0.0, 1.0, 101)
# Images in the list of the worst, and of the best.
NUM_PICTURES = 6
# Confusions in the list of the most frequent.
NUM_CONFUSIONS = 20


@dataclass(frozen=True)
class Scenes:
    """The images of a data set with their objects and detections.

    Attributes:
        data: the annotations.
        truth: objects, in the order of the annotations.
        found: detections that count.
        errors: what they are.
        ends: (I + 1,) the detections of image i are the rows ends[i] to ends[i + 1].
        rows: of `found` among all detections.
    """

    data: Annotations
    truth: Truth
    predictions: Predictions
    errors: Errors
    ends: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.data.image_ids)

    def objects_of(self, image: int) -> slice:
        return slice(int(self.data.starts[image]), int(self.data.starts[image + 1]))

    def predictions_of(self, image: int) -> slice:
        return slice(int(self.ends[image]), int(self.ends[image + 1]))


def build_scenes(data: Annotations, detections: Detections) -> Scenes:
    """Match the detections of all images, in the order of their ids."""
    numbers = np.arange(len(data.image_ids))
    truth = Truth(np.repeat(numbers, np.diff(data.starts)), data.boxes, data.labels, data.crowd)

    # The best of each class and image; equal scores in the order of the file.
    place, label, scores = detections.images, detections.labels, detections.scores
    order = np.lexsort((-scores, label, place))
    group = place[order] * len(data.category_ids) + label[order]
    first = np.concatenate([[True], group[1:] != group[:-1]]) if len(group) else np.empty(0, bool)
    starts = np.flatnonzero(first)
    rank = np.arange(len(group)) - np.repeat(starts, np.diff(np.append(starts, len(group))))
    order = order[rank < MOST_DETECTIONS]
    order = order[np.lexsort((order, -scores[order], place[order]))]

    predictions = Predictions(place[order], detections.boxes[order], label[order], scores[order])
    ends = np.searchsorted(predictions.images, np.arange(len(data.image_ids) + 1))
    return Scenes(data, truth, predictions, find_errors(truth, predictions), ends, order)


def analyse(data: Annotations, detections: Detections, metrics: COCOMetrics) -> dict:
    """Content of a report on detections.

    Args:
        data: annotations of the data set.
        detections: the predictions there.
        metrics: COCO's, of both.

    Returns:
        See docs/report.md; NaN where nothing counts.
    """
    names = [str(name) for name in data.category_names]
    scenes = build_scenes(data, detections)
    errors = scenes.errors
    curves = class_curves(errors, len(names))
    together = curve_of(*counting(errors, np.arange(len(errors.labels))), int(errors.counts.sum()))
    overall = together.best_threshold()
    thresholds = [curve.best_threshold() for curve in curves]
    least = np.array([threshold_or(overall, threshold) for threshold in thresholds])
    passing = scenes.predictions.scores > least[scenes.predictions.labels]
    confusion = count_pairs(confuse(errors, passing), len(names)).tolist()
    images = score_images(scenes, passing)
    with_objects = np.unique(scenes.truth.images[errors.counts])
    return {
        "counts": {
            "images": len(scenes),
            "images_without_objects": len(scenes) - len(with_objects),
            "objects": int(errors.counts.sum()),
            "crowd_regions": int((~errors.counts).sum()),
            "detections": len(detections.scores),
            "classes": len(names),
        },
        "notes": notes(data),
        "figures": metrics.summary(),
        "threshold": describe_threshold(together, overall),
        "classes": [
            {
                "name": name,
                **counts,
                **metrics.of_class(number),
                **describe_threshold(curve, threshold),
            }
            for number, (name, counts, curve, threshold) in enumerate(
                zip(names, count_classes(scenes), curves, thresholds)
            )
        ],
        "curves": describe_curves(metrics, together, curves),
        "confusion": {
            "labels": names,
            "matrix": confusion,
            "most_frequent": frequent_confusions(confusion),
        },
        "errors": cost_of_errors(errors),
        "errors_by_class": errors_by_class(errors, len(names)),
        "images": images,
        "pictures": choose_pictures(scenes, images, passing),
    }


def counting(errors: Errors, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores and correctness of chosen detections, without those in crowd regions."""
    chosen = chosen[errors.kinds[chosen] != IGNORED]
    return errors.scores[chosen], errors.kinds[chosen] == CORRECT


def class_curves(errors: Errors, num_classes: int) -> list[Curve]:
    objects = np.bincount(errors.truth_labels[errors.counts], minlength=num_classes)
    return [
        curve_of(*counting(errors, chosen), int(number))
        for chosen, number in zip(group_by_label(errors.labels, num_classes), objects)
    ]


def threshold_or(overall: float | None, threshold: float | None) -> float:
    """That of a class; where it has none, of all classes; where nothing is correct, none passes."""
    if threshold is not None:
        return threshold
    return overall if overall is not None else math.inf


def describe_threshold(curve: Curve, threshold: float | None) -> dict:
    """Best threshold with what it leads to; None and NaN where no detection is correct."""
    if threshold is None:
        return dict.fromkeys(("threshold", "precision", "recall", "f1"), None)
    values = (100 * float(x[0]) for x in curve.at(np.array([threshold])))
    return {"threshold": threshold, **dict(zip(("precision", "recall", "f1"), values))}


def count_classes(scenes: Scenes) -> list[dict[str, int]]:
    """Objects of each class and the images that have some."""
    num_classes = len(scenes.data.category_ids)
    real = scenes.errors.counts
    labels = scenes.truth.labels[real]
    pairs = np.unique(scenes.truth.images[real] * num_classes + labels)
    objects = np.bincount(labels, minlength=num_classes)
    images = np.bincount(pairs % num_classes if num_classes else pairs, minlength=num_classes)
    return [{"objects": m, "images": n} for m, n in zip(objects.tolist(), images.tolist())]


def describe_curves(metrics: COCOMetrics, together: Curve, curves: Sequence[Curve]) -> dict:
    """Precision over recall, COCO's, and precision, recall and F1 over the score.

    Returns:
        "recall": R points in percent, "score": S points in 0-1; "all" and, in "classes", one for
        each class, a dict of "precision_by_recall" (R), "precision", "recall" and "f1" (S each), in
        percent. A class without objects has None.
    """
    precision = metrics.precision[0, :, :, 0, -1]  # (R, K)
    known = (precision > -1).all(axis=0)
    mean = precision[:, known].mean(axis=1) if known.any() else np.full(len(precision), np.nan)

    def describe(by_recall: np.ndarray, curve: Curve) -> dict:
        values = dict(zip(("precision", "recall", "f1"), curve.at(GRID)))
        return {
            name: [round(100 * float(x), 3) for x in line]
            for name, line in {"precision_by_recall": by_recall, **values}.items()
        }

    return {
        "recall": [round(float(x), 2) for x in np.linspace(0, 100, len(precision))],
        "score": [round(float(x), 2) for x in GRID],
        "all": describe(mean, together) if known.any() else None,
        "classes": [
            describe(precision[:, number], curve) if known[number] else None
            for number, curve in enumerate(curves)
        ],
    }


def frequent_confusions(matrix: Sequence[Sequence[int]]) -> list[dict]:
    """The most frequent pairs of two classes, numbers in "true" and "detected"; no background."""
    table = np.array(matrix)[:-1, :-1]
    np.fill_diagonal(table, 0)
    order = np.argsort(-table, axis=None, kind="stable")[:NUM_CONFUSIONS]
    pairs = [
        (int(i), int(j), int(table[i, j])) for i, j in zip(*np.unravel_index(order, table.shape))
    ]
    return [{"true": i, "detected": j, "count": count} for i, j, count in pairs if count]


def errors_by_class(errors: Errors, num_classes: int) -> list[dict[str, int]]:
    """How often each kind of error occurs in each class: that of the detection, or, for missed
    objects, that of the object."""
    names = {kind: name for kind, name in KINDS.items() if name != "missed"}
    counts = {
        name: np.bincount(errors.labels[errors.kinds == kind], minlength=num_classes)
        for kind, name in names.items()
    }
    counts["missed"] = np.bincount(errors.truth_labels[errors.missed], minlength=num_classes)
    return [
        {name: int(numbers[number]) for name, numbers in counts.items()}
        for number in range(num_classes)
    ]


def score_images(scenes: Scenes, passing: np.ndarray) -> list[dict]:
    """How well each image is done with the best threshold of each class."""
    kinds, errors = scenes.errors.kinds, scenes.errors
    count = len(scenes)

    def per_image(images: np.ndarray) -> np.ndarray:
        return np.bincount(images, minlength=count)

    images = scenes.predictions.images
    correct = per_image(images[passing & (kinds == CORRECT)])
    wrong = per_image(images[passing & (kinds != CORRECT) & (kinds != IGNORED)])
    missed = per_image(scenes.truth.images[errors.counts]) - correct
    total = 2 * correct + wrong + missed
    f1 = np.where(total > 0, 100 * 2 * correct / np.maximum(total, 1), np.nan)
    columns = (correct, wrong, missed, f1)
    return [
        {
            "id": number,
            "file_name": str(name),
            "correct": hits,
            "wrong": faults,
            "missed": left,
            "f1": f1_score,
        }
        for number, name, hits, faults, left, f1_score in zip(
            scenes.data.image_ids.tolist(),
            scenes.data.file_names,
            *(column.tolist() for column in columns),
        )
    ]


def choose_pictures(
    scenes: Scenes, images: Sequence[dict], passing: np.ndarray
) -> dict[str, list[dict]]:
    """The images with the lowest F1, then those with most errors; and of the others those with the
    highest, then those with most objects, which are found most exactly."""
    known = [i for i, image in enumerate(images) if not math.isnan(image["f1"])]

    def exactness(i: int) -> float:
        some = scenes.predictions_of(i)
        correct = passing[some] & (scenes.errors.kinds[some] == CORRECT)
        return float(scenes.errors.overlaps[some][correct].mean()) if correct.any() else 0.0

    faulty = [i for i in known if images[i]["wrong"] + images[i]["missed"]]
    worst = sorted(
        faulty,
        key=lambda i: (images[i]["f1"], -images[i]["wrong"] - images[i]["missed"], i),
    )[:NUM_PICTURES]
    others = [i for i in known if i not in set(worst) and images[i]["correct"]]
    best = sorted(
        others, key=lambda i: (-images[i]["f1"], -images[i]["correct"], -exactness(i), i)
    )[:NUM_PICTURES]
    return {
        name: [describe_picture(scenes, i, images[i], passing) for i in chosen]
        for name, chosen in (("worst", worst), ("best", best))
    }


def describe_picture(scenes: Scenes, number: int, image: dict, passing: np.ndarray) -> dict:
    """An image with its objects, and its detections above the threshold; boxes are x, y, w, h. Each
    has its "row" in the annotations, or among all detections."""
    names = {CORRECT: "correct", IGNORED: "ignored", **KINDS}
    truth, predictions, errors = scenes.truth, scenes.predictions, scenes.errors
    objects, rows = scenes.objects_of(number), scenes.predictions_of(number)
    shown = np.arange(rows.start, rows.stop)[passing[rows]]
    hit = set(errors.targets[shown[errors.kinds[shown] == CORRECT]].tolist())
    height, width = (None if x < 0 else x for x in scenes.data.sizes[number].tolist())
    return {
        **image,
        "width": width,
        "height": height,
        "objects": [
            {
                "box": [round(x, 2) for x in box],
                "class": label,
                "state": "crowd" if crowd else "found" if i in hit else "missed",
                "row": i,
            }
            for i, (box, label, crowd) in enumerate(
                zip(
                    truth.boxes[objects].tolist(),
                    truth.labels[objects].tolist(),
                    truth.crowd[objects].tolist(),
                ),
                start=objects.start,
            )
        ],
        "detections": [
            {
                "box": [round(x, 2) for x in predictions.boxes[i].tolist()],
                "class": int(predictions.labels[i]),
                "score": float(predictions.scores[i]),
                "kind": names[int(errors.kinds[i])],
                "row": int(scenes.rows[i]),
            }
            for i in shown
        ],
    }


def notes(data: Annotations) -> list[str]:
    """What a reader should know about the data before believing a number."""
    lines = []
    if not len(data.ids):
        lines.append("The data set has no annotations: there is nothing to measure.")
    if (data.ids == 0).any():
        lines.append(
            "An annotation has the id 0, which pycocotools takes for 'not found': number "
            "annotations from 1, or AP is a little too low."
        )
    names = [str(name) for name in data.category_names]
    if len(set(names)) < len(names):
        lines.append("Several classes have the same name.")
    return lines
