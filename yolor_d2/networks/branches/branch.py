"""What all branches of further tasks have in common, and the branches of a model together."""

from __future__ import annotations

from collections.abc import ItemsView, Mapping, Sequence, ValuesView
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from torch import Tensor, nn

from ...layers import BlockForm, ImplicitOptions
from ...ops.assign import Assignment
from ...ops.masks import BoxMasks
from ...ops.padding import ImageView
from ...ops.truth import Truth


@dataclass(frozen=True)
class TaskInputs:
    """What a branch is built on.

    Attributes:
        channels: width of each feature of the neck, fine to coarse.
        strides: input pixels per cell of each level.
        num_anchors: anchors A per cell.
        anchors: (L, A, 2) their widths and heights in input pixels.
        num_classes: classes K of the detector.
        form: norm and activation of convolutions.
        options: what all implicit knowledge shares.
    """

    channels: Sequence[int]
    strides: Sequence[int]
    num_anchors: int
    anchors: Tensor
    num_classes: int
    form: BlockForm
    options: ImplicitOptions = field(default_factory=ImplicitOptions)


class DetectedBoxes(NamedTuple):
    """Detections of one image, D of them.

    Attributes:
        rows: (D,) int64 numbers of their decoded rows, in the order of `ops.decode.decode`.
        boxes: (D, 4) float32 xyxy in the wanted size, cut at the border of the image.
        view: where the image lies on the canvas.
        labels: (D,) int64 classes; None where nobody knows them.
    """

    rows: Tensor
    boxes: Tensor
    view: ImageView
    labels: Tensor | None = None


class FileOutput(NamedTuple):
    """A tensor that exported files hold of a task, beside boxes and scores.

    Attributes:
        name: of the tensor; no two tasks have the same.
        by_row: whether it is (N, R, ...), something for every decoded row in the order of
            `ops.decode.decode`, of which NMS keeps what belongs to detections; otherwise
            it is (N, ...), something for every image.
        unit: what its numbers are, by which a file's differences from the model are judged:
            "pixels" of the canvas, "score" in 0-1, or any "number".
        meaning: one line for who has the file and nothing else.
    """

    name: str
    by_row: bool
    unit: Literal["pixels", "score", "number"]
    meaning: str


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

    def decode(self, output: Any, image: int, detections: DetectedBoxes) -> Any:
        """What the output says of one image and its detections.

        Args:
            output: of the batch.
            image: its number there.
            found: its detections.
        """
        raise NotImplementedError

    # ---- In exported files

    def file_outputs(self) -> Sequence[FileOutput]:
        """What exported files hold of the output; nothing leaves the task out of them.

        A task whose output depends on `windows` cannot be in a file, which does not know where on
        the canvas an image lies.
        """
        return ()

    def export(self, output: Any) -> Sequence[Tensor]:
        """The tensors of `file_outputs` in float32, made by operators that other runtimes know."""
        raise NotImplementedError

    def masks_of(self, tensors: Mapping[str, Tensor], detections: DetectedBoxes) -> BoxMasks | None:
        """The masks that the tensors of a file mean; None of a task that has none.

        Args:
            tensors: of one image, by the names of `file_outputs`; those by row are (D, ...), of
                its detections.
            found: its detections.
        """
        return None


class TaskBranches(nn.ModuleDict):
    """The branches that are switched on, by the names of their tasks; others do not exist and have
    no parameters.

    Args:
        branches: by name, in the order of their losses.
    """

    def __init__(self, branches: Mapping[str, TaskBranch] | None = None):
        super().__init__(dict(branches or {}))

    if TYPE_CHECKING:  # what torch leaves open

        def items(self) -> ItemsView[str, TaskBranch]: ...

        def values(self) -> ValuesView[TaskBranch]: ...

        def __getitem__(self, key: str) -> TaskBranch: ...

    def forward(
        self, features: Sequence[Tensor], levels: list[Tensor], windows: Tensor
    ) -> tuple[list[Tensor], dict[str, Any]]:
        """Logits of the detection heads, and the output of every branch; see `TaskBranch`."""
        outputs = {}
        for name, branch in self.items():
            levels, outputs[name] = branch.share(levels, branch(features, windows))
        return levels, outputs

    def for_file(self) -> TaskBranches:
        """Those that an exported file needs, for what it holds of them or for its boxes."""
        return TaskBranches(
            {
                name: branch
                for name, branch in self.items()
                if branch.file_outputs() or type(branch).share is not TaskBranch.share
            }
        )

    def file_outputs(self) -> list[FileOutput]:
        """Of all branches, see `TaskBranch.file_outputs`."""
        return [x for branch in self.values() for x in branch.file_outputs()]

    def export(self, outputs: Mapping[str, Any]) -> list[Tensor]:
        """The tensors of `file_outputs`, of the outputs of the branches by name."""
        return [
            tensor
            for name, branch in self.items()
            if branch.file_outputs()
            for tensor in branch.export(outputs[name])
        ]
