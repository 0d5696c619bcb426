"""Instance masks, see `networks.branches.masks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..networks.branches import MaskBranch, TaskBranch, TaskInputs
from ..networks.branches.masks import PROTOTYPE_STRIDE
from ..ops.masks import BoxMasks
from ..ops.padding import Placement
from .task import Task

if TYPE_CHECKING:
    from ..d2.config import CfgNode
    from ..d2.structures import Instances


class MasksTask(Task):
    """In: gt_masks, polygons or pixels. Out: pred_masks, `ops.masks.BoxMasks`. Its metrics are
    those of `COCOEvaluator`."""

    name: ClassVar = "masks"
    ground_truth: ClassVar = ("polygons",)
    metrics: ClassVar = "segm"
    least_values: ClassVar = {"CHANNELS": 0, "COEFFICIENTS": 1, "POSITIVES": 1, "GAIN": 0}
    toy_values: ClassVar = {"CHANNELS": 32, "COEFFICIENTS": 16}

    def add_config(self, node: CfgNode) -> None:
        # A mask for each object, mixed from prototypes of the image.
        node.ENABLED = False
        # Implicit operator on the coefficients, "none", "add" or "mul".
        node.IMPLICIT = "none"
        # Width of the convolutions that make the prototypes; 0: a quarter of the finest feature's.
        node.CHANNELS = 0
        # Prototypes, and coefficients of each prediction.
        node.COEFFICIENTS = 32
        # Positives of an image that the loss looks at, at most: it bounds memory on a GPU.
        node.POSITIVES = 256
        # Weight of the loss.
        node.GAIN = 0.1

    def build(self, node: CfgNode, inputs: TaskInputs) -> MaskBranch:
        return MaskBranch(
            inputs.channels,
            strides=inputs.strides,
            num_anchors=inputs.num_anchors,
            channels=node.CHANNELS,
            coefficients=node.COEFFICIENTS,
            most_positives=node.POSITIVES,
            implicit=node.IMPLICIT,
            options=inputs.options,
            gain=node.GAIN,
            form=inputs.form,
        )

    def pack_truth(
        self,
        branch: TaskBranch,
        instances: Sequence[Instances],
        placements: Sequence[Placement],
        canvas: tuple[int, int],
    ) -> dict[str, Tensor]:
        from ..structures.mask_maps import mask_maps

        if not all(x.has("gt_masks") for x in instances):
            raise KeyError(
                "the masks task needs 'gt_masks' in the instances of every input; annotations give "
                "them by 'segmentation'"
            )
        size = canvas[0] // PROTOTYPE_STRIDE, canvas[1] // PROTOTYPE_STRIDE
        maps = [
            mask_maps(x.gt_masks, len(x), size, PROTOTYPE_STRIDE, place.offset)
            for x, place in zip(instances, placements)
        ]
        return {"masks": torch.cat(maps)}

    def add_results(self, result: dict[str, Any], decoded: BoxMasks) -> None:
        result["instances"].pred_masks = decoded

    def mirror(self, branch: TaskBranch, decoded: BoxMasks, size: tuple[int, int]) -> BoxMasks:
        return decoded.flip()

    def describe_file(self, cfg: CfgNode, branch: TaskBranch) -> dict[str, Any]:
        """How many coefficients there are, and input pixels per pixel of the prototypes."""
        node = cfg.MODEL.YOLOR.TASKS.MASKS
        return {"coefficients": node.COEFFICIENTS, "stride": PROTOTYPE_STRIDE}
