"""From annotations and detections to the content of a report: figures, curves, errors, images.

Everything at one threshold is at an IoU of 0.5, and counts at most 100 detections of a class in an
image, as COCO does. Figures named AP, AR or "cost" are in percent, the others in 0-1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .coco_figures import COCOFigures, evaluate_boxes
from .errors import (
    CORRECT,
    IGNORED,
    KINDS,
    Curve,
    DatasetErrors,
    Found,
    ImageErrors,
    Truth,
    confuse,
    cost_of_errors,
    count_pairs,
    curve_of,
    find_errors,
    join_errors,
)

# Detections of a class in an image that count.
MOST_DETECTIONS = 100
# Scores at which precision, recall and F1 are given.
GRID = np.linspace(0.0, 1.0, 101)
# Images in the list of the worst, and of the best.
NUM_PICTURES = 6
# Confusions in the list of the most frequent.
NUM_CONFUSIONS = 20


def check_annotations(data: object, name: str) -> None:
    """Look at what the analysis reads of COCO annotations.

    Raises:
        ValueError: naming the file, the record and what is wrong.
    """
    if not isinstance(data, dict) or not all(
        isinstance(data.get(key), list) for key in ("images", "categories")
    ):
        raise ValueError(f"{name!r} is not in COCO format: it needs 'images' and 'categories'")
    for key, needed in (("images", ("id",)), ("categories", ("id", "name"))):
        for place, record in enumerate(data[key]):
            if not isinstance(record, dict) or any(x not in record for x in needed):
                raise ValueError(f"{name!r}: {key}[{place}] has not all of {', '.join(needed)}")
    images = {image["id"] for image in data["images"]}
    categories = {category["id"] for category in data["categories"]}
    annotations = data.get("annotations", [])
    if not isinstance(annotations, list):
        raise ValueError(f"{name!r} is not in COCO format: its 'annotations' are no list")
    check_boxes(annotations, f"{name!r}: annotations", images, categories)


def check_boxes(records: Sequence, name: str, images: set, categories: set, *extra: str) -> None:
    """Raise a ValueError unless each record has a box, and an image and a category that exist.

    Args:
        records: annotations or results.
        name: what to call them.
        images: ids.
        categories: ids.
        extra: keys of further numbers that each must have.
    """
    for place, record in enumerate(records):
        fault = None
        if not isinstance(record, dict):
            fault = "is no record"
        elif record.get("image_id") not in images:
            fault = f"has the image_id {record.get('image_id')!r}, of which there is no image"
        elif record.get("category_id") not in categories:
            fault = f"has the unknown category_id {record.get('category_id')!r}"
        else:
            box = record.get("bbox")
            numbers = [*box, *map(record.get, extra)] if isinstance(box, list) else []
            if len(numbers) != 4 + len(extra) or not all(map(is_finite, numbers)):
                wanted = " and ".join(["a bbox of four finite numbers", *extra])
                fault = f"needs {wanted}"
        if fault is not None:
            raise ValueError(f"{name}[{place}] {fault}")


def is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


@dataclass(frozen=True)
class Scene:
    """An image with its objects and detections.

    Attributes:
        image: record of the annotation file.
        truth: objects.
        found: detections that count.
        errors: what they are.
    """

    image: dict
    truth: Truth
    found: Found
    errors: ImageErrors


def build_scenes(data: dict, results: Sequence[dict]) -> list[Scene]:
    """Match the detections of all images, in the order of their ids."""
    categories = sorted(category["id"] for category in data["categories"])
    labels = {category: number for number, category in enumerate(categories)}
    images = sorted(data["images"], key=lambda image: image["id"])
    places = {image["id"]: place for place, image in enumerate(images)}

    objects = data.get("annotations", [])
    truth_place, truth_label, truth_boxes = to_arrays(objects, places, labels)
    crowd = np.array([bool(x.get("iscrowd", 0)) for x in objects], dtype=bool)
    place, label, boxes = to_arrays(results, places, labels)
    scores = np.array([x["score"] for x in results], dtype=float)

    # The best of each class and image; equal scores in the order of the file.
    order = np.lexsort((-scores, label, place))
    group = place[order] * len(labels) + label[order]
    first = np.concatenate([[True], group[1:] != group[:-1]]) if len(group) else np.empty(0, bool)
    starts = np.flatnonzero(first)
    rank = np.arange(len(group)) - np.repeat(starts, np.diff(np.append(starts, len(group))))
    order = order[rank < MOST_DETECTIONS]
    order = order[np.lexsort((order, -scores[order], place[order]))]

    truth_order = np.argsort(truth_place, kind="stable")
    numbers = np.arange(len(images) + 1)
    ends = np.searchsorted(place[order], numbers)
    truth_ends = np.searchsorted(truth_place[truth_order], numbers)
    scenes = []
    for number, image in enumerate(images):
        some = truth_order[truth_ends[number] : truth_ends[number + 1]]
        truth = Truth(truth_boxes[some], truth_label[some], crowd[some])
        some = order[ends[number] : ends[number + 1]]
        found = Found(boxes[some], label[some], scores[some])
        scenes.append(Scene(image, truth, found, find_errors(truth, found)))
    return scenes


def to_arrays(
    records: Sequence[dict], places: dict, labels: dict
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places of the images, classes and boxes of records."""
    return (
        np.array([places[x["image_id"]] for x in records], dtype=int),
        np.array([labels[x["category_id"]] for x in records], dtype=int),
        np.array([x["bbox"] for x in records], dtype=float).reshape(-1, 4),
    )


