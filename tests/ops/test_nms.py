"""Candidates and NMS, on rows written out by hand."""

import math

import pytest
import torch

from yolor_d2.ops import detect
from yolor_d2.ops.nms import select_candidates

# Two boxes with IoU 90 / 110 = 0.82, and one far away.
BOX = [0.0, 0.0, 10.0, 10.0]
NEAR = [1.0, 0.0, 11.0, 10.0]
FAR = [50.0, 50.0, 60.0, 60.0]


def rows_of(*rows):
    return torch.tensor([[*box, *scores] for box, *scores in rows])


def find(rows, **changes):
    options = {"score_threshold": 0.1, "iou_threshold": 0.5} | changes
    return detect(rows, **options)


def test_the_better_of_two_overlapping_boxes_stays():
    found = find(rows_of((NEAR, 0.5, 0.8), (BOX, 1.0, 0.8), (FAR, 1.0, 0.5)))
    assert found.boxes.tolist() == [BOX, FAR]  # best first
    assert found.scores.tolist() == pytest.approx([0.8, 0.5])  # objectness times class score
    assert found.labels.tolist() == [0, 0]


def test_the_overlap_must_exceed_the_threshold():
    rows = rows_of((BOX, 1.0, 0.9), (NEAR, 1.0, 0.8))
    assert len(find(rows, iou_threshold=0.81).labels) == 1
    assert len(find(rows, iou_threshold=0.82).labels) == 2  # 90 / 110 = 0.818


def test_one_row_may_give_several_classes():
    found = find(rows_of((BOX, 0.5, 0.4, 0.1, 0.8)))
    assert found.labels.tolist() == [2, 0]  # class 1 scores 0.05, below 0.1
    assert found.scores.tolist() == pytest.approx([0.4, 0.2])
    assert found.boxes.tolist() == [BOX, BOX]


def test_detections_name_the_rows_that_they_came_from():
    rows = rows_of(
        (FAR, 0.01, 0.9),  # objectness below the threshold
        (NEAR, 0.5, 0.8),  # suppressed
        (FAR, math.nan, 0.9),
        (FAR, 1.0, math.inf),
        (BOX, 1.0, 0.8),
        (FAR, 1.0, 0.5),
    )
    found = find(rows)
    assert found.rows.tolist() == [4, 5]
    assert torch.equal(rows[found.rows, :4], found.boxes)


def test_classes_suppress_each_other_only_when_told():
    rows = rows_of((BOX, 1.0, 0.9, 0.0), (NEAR, 1.0, 0.0, 0.8))
    assert find(rows).labels.tolist() == [0, 1]
    assert find(rows, class_agnostic=True).labels.tolist() == [0]


def test_far_boxes_of_other_classes_stay_also_outside_the_image():
    """Decoded boxes are not clipped: their coordinates may be negative."""
    rows = rows_of(
        ([90.0, 90.0, 100.0, 100.0], 1.0, 0.9, 0.0), ([-11.0, -11.0, -1.0, -1.0], 1.0, 0.0, 0.8)
    )
    assert find(rows).labels.tolist() == [0, 1]


def test_classes_are_filtered_before_suppression():
    rows = rows_of((BOX, 1.0, 0.9, 0.0), (NEAR, 1.0, 0.0, 0.8))
    found = find(rows, class_agnostic=True, classes=[1])
    assert found.labels.tolist() == [1]
    assert found.boxes.tolist() == [NEAR]


def test_rows_that_are_not_finite_are_dropped():
    broken = [0.0, 0.0, math.inf, 10.0]
    rows = rows_of((broken, 0.9, 0.9), (FAR, 0.8, math.nan), (FAR, math.nan, 0.9), (BOX, 0.5, 0.5))
    assert find(rows).boxes.tolist() == [BOX]


def crowd(count, classes):
    """Rows around few places, so that most overlap better ones."""
    generator = torch.Generator().manual_seed(0)
    place = torch.randint(12, (count, 2), generator=generator) * 40.0
    corner = place + 6 * torch.rand(count, 2, generator=generator)
    scores = torch.rand(count, 1 + classes, generator=generator)
    return torch.cat([corner, corner + 20, scores], dim=1)


