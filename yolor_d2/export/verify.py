"""Does an exported file compute what the model computes?

Rows without suppression must be equal up to rounding. After suppression two right answers may
differ: where two boxes score alike or overlap just about as much as is allowed, rounding decides.
So the file's detections must be what suppression may give, up to a tolerance, for the model's own
rows:

- each is one of the model's rows with a class whose score passes;
- no two of a class overlap by more than the threshold;
- whatever the model detects and the file does not is overlapped by a better box of the file, or
  scores no more than its last one.

What a file holds of further tasks must be that of the model too: of the same rows, and of the
images. Masks are drawn from both besides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..modeling import YOLOR
from ..modeling.images import PAD_VALUE
from ..networks.branches import DetectedBoxes, FileOutput
from ..ops import decode
from ..ops.masks import BoxMasks
from ..ops.padding import ImageView
from .graph import output_names, whole_canvas


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
        number: of other numbers, as a share of the largest of their tensor.
        masks: 1 - IoU of the masks of all detections of an image.
    """

    pixels: float = 0.01
    fraction: float = 1e-4
    score: float = 1e-4
    overlap: float = 1e-3
    number: float = 1e-3
    masks: float = 0.01

    def of_boxes(self, boxes: Tensor) -> Tensor:
        """(...,) pixels that each box (..., 4) may be off."""
        return self.pixels + self.fraction * (boxes[..., 2:] - boxes[..., :2]).amax(dim=-1)

    def of_output(self, unit: str, expected: Tensor) -> Tensor:
        """What each number of an output of a further task may be off, see `FileOutput.unit`."""
        if unit == "pixels":
            return self.pixels + self.fraction * expected.abs()
        least = self.score if unit == "score" else self.number * float(expected.abs().max())
        return torch.full_like(expected, least)


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
HALF_TOLERANCE = Tolerance(
    pixels=1.0, fraction=0.02, score=0.02, overlap=0.05, number=0.05, masks=0.1
)


class ModelOutput(NamedTuple):
    """What the model itself computes of a batch.

    Attributes:
        rows: (N, R, 5 + K) decoded rows.
        outputs: of the branches of further tasks, by name.
    """

    rows: Tensor
    outputs: Mapping[str, Any]


def run_model(model: YOLOR, pixels: Tensor, windows: Tensor) -> ModelOutput:
    """For (N, C, H, W) normalised images, and where they lie, (N, 4) xyxy."""
    levels, outputs = model.run(pixels, windows)
    return ModelOutput(decode(levels, model.anchors, model.strides), outputs)


@torch.no_grad()
def run_on_images(model: YOLOR, images: Sequence[Tensor]) -> ModelOutput:
    """By the model, which prepares the images (C, H, W) its own way."""
    batch = model.stage([{"image": x} for x in images])
    return run_model(model, model.preprocess(batch).tensor, batch.geometry.window)


@torch.no_grad()
def run_on_canvas(model: YOLOR, images: Tensor) -> ModelOutput:
    """By the model, of images (N, C, H, W) on a canvas that it would not have chosen."""
    pixels = (images - model.pixel_mean) / model.pixel_std
    return run_model(model, pixels, whole_canvas(images))


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
        computed: by the model itself.
    """

    name: str
    pixels: Tensor
    computed: ModelOutput


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
    return Case(
        batch.name,
        pixels,
        run_on_images(model, batch.images) if own else run_on_canvas(model, pixels),
    )


@dataclass(frozen=True)
class TaskTensor:
    """An output of a further task.

    Attributes:
        about: which it is.
        found: in the file.
        expected: that of the model; where it is by row, `found` may have those of detections alone.
        allowed: what each number of `expected` may be off.
    """

    about: FileOutput
    actual: Tensor
    expected: Tensor
    allowed: Tensor

    def of_image(self, image: int) -> TaskTensor:
        """Without the axis of the batch."""
        tensors = (x[image] for x in (self.actual, self.expected, self.allowed))
        return TaskTensor(self.about, *tensors)

    def excess(self, index: int, rows: Tensor) -> Tensor:
        """(R',) how many times what is allowed a detection of an image differs from rows (R',)."""
        apart = (self.actual[index] - self.expected[rows]).abs() / self.allowed[rows]
        return apart.flatten(1).amax(dim=1)

    def largest_difference(self, index: Tensor | None = None, rows: Tensor | None = None) -> float:
        """Of all numbers, or of detections (D,) and the rows (D,) that they come from.

        Raises:
            ExportMismatch: when it is more than is allowed.
        """
        actual, expected, allowed = self.actual, self.expected, self.allowed
        if index is not None:
            actual, expected, allowed = actual[index], expected[rows], allowed[rows]
        if actual.shape != expected.shape:
            raise ExportMismatch(
                f"{self.about.name} has shape {tuple(actual.shape)} in the file, "
                f"{tuple(expected.shape)} in the model"
            )
        apart = (actual - expected).abs()
        # Written so that NaN is a difference.
        wrong = ~(apart <= allowed)
        if wrong.any():
            raise ExportMismatch(
                f"{int(wrong.sum())} of {wrong.numel()} numbers of {self.about.name} differ, by up "
                f"to {apart.max():.3g}"
            )
        return float(apart.max()) if apart.numel() else 0.0


def task_tensors(
    model: YOLOR, case: Case, actual: Sequence[Tensor], tolerance: Tolerance
) -> list[TaskTensor]:
    """Outputs of further tasks in a file, beside the model's."""
    about = model.tasks.file_outputs()
    expected = model.tasks.export(case.computed.outputs)
    return [
        TaskTensor(one, here, there, tolerance.of_output(one.unit, there))
        for one, here, there in zip(about, actual, expected)
    ]


