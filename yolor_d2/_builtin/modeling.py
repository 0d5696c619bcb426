"""Registries and the contracts of models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from fvcore.common.registry import Registry
from torch import Tensor, nn

from .config import CfgNode
from .structures import Instances

BACKBONE_REGISTRY = Registry("BACKBONE")
META_ARCH_REGISTRY = Registry("META_ARCH")


@dataclass
class ShapeSpec:
    """What is known of the shape of a feature map, in its own pixels; None is unknown."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None


class Backbone(nn.Module, ABC):
    """Images to features by name."""

    @abstractmethod
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) images to features by name."""

    @abstractmethod
    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each feature."""

    @property
    def size_divisibility(self) -> int:
        """Sides of the input must be multiples of this; 0 for any."""
        return 0


def build_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> Backbone:
    """The backbone that MODEL.BACKBONE.NAME names."""
    if input_shape is None:
        input_shape = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    return BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, input_shape)


def build_model(cfg: CfgNode) -> nn.Module:
    """The model that MODEL.META_ARCHITECTURE names, on MODEL.DEVICE, without loading weights."""
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    return model.to(torch.device(cfg.MODEL.DEVICE))


def detector_postprocess(results: Instances, output_height: int, output_width: int) -> Instances:
    """Detections in pixels of another size of the image; boxes left without area are dropped.

    Args:
        results: detections with `pred_boxes` in pixels of `results.image_size`.
        output_height, output_width: the wanted size.
    """
    masks = [name for name in ("pred_masks", "pred_keypoints") if results.has(name)]
    if masks:
        raise NotImplementedError(f"the built-in runtime knows boxes only, found {masks}")
    height, width = results.image_size
    scaled = Instances((output_height, output_width), **results.get_fields())
    scaled.pred_boxes = results.pred_boxes.clone()
    scaled.pred_boxes.scale(output_width / width, output_height / height)
    scaled.pred_boxes.clip(scaled.image_size)
    return scaled[scaled.pred_boxes.nonempty()]
