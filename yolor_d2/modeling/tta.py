"""Test-time augmentation: the image in several sizes, mirrored or not; one suppression over all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..d2.config import CfgNode
from ..d2.modeling import detector_postprocess
from ..d2.structures import Boxes, Instances
from .meta_arch import YOLOR


class TestTimeAugmentation(nn.Module):
    """A model that looks at every image several times, with the inputs and outputs of `YOLOR`.

    The published views are the image itself, 0.83 of its size mirrored, and 0.67. Rows of all views
    are taken back to the image and suppressed together.

    Args:
        model: in evaluation mode.
        scales: share of the image size of each view, > 0.
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
        """Detections of one image."""
        model = self.model
        image = inputs["image"].to(self.device)
        height, width = image.shape[1:]
        rows = torch.cat([self.rows_of_view(image, *view) for view in self.views])
        found = model.detect(rows)
        boxes = Boxes(found.boxes)
        boxes.clip((height, width))
        instances = Instances(
            (height, width), pred_boxes=boxes, scores=found.scores, pred_classes=found.labels
        )
        wanted = inputs.get("height", height), inputs.get("width", width)
        return {"instances": detector_postprocess(instances, *wanted)}

    def rows_of_view(self, image: Tensor, scale: float, flip: bool) -> Tensor:
        """(R', 5 + K) rows of one view, with boxes in pixels of the image (C, H, W)."""
        height, width = image.shape[1:]
        new_height, new_width = max(int(height * scale), 1), max(int(width * scale), 1)
        view = image.flip(2) if flip else image
        if scale != 1:
            size = (new_height, new_width)
            view = F.interpolate(view[None].float(), size, mode="bilinear", align_corners=False)[0]
        rows = self.model.candidate_rows(view)
        boxes = rows[:, :4]
        if flip:
            boxes = torch.stack(
                [new_width - boxes[:, 2], boxes[:, 1], new_width - boxes[:, 0], boxes[:, 3]], dim=1
            )
        back = boxes.new_tensor([width / new_width, height / new_height]).repeat(2)
        return torch.cat([boxes * back, rows[:, 4:]], dim=1)