@torch.no_grad()
def compare(
    model: YOLOR,
    case: Case,
    actual_arrays: Sequence[np.ndarray],
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
    outputs = [torch.from_numpy(np.asarray(x)) for x in actual_arrays]
    names = output_names(model.tasks, suppress=suppress)
    shape = tuple(case.pixels.shape)
    try:
        if len(outputs) != len(names):
            raise ExportMismatch(f"the file gives {len(outputs)} outputs, expected {names}")
        count = len(names) - len(model.tasks.file_outputs())
        further = task_tensors(model, case, outputs[count:], tolerance)
        compared = compare_detections_of_batch if suppress else compare_rows_of_batch
        differences = compared(model, case, outputs[:count], further, tolerance)
    except ExportMismatch as error:
        raise ExportMismatch(f"{case.name}, shape {shape}: {error}") from None
    return {"name": case.name, "shape": list(shape), **differences}


def compare_rows_of_batch(
    model: YOLOR,
    case: Case,
    outputs: Sequence[Tensor],
    further: Sequence[TaskTensor],
    tolerance: Tolerance,
) -> dict:
    """Of a file without suppression, see `compare`."""
    rows = case.computed.rows
    result = compare_rows(outputs[0], rows, tolerance)
    apart = {x.about.name: x.largest_difference() for x in further}
    for image, one in enumerate(rows) if model.tasks else ():
        # Masks of what would be detected.
        numbers = model.detect(one).rows
        of_image = [x.of_image(image) for x in further]
        tensors = {
            x.about.name: x.actual[numbers] if x.about.by_row else x.actual for x in of_image
        }
        merge(apart, compare_masks(model, case, image, numbers, tensors, tolerance))
    return {**result, **({"further_differences": apart} if apart else {})}


def compare_detections_of_batch(
    model: YOLOR,
    case: Case,
    outputs: Sequence[Tensor],
    further: Sequence[TaskTensor],
    tolerance: Tolerance,
) -> dict:
    """Of a file with suppression, see `compare`."""
    parts = []
    apart = {x.about.name: 0.0 if x.about.by_row else x.largest_difference() for x in further}
    for image, rows in enumerate(case.computed.rows):
        detections = outputs_of_image(outputs, image)
        of_image = [x.of_image(image) for x in further]
        by_row = [x for x in of_image if x.about.by_row]
        one = compare_detections(model, rows, detections, tolerance, by_row)
        numbers = one.pop("rows")
        parts.append(one)
        count = torch.arange(len(numbers))
        merge(apart, {x.about.name: x.largest_difference(count, numbers) for x in by_row})
        tensors = {x.about.name: x.actual for x in of_image}
        tensors |= {x.about.name: x.actual[: len(numbers)] for x in by_row}
        merge(apart, compare_masks(model, case, image, numbers, tensors, tolerance))
    worst = ("largest_box_difference", "largest_score_difference")
    counts = ("detections", "decided_by_rounding")
    return {
        **{key: max(x[key] for x in parts) for key in worst},
        **{key: sum(x[key] for x in parts) for key in counts},
        **({"further_differences": apart} if apart else {}),
    }


def merge(apart: dict[str, float], further: Mapping[str, float]) -> None:
    """Keep the larger difference of each name."""
    for name, value in further.items():
        apart[name] = max(apart.get(name, 0.0), value)


def compare_masks(
    model: YOLOR,
    case: Case,
    image: int,
    numbers: Tensor,
    tensors: Mapping[str, Tensor],
    tolerance: Tolerance,
) -> dict[str, float]:
    """1 - IoU of the masks of an image that a file means and that the model means.

    Args:
        model: whose branches are asked.
        case: what the model computes.
        image: its number in the batch.
        numbers: (D,) rows of the detections.
        tensors: of the file, see `TaskBranch.masks_of`.
        tolerance: what rounding may do.

    Returns:
        By name of the task; 0 where nothing is inside of any mask.

    Raises:
        ExportMismatch: when it is more than is allowed.
    """
    height, width = case.pixels.shape[2:]
    boxes = case.computed.rows[image, numbers, :4].clone()
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, width)
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, height)
    view = ImageView((0.0, 0.0), (1.0, 1.0), (height, width))
    detections, apart = DetectedBoxes(numbers, boxes, view), {}
    for name, branch in model.tasks.items():
        masks = branch.masks_of(tensors, detections) if branch.file_outputs() else None
        if masks is None:
            continue
        expected = branch.decode(case.computed.outputs[name], image, detections)
        apart[f"{name}, 1 - IoU"] = difference = 1 - overlap_of_masks(masks, expected)
        if not difference <= tolerance.masks:
            raise ExportMismatch(
                f"the {name} drawn of the file and of the model have an IoU of "
                f"{1 - difference:.3f}, expected at least {1 - tolerance.masks:g}"
            )
    return apart


def overlap_of_masks(masks: BoxMasks, others: BoxMasks) -> float:
    """IoU of masks, pixels of all objects counted together; 1 where there are none."""
    shared = either = 0
    for one, other in zip(masks, others):
        shared += int((one & other).sum())
        either += int((one | other).sum())
    return shared / either if either else 1.0


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
        model: whose settings of suppression count.
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
