"""Detections of a whole batch with fixed shapes against those of single images."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolor_d2.ops import Detections, decode_passing, detect
from yolor_d2.ops import batch as batch_module
from yolor_d2.ops.batch import BatchDetections, Effort, detect_batch, nms_batch, pad_detections

STRIDES = [8, 16]


def random_levels(images, classes, seed, spread=1.5, height=12, width=9):
    """Logits of two levels; few boxes are sure, and neighbours overlap."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [
        (images, 2, height, width, 5 + classes),
        (images, 2, height // 2, width // 2 + 1, 5 + classes),
    ]
    levels = [spread * torch.randn(shape, generator=generator) for shape in shapes]
    for level in levels:
        level[..., 4] -= 2
    return levels


def anchors():
    return torch.tensor([[[10.0, 14.0], [30.0, 20.0]], [[40.0, 60.0], [90.0, 50.0]]])


def both_ways(
    levels,
    *,
    score_threshold=0.01,
    class_thresholds=None,
    multi_label=True,
    class_agnostic=False,
    max_detections=20,
    iou_threshold=0.5,
    limit=2048,
):
    """What `detect_batch` finds, and what `detect` finds image by image."""
    common = {"iou_threshold": iou_threshold, "max_detections": max_detections}
    common |= {"class_agnostic": class_agnostic, "multi_label": multi_label}
    least = score_threshold if class_thresholds is None else class_thresholds

    def exact(image):
        rows, numbers = decode_passing(levels, image, anchors(), STRIDES, score_threshold)
        found = detect(rows, score_threshold=least, **common)
        return found._replace(rows=numbers[found.rows])

    found = detect_batch(
        levels,
        anchors(),
        STRIDES,
        score_threshold=score_threshold,
        class_thresholds=class_thresholds,
        effort=Effort(limit, 24),
        **common,
    )
    return found.images(), [exact(i) for i in range(len(levels[0]))]


def assert_same(found, expected):
    """Scores that are equal but for rounding may come in any order, and one of them at the end."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-6, atol=0)
        places = [list(zip(x.rows.tolist(), x.labels.tolist())) for x in (one, other)]
        last = other.scores[-1] * (1 + 1e-5) if len(other.scores) else 0.0
        sure = [pair for pair, score in zip(places[1], other.scores) if score > last]
        assert set(sure) <= set(places[0]) and len(set(places[0])) == len(places[0])
        boxes = dict(zip(places[0], one.boxes))
        for pair, box in zip(places[1], other.boxes):
            if pair in sure:
                torch.testing.assert_close(boxes[pair], box, rtol=1e-6, atol=1e-4)


@pytest.mark.heavy
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    images=st.integers(1, 3),
    classes=st.integers(1, 4),
    seed=st.integers(0, 10_000),
    multi_label=st.booleans(),
    class_agnostic=st.booleans(),
    max_detections=st.integers(1, 400),
)
def test_equals_one_image_after_the_other(
    images, classes, seed, multi_label, class_agnostic, max_detections
):
    levels = random_levels(images, classes, seed)
    options = {"multi_label": multi_label, "class_agnostic": class_agnostic}
    assert_same(*both_ways(levels, max_detections=max_detections, **options))


def test_every_class_may_have_its_own_threshold():
    levels = random_levels(2, 3, seed=1)
    thresholds = torch.tensor([0.01, 0.2, 0.9])
    found, expected = both_ways(levels, class_thresholds=thresholds)
    assert_same(found, expected)
    assert all((x.scores > thresholds[x.labels]).all() for x in found)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_dropped(bad):
    levels = random_levels(2, 3, seed=2)
    levels[0][0, 0, 2:4, :, 6] = bad
    levels[0][1, 1, 3, 3, 0] = float("nan")
    levels[1][1, :, :, 0, 4] = bad
    assert_same(*both_ways(levels))


def test_nothing_passes():
    found, expected = both_ways([x - 20 for x in random_levels(2, 3, seed=3)])
    assert [len(x.scores) for x in found] == [0, 0]
    assert_same(found, expected)


def test_half_precision_is_decoded_in_float32():
    found, expected = both_ways([x.bfloat16() for x in random_levels(1, 2, seed=4, spread=1.0)])
    assert found[0].boxes.dtype == torch.float32
    assert len(found[0].scores) == len(expected[0].scores) > 5
    torch.testing.assert_close(found[0].scores, expected[0].scores)


def test_an_image_of_which_more_candidates_must_be_looked_at_is_not_decided():
    levels = random_levels(3, 2, seed=5)
    levels[0][1], levels[1][1] = -20, -20  # nothing there, so nothing is left to look for
    options = {"iou_threshold": 0.01, "class_agnostic": True, "max_detections": 30}
    found, expected = both_ways(levels, limit=60, **options)
    assert [x is None for x in found] == [True, False, True]
    found, expected = both_ways(levels, **options)
    assert_same(found, expected)
    # Few candidates suffice where they give enough detections.
    found, expected = both_ways(levels, limit=60, max_detections=4)
    assert_same(found, expected)


def chain(length):
    """(1, length, 4) boxes of which each overlaps the next one alone: every other one survives."""
    left = 4.0 * torch.arange(length)
    return torch.stack([left, 0 * left, left + 10, 0 * left + 10], dim=1)[None]


@pytest.mark.parametrize("block", [3, 16, 1024])
def test_a_chain_is_resolved_from_its_best_box_on(block, monkeypatch):
    monkeypatch.setattr(batch_module, "BLOCK", block)
    valid = torch.ones(1, 20, dtype=torch.bool)
    keep, settled = nms_batch(chain(20), None, valid, 0.4, 24)  # IoU of neighbours: 6 / 14
    assert keep[0].tolist() == [True, False] * 10
    assert settled.tolist() == [True]


def test_a_chain_that_is_too_long_is_given_up():
    length = 40
    _, settled = nms_batch(chain(length), None, torch.ones(1, length, dtype=torch.bool), 0.4, 24)
    assert settled.tolist() == [False]


def test_classes_are_kept_apart():
    labels = (torch.arange(6) // 2)[None]
    keep, _ = nms_batch(chain(6), labels, torch.ones(1, 6, dtype=torch.bool), 0.4, 24)
    assert keep[0].tolist() == [True, False] * 3
    keep, _ = nms_batch(chain(6), torch.arange(6)[None], keep | True, 0.4, 24)
    assert keep.all()


def test_batches_are_padded_and_taken_apart_again():
    found = [
        Detections(torch.rand(n, 4), torch.rand(n), torch.arange(n), torch.arange(n) + 7)
        for n in (2, 0, 3)
    ]
    padded = pad_detections(found)
    assert padded.boxes.shape == (3, 3, 4)
    assert padded.valid.tolist() == [[True, True, False], [False] * 3, [True] * 3]
    for one, other in zip(padded.images(), found):
        assert all(torch.equal(a, b) for a, b in zip(one, other))


def test_only_keeps_the_order():
    number = torch.arange(4)[None]
    valid = torch.tensor([[True, True, True, False]])
    padded = BatchDetections(
        torch.rand(1, 4, 4), number / 4, number, number, valid, torch.tensor([True])
    )
    kept = padded.only(torch.tensor([[False, True, True, True]]))
    assert kept.images()[0].rows.tolist() == [1, 2]
    assert torch.equal(kept.images()[0].boxes, padded.boxes[0, 1:3])
