"""What a student learns from a teacher: boxes, objectness and classes, cell by cell.

Objectness scales the rest (Mehta and Ozturk 2018, "Object detection at 200 frames per second"):
where the teacher sees an object its box and classes are learned, where it sees none they are not.
The student learns the teacher's objectness everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from .boxes import paired_iou
from .decode import decode_offsets
from .device import shapes_may_depend_on_values
from .losses import (
    DetectionLosses,
    LossGains,
    at_least_float32,
    binary_cross_entropy,
    weigh_terms,
)


@dataclass(frozen=True)
class DistillationGains:
    """How much the teacher counts beside the ground truth.

    Attributes:
        box, objectness, classes: weights of the terms; with 1 each weighs as the term of the same
            name in the detection loss.
        least_objectness: boxes and classes count where the teacher's objectness is at least this.
    """

    box: float = 1.0
    objectness: float = 1.0
    classes: float = 1.0
    least_objectness: float = 0.05

    def __post_init__(self):
        for field in fields(self):
            value, key = getattr(self, field.name), f"MODEL.YOLOR.TEACHER.{field.name.upper()}"
            if field.name == "least_objectness":
                if not 0 <= value < 1:
                    raise ValueError(f"{key} is {value}, expected a number in [0, 1)")
            elif not 0 <= value < float("inf"):
                raise ValueError(f"{key} is {value}, expected a finite number of at least 0")


class Lesson(NamedTuple):
    """What of one level is compared, R rows; a row is an anchor of the student in a cell.

    Attributes:
        student, teacher: (R, 5 + K) logits.
        anchors, teacher_anchors: (R, 2) in cells.
        weight: (R,) the teacher's objectness, 0 where the row does not count.
    """

    student: Tensor
    teacher: Tensor
    anchors: Tensor
    teacher_anchors: Tensor
    weight: Tensor


def common_levels(strides: Sequence[int], teacher_strides: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs (level of the student, level of the teacher) of the same stride, fine to coarse."""
    levels = {stride: j for j, stride in enumerate(teacher_strides)}
    return [(i, levels[stride]) for i, stride in enumerate(strides) if stride in levels]


def nearest_anchors(anchors: Tensor, teacher_anchors: Tensor) -> Tensor:
    """Which anchor of the teacher teaches each of the student's: the one of the nearest shape.

    Args:
        anchors: (A, 2) widths and heights.
        teacher_anchors: (B, 2) in the same unit.

    Returns:
        (A,) int64 indices: of the least sum of the absolute logarithms of the ratios of widths and
        of heights, the first one of equals.
    """
    distance = (anchors[:, None].log() - teacher_anchors.log()).abs().sum(dim=2)  # (A, B)
    return distance.argmin(dim=1)


def compare_cells(
    student: Tensor,
    teacher: Tensor,
    anchors: Tensor,
    teacher_anchors: Tensor,
    objectness: Tensor,
    least_objectness: float,
) -> Lesson:
    """The rows of one level whose boxes and classes count; where leaving the others out would make
    the host wait, they have the weight 0, and logits of 0.

    Args:
        student: (N, A, H, W, 5 + K) logits.
        teacher: the same shape, of the anchors that teach.
        anchors, teacher_anchors: (A, 2) in cells.
        objectness: (N, A, H, W) the teacher's, 0-1.
        least_objectness: see `DistillationGains`.
    """
    counts = objectness >= least_objectness
    if shapes_may_depend_on_values(objectness):
        places = counts.nonzero(as_tuple=True)
        own, others = anchors[places[1]], teacher_anchors[places[1]]
        rows, wanted = (at_least_float32(x[places]) for x in (student, teacher))
        return Lesson(rows, wanted, own, others, objectness[places])
    # Nothing that other cells hold may reach the sums, be it infinite.
    rows, wanted = (
        at_least_float32(x).masked_fill(~counts[..., None], 0.0).flatten(0, 3)
        for x in (student, teacher)
    )
    shape = (*student.shape[:4], 2)
    own, others = (x[:, None, None].expand(shape).flatten(0, 3) for x in (anchors, teacher_anchors))
    return Lesson(rows, wanted, own, others, objectness.masked_fill(~counts, 0.0).flatten())


