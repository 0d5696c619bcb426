"""Kinds of errors: a case with every kind, answered on paper, and pycocotools beside it."""

import numpy as np
import pytest
from report_cases import read_case

from yolor_d2.evaluation.coco_metrics import evaluate_boxes
from yolor_d2.report.analysis import analyse, build_scenes
from yolor_d2.report.confusion import confuse, count_pairs
from yolor_d2.report.curves import Curve, curve_of
from yolor_d2.report.errors import (
    BACKGROUND,
    BOTH,
    CLASS,
    CORRECT,
    DUPLICATE,
    IGNORED,
    MISSED,
    POSITION,
    average_precision,
    cost_of_errors,
    find_errors,
)
from yolor_d2.report.matching import Pairs, Predictions, Truth, match_best

# Objects are 100 x 100. A box shifted by 50 has an IoU of 5,000 / 15,000 with its object.
A, B, C, D, F = (0, 0), (200, 0), (400, 0), (600, 0), (0, 600)  # class 0
E = (0, 300)  # class 1
OBJECTS = [(A, 0), (B, 0), (C, 0), (D, 0), (F, 0), (E, 1)]
DETECTIONS = [
    ((0, 0), 0, 0.9, CORRECT),
    ((10, 0), 0, 0.8, DUPLICATE),  # IoU with A 9,000 / 11,000
    ((200, 0), 1, 0.7, CLASS),
    ((450, 0), 0, 0.6, POSITION),
    ((650, 0), 1, 0.5, BOTH),
    ((300, 300), 0, 0.4, BACKGROUND),
    ((0, 300), 1, 0.3, CORRECT),
    ((0, 600), 0, 0.2, CORRECT),
]


def make_truth(objects, crowd=()) -> Truth:
    boxes = np.array([(*corner, 100, 100) for corner, _ in objects], dtype=float)
    labels = np.array([label for _, label in objects], dtype=int)
    images = np.zeros(len(objects), dtype=int)
    return Truth(images, boxes.reshape(-1, 4), labels, np.isin(np.arange(len(objects)), crowd))


def make_predictions(detections) -> Predictions:
    boxes = np.array([(*corner, 100, 100) for corner, *_ in detections], dtype=float)
    labels = np.array([label for _, label, *_ in detections], dtype=int)
    scores = np.array([x[2] for x in detections], dtype=float)
    return Predictions(np.zeros(len(labels), dtype=int), boxes.reshape(-1, 4), labels, scores)


@pytest.fixture
def case():
    truth, found = make_truth(OBJECTS), make_predictions(DETECTIONS)
    return truth, found, find_errors(truth, found)


def test_every_kind_is_told_apart(case):
    _, _, errors = case
    assert errors.kinds.tolist() == [kind for *_, kind in DETECTIONS]
    assert errors.targets.tolist() == [0, -1, 1, 2, -1, -1, 5, 4]
    assert errors.missed.tolist() == [False, False, False, True, False, False]  # D alone


def test_costs_are_those_computed_on_paper(case):
    costs = cost_of_errors(case[2])
    # Class 0, 5 objects: correct, 3 errors, correct. 21 points of recall up to 0.2 at precision 1,
    # 20 up to 0.4 at 2/5. Class 1, 1 object: 2 errors, correct; all points at 1/3.
    base = (29 / 101 + 1 / 3) / 2
    assert costs["AP50"] == pytest.approx(100 * base)
    expected = {
        # B is found at rank 3 of 6: precision 2/3 up to 0.4, 3/6 up to 0.6. Class 1: 1 of 2.
        "class": ((21 + 20 * 2 / 3 + 20 / 2) / 101 + 1 / 2) / 2,
        # C is found at rank 3 of 5: precision 2/3 up to 0.4, 3/5 up to 0.6.
        "position": ((21 + 20 * 2 / 3 + 20 * 3 / 5) / 101 + 1 / 3) / 2,
        # One error less before the object of class 1.
        "both": (29 / 101 + 1 / 2) / 2,
        # One error less of class 0: precision 2/4 up to 0.4.
        "duplicate": ((21 + 20 / 2) / 101 + 1 / 3) / 2,
        "background": ((21 + 20 / 2) / 101 + 1 / 3) / 2,
        # 4 objects: 26 points up to 0.25, 25 up to 0.5.
        "missed": ((26 + 25 * 2 / 5) / 101 + 1 / 3) / 2,
    }
    kinds = costs["kinds"]
    assert list(kinds) == list(expected)
    assert {name: x["count"] for name, x in kinds.items()} == dict.fromkeys(expected, 1)
    for name, value in expected.items():
        assert kinds[name]["cost"] == pytest.approx(100 * (value - base)), name
    # Without errors: 41 points at precision 1; class 1 is perfect.
    assert costs["false positives"]["count"] == 5
    assert costs["false positives"]["cost"] == pytest.approx(100 * ((41 / 101 + 1) / 2 - base))
    # Of class 0 only A and F count: 51 points at precision 1, 50 at 2/5.
    assert costs["false negatives"]["count"] == 3
    assert costs["false negatives"]["cost"] == pytest.approx(
        100 * (((51 + 50 * 2 / 5) / 101 + 1 / 3) / 2 - base)
    )