def analyse(data: dict, results: Sequence[dict]) -> dict:
    """All that a report says about detections.

    Args:
        data: content of a COCO annotation file, see `check_annotations`.
        results: content of a COCO result file.

    Returns:
        See docs/report.md; NaN where nothing counts.
    """
    categories = sorted(data["categories"], key=lambda category: category["id"])
    names = [str(category["name"]) for category in categories]
    figures = evaluate_boxes(data, results)
    scenes = build_scenes(data, results)
    errors = join_errors([(scene.truth, scene.found, scene.errors) for scene in scenes])
    curves = class_curves(errors, len(names))
    together = curve_of(
        *counting(errors, np.ones(len(errors.labels), dtype=bool)), int(errors.counts.sum())
    )
    overall = together.best_threshold()
    thresholds = [curve.best_threshold() for curve in curves]
    least = np.array([threshold_or(overall, threshold) for threshold in thresholds])
    passing = [scene.found.scores > least[scene.found.labels] for scene in scenes]
    confusion = confuse_scenes(scenes, passing, len(names))
    images = [score_image(scene, kept) for scene, kept in zip(scenes, passing)]
    return {
        "counts": {
            "images": len(scenes),
            "images_without_objects": sum(scene.truth.crowd.all() for scene in scenes),
            "objects": int(errors.counts.sum()),
            "crowd_regions": int((~errors.counts).sum()),
            "detections": len(results),
            "classes": len(names),
        },
        "notes": notes(data),
        "figures": figures.summary(),
        "threshold": describe_threshold(together, overall),
        "classes": [
            {
                "name": name,
                **counts,
                **figures.of_class(number),
                **describe_threshold(curve, threshold),
            }
            for number, (name, counts, curve, threshold) in enumerate(
                zip(names, count_classes(scenes, len(names)), curves, thresholds)
            )
        ],
        "curves": describe_curves(figures, together, curves),
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


def counting(errors: DatasetErrors, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores and correctness of chosen detections, without those in crowd regions."""
    chosen = chosen & (errors.kinds != IGNORED)
    return errors.scores[chosen], errors.kinds[chosen] == CORRECT


def class_curves(errors: DatasetErrors, num_classes: int) -> list[Curve]:
    objects = np.bincount(errors.truth_labels[errors.counts], minlength=num_classes)
    return [
        curve_of(*counting(errors, errors.labels == number), int(objects[number]))
        for number in range(num_classes)
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
    values = (float(x[0]) for x in curve.at(np.array([threshold])))
    return {"threshold": threshold, **dict(zip(("precision", "recall", "f1"), values))}


def count_classes(scenes: Sequence[Scene], num_classes: int) -> list[dict[str, int]]:
    """Objects of each class and the images that have some."""
    objects = np.zeros(num_classes, dtype=int)
    images = np.zeros(num_classes, dtype=int)
    for scene in scenes:
        counts = np.bincount(scene.truth.labels[~scene.truth.crowd], minlength=num_classes)
        objects += counts
        images += counts > 0
    return [{"objects": int(m), "images": int(n)} for m, n in zip(objects, images)]


def describe_curves(figures: COCOFigures, together: Curve, curves: Sequence[Curve]) -> dict:
    """Precision over recall, COCO's, and precision, recall and F1 over the score.

    Returns:
        "recall": R points, "score": S points; "all" and, in "classes", one for each class, a dict
        of "precision_by_recall" (R), "precision", "recall" and "f1" (S each). A class without
        objects has None.
    """
    precision = figures.precision[0, :, :, 0, -1]  # (R, K)
    known = (precision > -1).all(axis=0)
    mean = precision[:, known].mean(axis=1) if known.any() else np.full(len(precision), np.nan)

    def describe(by_recall: np.ndarray, curve: Curve) -> dict:
        values = dict(zip(("precision", "recall", "f1"), curve.at(GRID)))
        return {
            name: [round(float(x), 5) for x in line]
            for name, line in {"precision_by_recall": by_recall, **values}.items()
        }

    return {
        "recall": [round(float(x), 2) for x in np.linspace(0, 1, len(precision))],
        "score": [round(float(x), 2) for x in GRID],
        "all": describe(mean, together) if known.any() else None,
        "classes": [
            describe(precision[:, number], curve) if known[number] else None
            for number, curve in enumerate(curves)
        ],
    }


def confuse_scenes(
    scenes: Sequence[Scene], passing: Sequence[np.ndarray], num_classes: int
) -> list[list[int]]:
    """See `errors.count_pairs`."""
    pairs = [
        confuse(scene.truth, scene.found, scene.errors, kept)
        for scene, kept in zip(scenes, passing)
    ]
    empty = np.empty((0, 2), dtype=int)
    return count_pairs(np.concatenate([empty, *pairs]), num_classes).tolist()


def frequent_confusions(matrix: Sequence[Sequence[int]]) -> list[dict]:
    """The most frequent pairs of two classes, numbers in "true" and "detected"; no background."""
    table = np.array(matrix)[:-1, :-1]
    np.fill_diagonal(table, 0)
    order = np.argsort(-table, axis=None, kind="stable")[:NUM_CONFUSIONS]
    pairs = [
        (int(i), int(j), int(table[i, j])) for i, j in zip(*np.unravel_index(order, table.shape))
    ]
    return [{"true": i, "detected": j, "count": count} for i, j, count in pairs if count]


def errors_by_class(errors: DatasetErrors, num_classes: int) -> list[dict[str, int]]:
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


def score_image(scene: Scene, passing: np.ndarray) -> dict:
    """How well an image is done with the best threshold of each class."""
    kinds = scene.errors.kinds[passing]
    correct = int((kinds == CORRECT).sum())
    wrong = int(((kinds != CORRECT) & (kinds != IGNORED)).sum())
    missed = int((~scene.truth.crowd).sum()) - correct
    total = 2 * correct + wrong + missed
    return {
        "id": scene.image["id"],
        "file_name": str(scene.image.get("file_name", scene.image["id"])),
        "correct": correct,
        "wrong": wrong,
        "missed": missed,
        "f1": 2 * correct / total if total else math.nan,
    }


def choose_pictures(
    scenes: Sequence[Scene],
    images: Sequence[dict],
    passing: Sequence[np.ndarray],
) -> dict[str, list[dict]]:
    """The images with the lowest F1, then those with most errors; and of the others those with the
    highest, then those with most objects, which are found most exactly."""
    known = [i for i, image in enumerate(images) if not math.isnan(image["f1"])]

    def exactness(i: int) -> float:
        errors = scenes[i].errors
        found = np.flatnonzero(passing[i] & (errors.kinds == CORRECT))
        return float(errors.overlaps[found, errors.targets[found]].mean()) if len(found) else 0.0

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
        name: [describe_picture(scenes[i], images[i], passing[i]) for i in chosen]
        for name, chosen in (("worst", worst), ("best", best))
    }


def describe_picture(scene: Scene, image: dict, passing: np.ndarray) -> dict:
    """An image with its objects, and its detections above the threshold; boxes are x, y, w, h."""
    kinds = {CORRECT: "correct", IGNORED: "ignored", **KINDS}
    found = set(scene.errors.targets[passing & (scene.errors.kinds == CORRECT)].tolist())
    return {
        **image,
        "width": scene.image.get("width"),
        "height": scene.image.get("height"),
        "objects": [
            {
                "box": [round(x, 2) for x in box],
                "class": int(label),
                "state": "crowd" if crowd else "found" if i in found else "missed",
            }
            for i, (box, label, crowd) in enumerate(
                zip(scene.truth.boxes.tolist(), scene.truth.labels, scene.truth.crowd)
            )
        ],
        "detections": [
            {
                "box": [round(x, 2) for x in scene.found.boxes[i].tolist()],
                "class": int(scene.found.labels[i]),
                "score": float(scene.found.scores[i]),
                "kind": kinds[int(scene.errors.kinds[i])],
            }
            for i in np.flatnonzero(passing)
        ],
    }


def notes(data: dict) -> list[str]:
    """What a reader should know about the data before believing a number."""
    found = []
    annotations = data.get("annotations", [])
    if not annotations:
        found.append("The data set has no annotations: there is nothing to measure.")
    if any(x.get("id") == 0 for x in annotations):
        found.append(
            "An annotation has the id 0, which pycocotools takes for 'not found': number "
            "annotations from 1, or AP is a little too low."
        )
    names = [str(category["name"]) for category in data["categories"]]
    if len(set(names)) < len(names):
        found.append("Several classes have the same name.")
    return found
