"""What all branches of further tasks have in common, and the branches of a model together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from ...layers import BlockForm, ImplicitOptions
from ...ops.assign import Assignment
from ...ops.padding import ImageView
from ...ops.truth import Truth


@dataclass(frozen=True)
class TaskInputs:
    """What a branch is built on.

    Attributes:
        channels: width of each feature of the neck, fine to coarse.
        strides: input pixels per cell of each level.
        num_anchors: anchors A per cell.
        num_classes: classes K of the detector.
        form: norm and activation of convolutions.
        options: what all implicit knowledge shares.
    """

    channels: Sequence[int]
    strides: Sequence[int]
    num_anchors: int
    num_classes: int
    form: BlockForm
    options: ImplicitOptions = field(default_factory=ImplicitOptions)


class Found(NamedTuple):
    """Detections of one image, D of them.

    Attributes:
        rows: (D,) int64 numbers of their decoded rows, in the order of `ops.decode.decode`.
        boxes: (D, 4) float32 xyxy in the wanted size, cut at the border of the image.
        view: where the image lies on the canvas.
    """

    rows: Tensor
    boxes: Tensor
    view: ImageView


class TaskBranch(nn.Module):
    """One task beside detection: what it computes, what it should have computed, and what that
    means. What it computes, its *output*, is of any form; nobody else looks into it.

    Args:
        gain: weight of the loss.
    """

    # Names of tensors whose shape depends on the training data; those of other data are not loaded.
    by_data: tuple[str, ...] = ()

    def __init__(self, gain: float = 1.0):
        super().__init__()
        self.gain = gain

    def forward(self, features: Sequence[Tensor], windows: Tensor) -> Any:
        """The output of a batch.

        Args:
            features: (N, Ci, Hi, Wi) of the neck, fine to coarse.
            windows: (N, 4) xyxy of each image on the canvas, in input pixels.
        """
        raise NotImplementedError

    def share(self, levels: list[Tensor], output: Any) -> tuple[list[Tensor], Any]:
        """The logits of the detection heads and the output, where one takes part in the other."""
        return levels, output

    def losses(self, output: Any, truth: Truth, targets: Assignment) -> dict[str, Tensor]:
        """Weighted losses by name, means over the batch.

        Args:
            output: of the batch.
            truth: ground truth of the batch.
            targets: positives of the detection heads.
        """
        raise NotImplementedError

    def decode(self, output: Any, image: int, found: Found) -> Any:
        """What the output says of one image and its detections.

        Args:
            output: of the batch.
            image: its number there.
            found: its detections.
        """
        raise NotImplementedError


class TaskBranches(nn.ModuleDict):
    """The branches that are switched on, by the names of their tasks; others do not exist and have
    no parameters.

    Args:
        branches: by name, in the order of their losses.
    """

    def __init__(self, branches: Mapping[str, TaskBranch] | None = None):
        super().__init__(dict(branches or {}))

    def forward(
        self, features: Sequence[Tensor], levels: list[Tensor], windows: Tensor
    ) -> tuple[list[Tensor], dict[str, Any]]:
        """Logits of the detection heads, and the output of every branch; see `TaskBranch`."""
        outputs = {}
        for name, branch in self.items():
            assert isinstance(branch, TaskBranch)
            levels, outputs[name] = branch.share(levels, branch(features, windows))
        return levels, outputs