def test_confusion_is_that_counted_on_paper(case):
    _, found, errors = case
    pairs = confuse(errors, found.scores > 0.25)
    # A and E are found, B is taken for class 1, C, D and F are missed; the duplicate, the wrong
    # position and the background are class 0 on nothing, the box beside D is class 1 on nothing.
    assert count_pairs(pairs, 2).tolist() == [[1, 1, 3], [0, 1, 0], [3, 1, 0]]


def test_what_lies_in_a_crowd_region_does_not_count():
    truth = make_truth([(A, 0), (B, 0)], crowd=[1])
    inside = [((200, 0), 0, 0.9), ((200, 0), 0, 0.8), ((200, 0), 1, 0.7), ((0, 0), 0, 0.6)]
    found = make_predictions(inside)
    errors = find_errors(truth, found)
    # The region takes any number, but of its class alone.
    assert errors.kinds.tolist() == [IGNORED, IGNORED, BACKGROUND, CORRECT]
    assert not errors.missed.any()
    costs = cost_of_errors(errors)
    assert costs["AP50"] == 100
    assert costs["false positives"] == {"count": 1, "cost": 0}
    assert count_pairs(confuse(errors, np.ones(4, bool)), 2).tolist() == [
        [1, 0, 0],
        [0, 0, 0],
        [0, 1, 0],
    ]


def test_only_the_best_of_several_repairs_counts():
    truth = make_truth([(A, 0)])
    found = make_predictions([((50, 0), 0, 0.9), ((50, 0), 0, 0.8)])
    kinds = cost_of_errors(find_errors(truth, found))["kinds"]
    assert kinds["position"] == {"count": 2, "cost": 100}
    assert kinds["missed"]["count"] == 0


def test_an_object_that_is_found_needs_no_repair():
    truth = make_truth([(A, 0), (B, 0)])
    found = make_predictions([((50, 0), 0, 0.9), ((0, 0), 0, 0.8)])
    kinds = cost_of_errors(find_errors(truth, found))["kinds"]
    # 51 points up to a recall of 0.5 at precision 1/2, then at 1; B stays missed.
    assert kinds["position"]["cost"] == pytest.approx(100 * 51 / 101 / 2)


def test_a_class_that_is_missed_altogether():
    truth, found = make_truth([(A, 0), (B, 0)]), make_predictions([])
    costs = cost_of_errors(find_errors(truth, found))
    assert costs["AP50"] == 0
    assert costs["kinds"]["missed"] == {"count": 2, "cost": 100}


def test_nothing_at_all():
    truth, found = make_truth([]), make_predictions([])
    errors = find_errors(truth, found)
    assert len(errors.pairs.overlaps) == 0
    costs = cost_of_errors(errors)
    assert np.isnan(costs["AP50"])
    assert costs["kinds"]["missed"]["count"] == 0


def test_matching_is_greedy_by_rank():
    # The first row takes the second column, which the second row would have needed.
    overlaps = np.array([[0.6, 0.7], [0.2, 0.9], [0.5, 0.5]])
    rows, columns = np.indices(overlaps.shape).reshape(2, -1)
    pairs = Pairs(rows, columns, overlaps.ravel())
    assert match_best(pairs.where(pairs.overlaps >= 0.5), 3).tolist() == [1, -1, 0]
    assert match_best(pairs.where(pairs.overlaps >= 0.65), 3).tolist() == [1, -1, -1]
    # Of equal overlaps the last counts, as in COCO.
    assert match_best(Pairs(rows[:2], columns[:2], np.array([0.6, 0.6])), 1).tolist() == [1]


