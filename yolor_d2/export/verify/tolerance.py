"""What rounding may do to the numbers of a file, and the error where they differ by more."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


class ExportMismatch(ValueError):
    """An exported file does not compute what the model computes."""


@dataclass(frozen=True)
class Tolerance:
    """What rounding may do.

    Attributes:
        pixels: of a box's sides, plus this fraction of its longer side:
        share: see `pixels`.
        score: of objectness, class scores and their product.
        overlap: of the IoU of two boxes.
        number: of other numbers, as a fraction of the largest of their tensor.
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


# Of files whose network computes in float16: its steps are 5e-4 of a number, which add up over the
# layers. Measured in docs/export.md. Images without NMS have rows of every size, hence the
# relative tolerance.
HALF_TOLERANCE = Tolerance(
    pixels=1.0, fraction=0.02, score=0.02, overlap=0.05, number=0.05, masks=0.1
)
