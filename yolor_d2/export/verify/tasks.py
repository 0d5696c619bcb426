"""Outputs of further tasks in a file beside those of the model: numbers, and the masks of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ...modeling import YOLOR
from ...networks.branches import DetectedBoxes, FileOutput
from ...ops.masks import BoxMasks
from ...ops.padding import ImageView
from .cases import Case
from .tolerance import ExportMismatch, Tolerance


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