def lesson_terms(lesson: Lesson, form: str) -> tuple[Tensor, Tensor]:
    """Unweighted terms of one level.

    Args:
        lesson: its rows.
        form: of CIoU, see `boxes.paired_iou`.

    Returns:
        0-dim: 1 - CIoU with the teacher's boxes, and the cross entropy with its class scores, means
        over the rows by their weights; 0 without rows.
    """
    student, teacher, anchors, teacher_anchors, weight = lesson
    # Where the teacher does not see one whole object, so little counts as it sees.
    fraction = weight / weight.sum().clamp(min=1)
    boxes = torch.cat(decode_offsets(student[:, :4], anchors), dim=1)
    wanted = torch.cat(decode_offsets(teacher[:, :4], teacher_anchors), dim=1)
    box = ((1 - paired_iou(boxes, wanted, kind="ciou", form=form)) * fraction).sum()
    if student.shape[1] == 6:  # one class is always right
        return box, box.new_zeros(())
    return box, binary_cross_entropy(student[:, 5:], teacher[:, 5:].sigmoid(), weight=fraction)


def distillation_losses(
    levels: Sequence[Tensor],
    teacher_levels: Sequence[Tensor],
    anchors: Tensor,
    teacher_anchors: Tensor,
    strides: Sequence[int],
    teacher_strides: Sequence[int],
    gains: LossGains = LossGains(),
    teacher_gains: DistillationGains = DistillationGains(),
) -> DetectionLosses:
    """How far a student is from its teacher, on the same batch.

    Taught are the levels whose stride both have. An anchor of the student learns from the teacher's
    anchor of the nearest shape, in the same cell; each box is decoded with its own anchor.

    The terms are normalised and weighted as those of `ops.losses.detection_losses` are, so that a
    gain of the teacher is a fraction of the gain for the ground truth, whatever the size, the batch
    and the number of levels and classes: box and class terms are means over the positives of a
    level, which the teacher's objectness counts (its sum takes the place of their number), and
    objectness is a mean over all cells with the balance of the levels. The entropy of the teacher's
    own doubt stays in the cross entropies; it has no gradient.

    Args:
        levels: L logits (N, A, H, W, 5 + K) of the student, fine to coarse.
        teacher_levels: logits (N, B, H', W', 5 + K) of the teacher, with H' >= H and W' >= W where
            the strides agree: what lies beyond the student's grid is not looked at.
        anchors: (L, A, 2) in input pixels.
        teacher_anchors: the teacher's, one row for each of its levels.
        strides: L strides.
        teacher_strides: the teacher's.
        gains: weights of the student's detection loss.
        teacher_gains: how much the teacher counts beside it.

    Returns:
        Weighted terms, means over the batch. There is no gradient towards the teacher.

    Raises:
        ValueError: when no stride is common, or the numbers of classes differ.
    """
    outputs, teacher_outputs = levels[0].shape[-1], teacher_levels[0].shape[-1]
    if outputs != teacher_outputs:
        raise ValueError(
            f"the student has {outputs - 5} classes, the teacher (MODEL.YOLOR.TEACHER) "
            f"{teacher_outputs - 5}: they must have the same"
        )
    pairs = common_levels(strides, teacher_strides)
    if not pairs:
        raise ValueError(
            f"no level is common: the student has strides {list(strides)}, the teacher "
            f"(MODEL.YOLOR.TEACHER.CONFIG) {list(teacher_strides)}"
        )
    zero = at_least_float32(levels[0].new_zeros(()))
    box, classes, by_level = zero, zero, [zero] * len(levels)
    for i, j in pairs:
        student, taught_by = levels[i], nearest_anchors(anchors[i], teacher_anchors[j])
        height, width = student.shape[2:4]
        teacher = teacher_levels[j].detach()[:, :, :height, :width].index_select(1, taught_by)
        objectness = at_least_float32(teacher[..., 4]).sigmoid()
        by_level[i] = binary_cross_entropy(at_least_float32(student[..., 4]), objectness)
        lesson = compare_cells(
            student,
            teacher,
            anchors[i] / strides[i],
            teacher_anchors[j][taught_by] / strides[i],
            objectness,
            teacher_gains.least_objectness,
        )
        terms = lesson_terms(lesson, gains.ciou)
        box, classes = box + terms[0], classes + terms[1]
    terms = weigh_terms(box, by_level, classes, gains, outputs - 5)
    factors = teacher_gains.box, teacher_gains.objectness, teacher_gains.classes
    return DetectionLosses(*(fraction * term for fraction, term in zip(factors, terms)))
