"""Multi-label classification of images, see `networks.branches.classification`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..networks.branches import ClassificationBranch, TaskInputs
from .task import Task

if TYPE_CHECKING:
    from ..d2.config import CfgNode


class ClassificationTask(Task):
    """Out: "image_scores" (K,) beside the instances."""

    name: ClassVar = "classification"
    metrics: ClassVar = "classification"
    least_values: ClassVar = {"CHANNELS": 1, "GAIN": 0}
    toy_values: ClassVar = {"CHANNELS": 64}

    def add_config(self, node: CfgNode) -> None:
        # Which classes are in the image, multi-label (the paper's JDC).
        node.ENABLED = False
        # Implicit operator in the branch, "none" or, as in the paper's iJDC, "add".
        node.IMPLICIT = "none"
        # Width of the 3x3 convolution on each level.
        node.CHANNELS = 128
        # Weight of the loss.
        node.GAIN = 0.1

    def build(self, node: CfgNode, inputs: TaskInputs) -> ClassificationBranch:
        return ClassificationBranch(
            inputs.channels,
            strides=inputs.strides,
            num_classes=inputs.num_classes,
            channels=node.CHANNELS,
            implicit=node.IMPLICIT,
            options=inputs.options,
            gain=node.GAIN,
            form=inputs.form,
        )

    def add_results(self, result: dict[str, Any], decoded: Tensor) -> None:
        result["image_scores"] = decoded

    def join_views(self, decoded: Sequence[Tensor], order: Tensor) -> Tensor:
        """The mean over the augmented views: every one of them shows the whole image."""
        return torch.stack(list(decoded)).mean(dim=0)

    def evaluators(self, cfg: CfgNode, dataset_name: str, folder: Path) -> list:
        from ..evaluation.classification import ClassificationEvaluator

        num_classes = cfg.MODEL.YOLOR.NUM_CLASSES
        return [ClassificationEvaluator.from_dataset(dataset_name, num_classes)]
