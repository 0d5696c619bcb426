"""Backbones for Detectron2: bottom-up alone, and with the PAN neck on top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ..d2.config import CfgNode
from ..d2.modeling import BACKBONE_REGISTRY, Backbone, ShapeSpec
from ..layers import ImplicitOptions
from ..networks import PANNeck, Variant, YOLORBackbone
from ..networks.backbone import level_name
from ..networks.branches import TaskInputs
from ..networks.network import anchors_tensor, build_backbone, build_neck, customise

# Values of MODEL.YOLOR.CSP_FUSION: whether the processed branch has a transition convolution.
TRANSITION = {"": None, "first": False, "last": True}

# Fields of `Variant` that are keys of MODEL.YOLOR under the same name.
FIELDS = {
    name: name.upper()
    for name in (
        "stem",
        "stages",
        "downsample",
        "downsample_width",
        "min_stride",
        "spp",
        "neck_widths",
        "neck_units",
        "neck_block",
        "neck_hidden",
        "neck_downsample",
        "neck_downsample_width",
        "neck_lateral",
        "neck_order",
        "neck_joins",
        "neck_output",
        "auxiliary_widths",
        "anchors",
    )
}
# What else of MODEL.YOLOR describes a network.
OTHER_KEYS = ("VARIANT", "FORM", "ACTIVATION", "CSP_FUSION", "COMPOUND_DEPTH")


def variant_from_config(cfg: CfgNode) -> Variant:
    """The network that MODEL.YOLOR describes: a published row with the config's changes."""
    node = cfg.MODEL.YOLOR
    if node.CSP_FUSION not in TRANSITION:
        raise ValueError(
            f"MODEL.YOLOR.CSP_FUSION is {node.CSP_FUSION!r}, expected one of {list(TRANSITION)}"
        )
    fields = {field: node[key] or None for field, key in FIELDS.items()}
    row = customise(
        node.VARIANT,
        form=node.FORM or None,
        activation=node.ACTIVATION or None,
        width_factor=node.WIDTH_FACTOR,
        depth_factor=node.DEPTH_FACTOR,
        compound_depth=node.COMPOUND_DEPTH,
        transition=TRANSITION[node.CSP_FUSION],
        feature_alignment=node.IMPLICIT.FEATURE_ALIGNMENT or None,
        prediction_refinement=node.IMPLICIT.PREDICTION_REFINEMENT or None,
        top_down=node.IMPLICIT.TOP_DOWN or None,
        bottom_up=node.IMPLICIT.BOTTOM_UP or None,
        implicit_options=ImplicitOptions(
            std=node.IMPLICIT.STD,
            prior_factor=node.IMPLICIT.PRIOR_FACTOR,
            sparsity=node.IMPLICIT.SPARSITY,
        ),
        **fields,
    )
    if list(row.auxiliary_widths) == [0]:
        row = replace(row, auxiliary_widths=())
    return replace(row, form=replace(row.form, norm_momentum=node.NORM_MOMENTUM))


def task_inputs(cfg: CfgNode, channels: Sequence[int], strides: Sequence[int]) -> TaskInputs:
    """What branches of further tasks are built on.

    Args:
        cfg: the configuration.
        channels, strides: of the neck's outputs, fine to coarse.
    """
    row = variant_from_config(cfg)
    anchors = anchors_tensor(row.anchors, len(strides))
    return TaskInputs(
        channels=channels,
        strides=strides,
        num_anchors=anchors.shape[1],
        anchors=anchors,
        num_classes=cfg.MODEL.YOLOR.NUM_CLASSES,
        form=row.form,
        options=row.implicit_options,
    )


class YOLORBottomUp(Backbone):
    """The bottom-up features c3, c4, ... by name.

    Args:
        body: stem and stages on tensors.
    """

    def __init__(self, body: YOLORBackbone):
        super().__init__()
        self.body = body

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            level_name("c", stride): ShapeSpec(channels=channels, stride=stride)
            for channels, stride in zip(self.body.channels, self.body.strides)
        }

    @property
    def size_divisibility(self) -> int:
        return self.body.strides[-1]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) normalised images to features by name, fine to coarse."""
        return dict(zip(self.output_shape(), self.body(x)))


class YOLORPAN(Backbone):
    """The aligned pyramid p3, p4, ... by name.

    Args:
        bottom_up: any backbone; all its outputs are used, each with twice the stride of the one
            before.
        neck: PAN over as many levels.
    """

    def __init__(self, bottom_up: Backbone, neck: PANNeck):
        super().__init__()
        self.bottom_up = bottom_up
        self.neck = neck
        shapes = bottom_up.output_shape()
        self.in_features = sorted(shapes, key=lambda name: shapes[name].stride)
        self.strides = [shapes[name].stride for name in self.in_features]

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            level_name("p", stride): ShapeSpec(channels=channels, stride=stride)
            for channels, stride in zip(self.neck.channels, self.strides)
        }

    @property
    def size_divisibility(self) -> int:
        return self.strides[-1]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) normalised images to features by name, fine to coarse; in training those of
        the auxiliary heads too, a3, a4, ..."""
        features = self.bottom_up(x)
        names = [level_name(prefix, stride) for prefix in "pa" for stride in self.strides]
        return dict(zip(names, self.neck([features[f] for f in self.in_features])))


@BACKBONE_REGISTRY.register()
def build_yolor_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> YOLORBottomUp:
    """MODEL.BACKBONE.NAME of the bottom-up part alone."""
    return YOLORBottomUp(build_backbone(variant_from_config(cfg), input_shape.channels))


@BACKBONE_REGISTRY.register()
def build_yolor_pan_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> YOLORPAN:
    """MODEL.BACKBONE.NAME of the bottom-up part with the PAN neck."""
    bottom_up = build_yolor_backbone(cfg, input_shape)
    return YOLORPAN(bottom_up, build_neck(variant_from_config(cfg), bottom_up.body.channels))
