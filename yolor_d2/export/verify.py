"""Does an exported file compute what the model computes?

Rows without suppression must be equal up to rounding. After suppression two right answers may
differ: where two boxes score alike or overlap just about as much as is allowed, rounding decides.
So the file's detections must be what suppression may give, up to a tolerance, for the model's own
rows:

- each is one of the model's rows with a class whose score passes;
- no two of a class overlap by more than the threshold;
- whatever the model detects and the file does not is overlapped by a better box of the file, or
  scores no more than its last one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..modeling import YOLOR
from ..modeling.images import PAD_VALUE
from ..ops import decode


class ExportMismatch(ValueError):
    """An exported file does not compute what the model computes."""


@dataclass(frozen=True)
class Tolerance:
    """What rounding may do.

    Attributes:
        pixels: of a box's sides, plus this share of its longer side:
        share: see `pixels`.
        score: of objectness, class scores and their product.
        overlap: of the IoU of two boxes.
    """

    pixels: float = 0.01
    share: float = 1e-4
    score: float = 1e-4
    overlap: float = 1e-3

    def of_boxes(self, boxes: Tensor) -> Tensor:
        """(...,) pixels that each box (..., 4) may be off."""
        return self.pixels + self.share * (boxes[..., 2:] - boxes[..., :2]).amax(dim=-1)


@dataclass(frozen=True)
class Batch:
    """Images to compare on.

    Attributes:
        name: what they are, for the report.
        images: (C, H, W) each with values 0-255, in the model's channel order and test size. Those
            of a batch have one size.
    """

    name: str
    images: Sequence[Tensor]


# Of files whose network computes in float16: its steps are 5e-4 of a number, which add up over the
# layers. Measured in docs/export.md. Images without suppression have rows of every size, hence the
# share.
HALF_TOLERANCE = Tolerance(pixels=1.0, share=0.02, score=0.02, overlap=0.05)


def rows_of_pixels(model: YOLOR, pixels: Tensor) -> Tensor:
    """(N, R, 5 + K) decoded rows for (N, C, H, W) normalised images."""
    _, levels = model.run_network(pixels)
    return decode(levels, model.anchors, model.strides)


@torch.no_grad()
def rows_of(model: YOLOR, images: Sequence[Tensor]) -> Tensor:
    """(N, R, 5 + K) decoded rows of the model itself, which prepares the images its own way."""
    return rows_of_pixels(model, model.preprocess([{"image": x} for x in images]).tensor)


@torch.no_grad()
def rows_on_canvas(model: YOLOR, images: Tensor) -> Tensor:
    """(N, R, 5 + K) decoded rows of the model for images (N, C, H, W) on a canvas that it would
    not have chosen."""
    return rows_of_pixels(model, (images - model.pixel_mean) / model.pixel_std)


def padded(image: Tensor, pad: dict) -> Tensor:
    """(C, H, W) float32 on the canvas that the description of a file asks for."""
    step, border = pad["multiple_of"], []
    for axis in (2, 1):  # F.pad begins with the last axis
        side = image.shape[axis]
        canvas = max(math.ceil(side / step + pad["margin"]) * step, pad["at_least"])
        whole = (pad["canvas"][axis - 1] if "canvas" in pad else canvas) - side
        before = int(whole * pad["before"])
        border += [before, whole - before]
    return F.pad(image.float(), border, value=PAD_VALUE)


@dataclass(frozen=True)
class Case:
    """Images as a file takes them, and what the model computes of them.

    Attributes:
        name: that of the batch.
        pixels: (N, C, H, W) float32, values 0-255, on their canvas.
        rows: (N, R, 5 + K) of the model itself.
    """

    name: str
    pixels: Tensor
    rows: Tensor


def prepare_case(model: YOLOR, batch: Batch, pad: dict) -> Case:
    """Let the model compute what a file is compared with.

    Args:
        model: in evaluation mode, as it was trained: nothing folded.
        batch: the images.
        pad: the canvas as the file describes it, see `metadata.describe_padding`.
    """
    pixels = torch.stack([padded(x, pad) for x in batch.images])
    # A canvas of a fixed size is the file's alone; any other one is the model's, and proved too.
    own = "canvas" not in pad
    rows = rows_of(model, batch.images) if own else rows_on_canvas(model, pixels)
    return Case(batch.name, pixels, rows)


def compare(
    model: YOLOR,
    case: Case,
    found_arrays: Sequence[np.ndarray],
    *,
    suppress: bool,
    tolerance: Tolerance = Tolerance(),
) -> dict:
    """Compare what a file computes with the model.

    Args:
        model: whose settings of suppression count.
        case: the images and what the model makes of them.
        found_arrays: the outputs of the file.
        suppress: whether suppression is in the file.
        tolerance: what rounding may do.

    Returns:
        Differences for the report, as plain data.

    Raises:
        ExportMismatch: when the file differs by more.
    """
    outputs = [torch.from_numpy(np.asarray(x)) for x in found_arrays]
    shape = tuple(case.pixels.shape)
    result = {"name": case.name, "shape": list(shape)}
    try:
        if not suppress:
            return {**result, **compare_rows(outputs[0], case.rows, tolerance)}
        found = [
            compare_detections(model, one_row, outputs_of_image(outputs, i), tolerance)
            for i, one_row in enumerate(case.rows)
        ]
    except ExportMismatch as error:
        raise ExportMismatch(f"{case.name}, shape {shape}: {error}") from None
    worst = ("largest_box_difference", "largest_score_difference")
    counts = ("detections", "decided_by_rounding")
    return {
        **result,
        **{key: max(x[key] for x in found) for key in worst},
        **{key: sum(x[key] for x in found) for key in counts},
    }


def compare_rows(found: Tensor, expected: Tensor, tolerance: Tolerance) -> dict:
    """Compare rows (N, R, 5 + K) one by one; see `compare`."""
    if found.shape != expected.shape:
        raise ExportMismatch(
            f"the file gives shape {tuple(found.shape)}, the model {tuple(expected.shape)}"
        )
    boxes = (found[..., :4] - expected[..., :4]).abs().amax(dim=-1)
    scores = (found[..., 4:] - expected[..., 4:]).abs().amax(dim=-1)
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
    model: YOLOR, rows: Tensor, found: tuple[Tensor, Tensor, Tensor], tolerance: Tolerance
) -> dict:
    """Compare the detections of one image; see `compare` and the head of this file.

    Args:
        model: whose settings of suppression count.
        rows: (R, 5 + K) of the model itself.
        found: boxes, scores and labels of the file.
        tolerance: what rounding may do.
    """
    # Here, as it takes a second.
    from torchvision.ops import box_iou

    boxes, scores, labels = found
    expected = model.detect(rows)
    box_errors, score_errors = nearest_candidates(model, rows, found, tolerance)
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
        "largest_box_difference": box_errors,
        "largest_score_difference": score_errors,
    }


def close_boxes(expected: Tensor, found: Tensor, tolerance: Tolerance) -> Tensor:
    """(E, F) whether boxes (E, 4) and (F, 4) are the same up to rounding."""
    distance = (expected[:, None] - found).abs().amax(dim=-1)
    return distance <= tolerance.of_boxes(expected)[:, None]


def nearest_candidates(
    model: YOLOR, rows: Tensor, found: tuple[Tensor, Tensor, Tensor], tolerance: Tolerance
) -> tuple[float, float]:
    """Largest difference of boxes and scores between detections and the rows that they come from.

    Raises:
        ExportMismatch: when a detection comes from no row.
    """
    least = min(model.class_score_thresholds or [model.score_threshold])
    rows = rows[rows[:, 4] > least - tolerance.score]
    worst_box = worst_score = 0.0
    for box, score, label in zip(*found):
        boxes = (rows[:, :4] - box).abs().amax(dim=1)
        scores = (rows[:, 4] * rows[:, 5 + label] - score).abs()
        fits = (boxes <= tolerance.of_boxes(rows[:, :4])) & (scores <= tolerance.score)
        if not fits.any():
            raise ExportMismatch(
                f"a detection of class {int(label)}, score {float(score):.4f}, at "
                f"{[round(x, 2) for x in box.tolist()]} comes from no row of the model"
            )
        # Of several that fit, the one that fits best.
        best = int(torch.where(fits, scores, torch.inf).argmin())
        worst_box = max(worst_box, float(boxes[best]))
        worst_score = max(worst_score, float(scores[best]))
    return worst_box, worst_score