def test_average_precision_interpolates():
    # Ranks: wrong, correct. Precision 1/2 at a recall of 1.
    assert average_precision(np.array([0.1, 0.9]), np.array([True, False]), 1) == 0.5
    assert average_precision(np.array([]), np.array([], dtype=bool), 3) == 0.0


def test_curve_at_thresholds():
    curve = curve_of(np.array([0.2, 0.8, 0.6, 0.4]), np.array([True, True, False, True]), 4)
    precision, recall, f1 = curve.at(np.array([0.0, 0.4, 0.5, 0.8]))
    assert precision[:3] == pytest.approx([3 / 4, 1 / 2, 1 / 2])
    assert np.isnan(precision[3])  # no score exceeds 0.8
    assert recall == pytest.approx([3 / 4, 1 / 4, 1 / 4, 0])
    assert f1 == pytest.approx([3 / 4, 1 / 3, 1 / 3, 0])
    # All four are best; the threshold lies below the lowest of them.
    assert curve.best_threshold() == pytest.approx(0.1)


def test_best_threshold_does_not_split_equal_scores():
    # Two of 0.5, one of them wrong: F1 of the first alone would be 1.
    curve = curve_of(np.array([0.5, 0.5, 0.1]), np.array([True, False, False]), 1)
    assert curve.best_threshold() == pytest.approx(0.3)
    assert Curve(np.array([]), np.array([]), np.array([])).best_threshold() is None
    assert curve_of(np.array([0.5]), np.array([False]), 1).best_threshold() is None


def random_case(seed: int, images: int = 12, classes: int = 4) -> tuple[dict, list[dict]]:
    """Objects, crowd regions among them, and detections scattered around them."""
    rng = np.random.default_rng(seed)
    annotations, results = [], []
    for image in range(1, images + 1):
        boxes = np.concatenate([rng.uniform(0, 300, (7, 2)), rng.uniform(8, 150, (7, 2))], axis=1)
        labels = rng.integers(1, classes + 1, 7)
        for box, label in zip(boxes.tolist(), labels.tolist()):
            annotations.append(
                {
                    **{"id": len(annotations) + 1, "image_id": image, "category_id": label},
                    **{"bbox": box, "area": box[2] * box[3], "iscrowd": int(rng.random() < 0.1)},
                }
            )
        chosen = rng.integers(0, 7, 25)
        moved = boxes[chosen] + rng.normal(0, 8, (25, 4))
        found = np.where(rng.random(25) < 0.7, labels[chosen], rng.integers(1, classes + 1, 25))
        for box, label in zip(np.abs(moved).tolist(), found.tolist()):
            score = float(rng.integers(1, 40) / 40)  # many are equal
            results.append({"image_id": image, "category_id": label, "bbox": box, "score": score})
    records = [
        {"id": i, "file_name": f"{i}", "width": 500, "height": 500} for i in range(1, images + 1)
    ]
    names = [{"id": i, "name": f"class {i}"} for i in range(1, classes + 1)]
    return {"images": records, "annotations": annotations, "categories": names}, results


@pytest.mark.parametrize("seed", range(4))
def test_the_matching_is_that_of_pycocotools(seed, tmp_path):
    data, results = random_case(seed)
    case = read_case(tmp_path, data, results)
    found = analyse(*case, evaluate_boxes(*case))
    assert found["errors"]["AP50"] == pytest.approx(found["figures"]["AP50"], abs=1e-9)
    # Every detection is of one kind, and every object correct or not.
    errors = build_scenes(*case).errors
    kinds = np.bincount(errors.kinds[errors.kinds != IGNORED], minlength=MISSED)
    assert kinds.sum() + (errors.kinds == IGNORED).sum() == len(results)
    assert (
        found["errors"]["false negatives"]["count"] == found["counts"]["objects"] - kinds[CORRECT]
    )
    matrix = np.array(found["confusion"]["matrix"])
    objects = [entry["objects"] for entry in found["classes"]]
    assert matrix[:-1].sum(axis=1).tolist() == objects
