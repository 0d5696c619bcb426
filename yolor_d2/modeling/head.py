"""Heads that MODEL.YOLOR.HEAD can name."""

from __future__ import annotations

from ..d2.config import CfgNode, configurable
from ..d2.modeling import Registry, ShapeSpec
from ..networks import AnchorHead
from ..networks.network import anchors_tensor, split_alignment
from .backbone import variant_from_config

YOLOR_HEAD_REGISTRY = Registry("YOLOR_HEAD")
YOLOR_HEAD_REGISTRY.__doc__ = """
Heads of the YOLOR meta-architecture. A head is called with the config and a list of `ShapeSpec`,
fine to coarse, and maps a list of features to logits (N, A, H, W, 5 + K) per level. In training
features of auxiliary heads, where the neck has any, follow those of all levels; the head has a part
for each in its list `auxiliary`, and their logits follow the others.
"""


@YOLOR_HEAD_REGISTRY.register()
class ImplicitAnchorHead(AnchorHead):
    """`networks.AnchorHead`, constructible from a config."""

    @configurable
    def __init__(self, **kwargs):
        super().__init__(**kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shapes: list[ShapeSpec]) -> dict:
        variant = variant_from_config(cfg)
        anchors = anchors_tensor(variant.anchors, len(input_shapes))
        return {
            "in_channels": [shape.channels for shape in input_shapes],
            "strides": [shape.stride for shape in input_shapes],
            "num_anchors": anchors.shape[1],
            "num_classes": cfg.MODEL.YOLOR.NUM_CLASSES,
            "implicit": variant.prediction_refinement,
            "alignment": split_alignment(variant)[1],
            "auxiliary": variant.auxiliary_widths,
            "options": variant.implicit_options,
        }


def build_head(cfg: CfgNode, input_shapes: list[ShapeSpec]) -> AnchorHead:
    """Build the head that MODEL.YOLOR.HEAD names.

    Raises:
        KeyError: when no head of that name is registered.
    """
    return YOLOR_HEAD_REGISTRY.get(cfg.MODEL.YOLOR.HEAD)(cfg, input_shapes)
