"""Test-time augmentation: the image in several sizes, mirrored or not; one NMS over all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..d2.config import CfgNode
from ..d2.modeling import detector_postprocess
from ..d2.structures import Boxes, Instances
from ..networks.branches import DetectedBoxes
from ..ops.padding import ImageView, Placement
from ..tasks import TASKS
from .meta_arch import YOLOR


class Look(NamedTuple):
    """What one view of an image shows.

    Attributes:
        rows: (R', 5 + K) that may be detections, with boxes in pixels of the image.
        numbers: (R',) int64 numbers of these rows among all of the view.
        outputs: of the branches of further tasks, by name.
        placement: of the view on its canvas.
        flip: whether it is mirrored.
    """

    rows: Tensor
    numbers: Tensor
    outputs: Mapping[str, Any]
    placement: Placement
    flip: bool


class TestTimeAugmentation(nn.Module):
    """A model that looks at every image several times, with the inputs and outputs of `YOLOR`.

    The published augmented views are the image itself, 0.83 of its size mirrored, and 0.67. Rows of
    all augmented views are taken back to the image and suppressed together; what further tasks
    predict for a detection comes from its view, and for the image from all of them, see
    `tasks.Task.join_views`.

    Args:
        model: in evaluation mode.
        scales: fraction of the image size of each view, > 0.
        flips: whether each view is mirrored left to right.

    Raises:
        ValueError: when there are not as many flips as scales, or no view, or a scale is not
            positive.
    """

    __test__ = False  # no test class, whatever pytest may think

    def __init__(self, model: YOLOR, *, scales: Sequence[float], flips: Sequence[bool]):
        super().__init__()
        if not scales or len(scales) != len(flips) or min(scales) <= 0:
            raise ValueError(
                f"TEST.AUG.SCALES is {list(scales)} and TEST.AUG.FLIPS {list(flips)}, expected as "
                "many positive shares as truth values, at least one"
            )
        self.model = model
        self.views = list(zip(scales, flips))

    @classmethod
    def from_config(cls, cfg: CfgNode, model: YOLOR) -> TestTimeAugmentation:
        return cls(model, scales=cfg.TEST.AUG.SCALES, flips=cfg.TEST.AUG.FLIPS)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """See `YOLOR.forward`, without training."""
        return [self.detect_one(inputs) for inputs in batched_inputs]

    def detect_one(self, inputs: dict) -> dict:
        """Detections of one image, and what further tasks say of it."""
        model = self.model
        image = inputs["image"].to(self.device)
        height, width = image.shape[1:]
        looks = [self.look(image, *view) for view in self.views]
        detections = model.detect(torch.cat([look.rows for look in looks]))
        boxes = Boxes(detections.boxes)
        boxes.clip((height, width))
        instances = Instances(
            (height, width),
            pred_boxes=boxes,
            scores=detections.scores,
            pred_classes=detections.labels,
            rows=detections.rows,
        )
        wanted = inputs.get("height", height), inputs.get("width", width)
        instances = detector_postprocess(instances, *wanted)
        rows = instances.rows
        instances.remove("rows")
        result = {"instances": instances}
        self.add_tasks(result, looks, rows)
        return result

    def look(self, image: Tensor, scale: float, flip: bool) -> Look:
        """One view of an image (C, H, W)."""
        height, width = image.shape[1:]
        new_height, new_width = max(int(height * scale), 1), max(int(width * scale), 1)
        view = image.flip(2) if flip else image
        if scale != 1:
            size = (new_height, new_width)
            view = F.interpolate(view[None].float(), size, mode="bilinear", align_corners=False)[0]
        batch = self.model.stage([{"image": view}])
        images = self.model.preprocess(batch)
        levels, outputs = self.model.run(images.tensor, batch.geometry.window)
        rows, numbers = self.model.passing_rows(levels, 0)
        boxes = images.placements[0].from_canvas(rows[:, :4])
        if flip:
            boxes = mirror(boxes, new_width)
        back = boxes.new_tensor([width / new_width, height / new_height]).repeat(2)
        rows = torch.cat([boxes * back, rows[:, 4:]], dim=1)
        return Look(rows, numbers, outputs, images.placements[0], flip)

    def add_tasks(self, result: dict[str, Any], looks: Sequence[Look], rows: Tensor) -> None:
        """Let every task say what it has seen, each detection by the view that it comes from.

        Args:
            result: with "instances" (D), in the wanted size.
            looks: the augmented views.
            rows: (D,) int64 numbers of the detections among the rows of all augmented views.
        """
        if not self.model.tasks:
            return
        size, boxes = result["instances"].image_size, result["instances"].pred_boxes.tensor
        # By augmented view: what a task predicts for it, for the detections that come from there.
        said: dict[str, list[Any]] = {name: [] for name in self.model.tasks}
        chosen, start = [], 0
        for look in looks:
            end = start + len(look.rows)
            own = ((rows >= start) & (rows < end)).nonzero().squeeze(1)
            numbers = look.numbers[rows[own] - start]
            # The image as the view has it, mirrored or not, in the wanted size.
            seen = mirror(boxes[own], size[1]) if look.flip else boxes[own]
            labels = result["instances"].pred_classes[own]
            detections = DetectedBoxes(numbers, seen, ImageView.of(look.placement, size), labels)
            for name, branch in self.model.tasks.items():
                decoded = branch.decode(look.outputs[name], 0, detections)
                if look.flip:
                    decoded = TASKS[name].mirror(branch, decoded, size)
                said[name].append(decoded)
            chosen.append(own)
            start = end
        order = torch.cat(chosen).argsort()
        for name, decoded in said.items():
            task = TASKS[name]
            task.add_results(result, task.join_views(decoded, order))


def mirror(boxes: Tensor, width: int) -> Tensor:
    """(R, 4) xyxy, mirrored left and right in an image of that width."""
    return torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
