"""All outputs of an exported file, batch by batch, beside those of the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...modeling import YOLOR
from ..graph import output_names
from .cases import Case
from .detections import compare_detections, compare_rows, outputs_of_image
from .tasks import TaskTensor, compare_masks, merge, task_tensors
from .tolerance import ExportMismatch, Tolerance


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
        model: whose settings of NMS count.
        case: the images and what the model makes of them.
        actual_arrays: the outputs of the file.
        suppress: whether NMS is in the file.
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
    """Of a file without NMS, see `compare`."""
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
    """Of a file with NMS, see `compare`."""
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
