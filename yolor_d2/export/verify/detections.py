"""Rows and detections of a file beside the rows of the model.

Rows without NMS must be equal up to rounding. After NMS two right answers may
differ: where two boxes score alike or overlap just about as much as is allowed, rounding decides.
So the file's detections must be what NMS may give, up to a tolerance, for the model's own
rows:

- each is one of the model's rows with a class whose score passes;
- no two of a class overlap by more than the threshold;
- whatever the model detects and the file does not is overlapped by a better box of the file, or
  scores no more than its last one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...modeling import YOLOR
from .tasks import TaskTensor
from .tolerance import ExportMismatch, Tolerance


def compare_rows(actual: Tensor, expected: Tensor, tolerance: Tolerance) -> dict:
    """Compare rows (N, R, 5 + K) one by one; see `compare`."""
    if actual.shape != expected.shape:
        raise ExportMismatch(
            f"the file gives shape {tuple(actual.shape)}, the model {tuple(expected.shape)}"
        )
    boxes = (actual[..., :4] - expected[..., :4]).abs().amax(dim=-1)
    scores = (actual[..., 4:] - expected[..., 4:]).abs().amax(dim=-1)
    # Written so that NaN is a difference.
    wrong = ~((boxes <= tolerance.of_boxes(expected[..., :4])) & (scores <= tolerance.score))
    if wrong.any():
        raise ExportMismatch(
            f"{int(wrong.sum())} of {wrong.numel()} rows differ, boxes by up to "
            f"{boxes.max():.3g} px, scores by up to {scores.max():.3g}"
        )
    return {
        "rows": expected.shape[0] * expected.shape[1],
        "largest_box_difference": float(boxes.max()),
        "largest_score_difference": float(scores.max()),
    }


def outputs_of_image(outputs: Sequence[Tensor], image: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and labels of one image without the filling."""
    boxes, scores, labels, counts = outputs
    count = int(counts[image])
    if scores[image, count:].any() or not (scores[image, :count] > 0).all():
        raise ExportMismatch(f"image {image}: {count} detections are counted, others given")
    return boxes[image, :count], scores[image, :count], labels[image, :count]


def compare_detections(
    model: YOLOR,
    rows: Tensor,
    actual: tuple[Tensor, Tensor, Tensor],
    tolerance: Tolerance,
    further: Sequence[TaskTensor] = (),
) -> dict:
    """Compare the detections of one image; see `compare` and the head of this file.

    Args:
        model: whose settings of NMS count.
        rows: (R, 5 + K) of the model itself.
        found: boxes, scores and labels of the file.
        tolerance: what rounding may do.
        further: what further tasks have of the detections, of this image.

    Returns:
        Differences for the report, and "rows": (D,) that the detections come from.
    """
    # Here, as it takes a second.
    from torchvision.ops import box_iou

    boxes, scores, labels = actual
    expected = model.detect(rows)
    nearest = list(nearest_candidates(model, rows, actual, tolerance, further))
    if (scores.diff() > tolerance.score).any():
        raise ExportMismatch("the detections are not in falling score")

    overlap = box_iou(boxes, boxes).triu(diagonal=1)
    rivals = torch.ones_like(overlap, dtype=torch.bool)
    if not model.class_agnostic_nms:
        rivals = labels[:, None] == labels
    too_much = (overlap > model.nms_threshold + tolerance.overlap) & rivals
    if too_much.any():
        raise ExportMismatch(f"{int(too_much.sum())} pairs of boxes overlap by more than allowed")

    # What the model detects and the file does not.
    same = (expected.labels[:, None] == labels) & close_boxes(expected.boxes, boxes, tolerance)
    same &= (expected.scores[:, None] - scores).abs() <= tolerance.score
    missing = ~same.any(dim=1)
    beaten = box_iou(expected.boxes, boxes) > model.nms_threshold - tolerance.overlap
    beaten &= scores >= expected.scores[:, None] - tolerance.score
    if not model.class_agnostic_nms:
        beaten &= expected.labels[:, None] == labels
    least = torch.tensor(model.class_score_thresholds or [model.score_threshold])
    least = least.expand(rows.shape[1] - 5)[expected.labels]
    explained = beaten.any(dim=1) | (expected.scores <= least + tolerance.score)
    if len(scores) == model.max_detections:
        explained |= expected.scores <= scores[-1] + tolerance.score
    if (missing & ~explained).any():
        raise ExportMismatch(
            f"{int((missing & ~explained).sum())} of {len(missing)} detections are missing"
        )
    return {
        "detections": len(scores),
        "decided_by_rounding": int(missing.sum()),
        "largest_box_difference": max((x.box for x in nearest), default=0.0),
        "largest_score_difference": max((x.score for x in nearest), default=0.0),
        "rows": torch.tensor([x.row for x in nearest], dtype=torch.int64),
    }


def close_boxes(expected: Tensor, actual: Tensor, tolerance: Tolerance) -> Tensor:
    """(E, F) whether boxes (E, 4) and (F, 4) are the same up to rounding."""
    distance = (expected[:, None] - actual).abs().amax(dim=-1)
    return distance <= tolerance.of_boxes(expected)[:, None]


class Candidate(NamedTuple):
    """The row that a detection comes from, and how far they are apart.

    Attributes:
        row: its number.
        box: pixels.
        score: of the class.
    """

    row: int
    box: float
    score: float


def nearest_candidates(
    model: YOLOR,
    rows: Tensor,
    actual: tuple[Tensor, Tensor, Tensor],
    tolerance: Tolerance,
    further: Sequence[TaskTensor] = (),
) -> Iterator[Candidate]:
    """The row that each detection comes from; arguments as of `compare_detections`.

    Raises:
        ExportMismatch: when a detection comes from no row.
    """
    least = min(model.class_score_thresholds or [model.score_threshold])
    numbers = (rows[:, 4] > least - tolerance.score).nonzero()[:, 0]
    rows = rows[numbers]
    for index, (box, score, label) in enumerate(zip(*actual)):
        boxes = (rows[:, :4] - box).abs().amax(dim=1)
        scores = (rows[:, 4] * rows[:, 5 + label] - score).abs()
        fits = (boxes <= tolerance.of_boxes(rows[:, :4])) & (scores <= tolerance.score)
        fitting = fits.nonzero()[:, 0]
        if not len(fitting):
            raise ExportMismatch(
                f"a detection of class {int(label)}, score {float(score):.4f}, at "
                f"{[round(x, 2) for x in box.tolist()]} comes from no row of the model"
            )
        # Of several that fit, the one that fits best, in what further tasks say of it first: boxes
        # of a crowd may be equal up to rounding, and what they stand for not.
        for x in further:
            if len(fitting) > 1:
                excess = x.excess(index, numbers[fitting])
                fitting = fitting[excess <= excess.min().clamp(min=1)]
        best = int(fitting[scores[fitting].argmin()])
        yield Candidate(int(numbers[best]), float(boxes[best]), float(scores[best]))