@pytest.mark.parametrize("max_detections", [200, 5000], ids=["enough", "all"])
@pytest.mark.parametrize("class_agnostic", [False, True])
@pytest.mark.parametrize("first_round", [7, 300, 700])
def test_rounds_give_what_one_round_gives(first_round, class_agnostic, max_detections, monkeypatch):
    """Few candidates in the first round, so that more follow, against all candidates at once."""
    options = {"max_detections": max_detections, "class_agnostic": class_agnostic}
    rows = crowd(600, classes=3)  # 1170 candidates
    at_once = find(rows, **options)
    monkeypatch.setattr("yolor_d2.ops.nms.FIRST_ROUND", first_round)
    in_rounds = find(rows, **options)
    for a, b in zip(at_once, in_rounds):
        assert torch.equal(a, b)


def test_max_detections_keeps_the_best():
    rows = rows_of(*[([20.0 * i, 0.0, 20.0 * i + 10, 10.0], 1.0, 0.2 + 0.1 * i) for i in range(5)])
    found = find(rows, max_detections=2)
    assert found.scores.tolist() == pytest.approx([0.6, 0.5])
    assert len(find(rows).labels) == 5


@pytest.mark.parametrize("class_agnostic", [False, True])
@pytest.mark.parametrize("rows", [torch.zeros(0, 7), torch.zeros(5, 7)], ids=["none", "all low"])
def test_nothing_to_find(rows, class_agnostic):
    found = find(rows, class_agnostic=class_agnostic)
    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == found.labels.shape == (0,)
    assert found.labels.dtype == torch.int64


def test_the_number_of_candidates_is_limited_to_the_best(monkeypatch):
    monkeypatch.setattr("yolor_d2.ops.nms.MAX_CANDIDATES", 2)
    rows = rows_of((BOX, 1.0, 0.3), (NEAR, 1.0, 0.9), (FAR, 1.0, 0.6))
    candidates = select_candidates(rows, score_threshold=0.1)
    assert candidates.scores.tolist() == pytest.approx([0.9, 0.6])
    assert candidates.boxes.tolist() == [NEAR, FAR]


def test_more_than_a_thousand_boxes():
    corner = torch.arange(1200.0)[:, None] * 20
    boxes = torch.cat([corner, corner, corner + 10, corner + 10], dim=1)  # none overlap
    rows = torch.cat([boxes, torch.full((1200, 2), 0.9)], dim=1)
    assert len(find(rows).labels) == 300  # the default limit
    assert len(find(rows, max_detections=2000).labels) == 1200


def slow_candidates(rows, thresholds, multi_label):
    """(row, class) pairs by plain loops, best first."""
    found = []
    for r, row in enumerate(rows.tolist()):
        scores = [row[4] * score for score in row[5:]]
        wanted = range(len(scores)) if multi_label else [row[5:].index(max(row[5:]))]
        found += [
            (scores[k], r, k)
            for k in wanted
            if scores[k] > thresholds[k] and row[4] > thresholds[k]
        ]
    return sorted(found, key=lambda x: -x[0])


@pytest.mark.parametrize("multi_label", [True, False])
@pytest.mark.parametrize("thresholds", [[0.2] * 3, [0.05, 0.5, 0.3]])
@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_candidates_are_those_of_a_slow_loop(multi_label, thresholds, scale):
    torch.manual_seed(0)
    rows = torch.rand(60, 8, dtype=torch.float64)
    rows[:, 4] *= scale
    given = torch.tensor(thresholds, dtype=torch.float64)
    given = thresholds[0] if len(set(thresholds)) == 1 else given
    found = select_candidates(rows, given, multi_label=multi_label)
    expected = slow_candidates(rows, thresholds, multi_label)
    assert len(expected) > 5
    assert found.rows.tolist() == [r for _, r, _ in expected]
    assert found.labels.tolist() == [k for *_, k in expected]
    assert found.scores.tolist() == pytest.approx([score for score, *_ in expected])
    assert torch.equal(found.boxes, rows[found.rows, :4])


def test_thresholds_must_be_one_for_each_class():
    with pytest.raises(ValueError, match="2 score thresholds, but 3 classes"):
        select_candidates(torch.rand(4, 8), torch.tensor([0.1, 0.2]))
