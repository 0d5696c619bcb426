"""Backbone, neck and head on plain tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import FORMS, PER_ANCHOR, split_levels
from ..layers.fuse import computes_as
from ..ops.decode import decode
from .backbone import YOLORBackbone
from .head import AnchorHead
from .neck import PANNeck
from .variant import Anchors, Variant, compound_scale, scale
from .variants import get_variant


def anchors_tensor(anchors: Anchors, num_levels: int) -> Tensor:
    """(L, A, 2) anchor widths and heights in input pixels.

    Args:
        anchors: per level, fine to coarse, A pairs (width, height) in input pixels.
        num_levels: levels L of the network.

    Raises:
        ValueError: when the nesting or the number of levels differs, levels differ in A, or a size
            is not positive.
    """
    if not all(
        isinstance(level, Sequence) and all(isinstance(pair, Sequence) for pair in level)
        for level in anchors
    ):
        raise ValueError(
            f"anchors (MODEL.YOLOR.ANCHORS) must be a list of levels of [width, height] pairs, got "
            f"{anchors}"
        )
    counts = [len(level) for level in anchors]
    if len(counts) != num_levels or len(set(counts)) != 1 or counts[0] == 0:
        raise ValueError(
            f"anchors must be the same number of (width, height) pairs on each of {num_levels} "
            f"levels, got {counts} pairs on {len(counts)} levels"
        )
    if not all(
        len(pair) == 2 and all(0 < side < math.inf for side in pair)
        for level in anchors
        for pair in level
    ):
        raise ValueError(f"every anchor must be a positive (width, height) pair, got {anchors}")
    return torch.tensor([[list(map(float, pair)) for pair in level] for level in anchors])


def build_backbone(variant: Variant, in_channels: int) -> YOLORBackbone:
    """Bottom-up part of a variant."""
    return YOLORBackbone(
        in_channels=in_channels,
        stem=variant.stem,
        stages=variant.stages,
        transition=variant.transition,
        downsample=variant.downsample,
        downsample_width=variant.downsample_width,
        form=variant.form,
        min_stride=variant.min_stride,
    )


def split_alignment(variant: Variant) -> tuple[str, str]:
    """Feature alignment as the neck does it, and as the head does it for each anchor."""
    levels = split_levels(variant.feature_alignment, len(variant.neck_widths))
    of_head = [PER_ANCHOR in words.split() for words in levels]
    neck = ["none" if moved else words for words, moved in zip(levels, of_head)]
    head = [words if moved else "none" for words, moved in zip(levels, of_head)]
    return ", ".join(neck), ", ".join(head)


def build_neck(variant: Variant, in_channels: Sequence[int]) -> PANNeck:
    """PAN neck of a variant over backbone features of these widths, fine to coarse."""
    return PANNeck(
        in_channels,
        widths=variant.neck_widths,
        num_units=variant.neck_units,
        form=variant.form,
        block=variant.neck_block,
        hidden=variant.neck_hidden,
        downsample=variant.neck_downsample or variant.downsample,
        downsample_width=variant.neck_downsample_width,
        spp=variant.spp,
        lateral=variant.neck_lateral,
        order=variant.neck_order,
        joins=variant.neck_joins,
        output=variant.neck_output,
        auxiliary_widths=variant.auxiliary_widths,
        implicit=split_alignment(variant)[0],
        implicit_top_down=variant.top_down,
        implicit_bottom_up=variant.bottom_up,
        options=variant.implicit_options,
    )


def customise(
    variant: str | Variant,
    *,
    form: str | None = None,
    activation: str | None = None,
    width_factor: float = 1.0,
    depth_factor: float = 1.0,
    compound_depth: float = 1.0,
    **fields: Any,
) -> Variant:
    """A variant with some of its values replaced; None keeps the published one.

    Args:
        variant: a name of `VARIANTS`, or a row.
        form: a name of `layers.FORMS`.
        activation: key of `layers.conv.ACTIVATIONS`.
        width_factor: see `variants.scale`.
        depth_factor: see `variants.scale`.
        compound_depth: see `variants.compound_scale`; 1 changes nothing.
        **fields: of `Variant`, replaced after `scale` and before `compound_scale`.

    Raises:
        ValueError: when the variant's name or the form is unknown, or the network cannot be scaled.
    """
    row = get_variant(variant) if isinstance(variant, str) else variant
    if form is not None:
        if form not in FORMS:
            raise ValueError(f"form is {form!r}, expected one of {sorted(FORMS)}")
        row = replace(row, form=replace(FORMS[form], activation=row.form.activation))
    if activation is not None:
        row = replace(row, form=replace(row.form, activation=activation))
    row = scale(row, width_factor, depth_factor)
    row = replace(row, **{name: value for name, value in fields.items() if value is not None})
    return row if compound_depth == 1 else compound_scale(row, compound_depth)


class YOLORNetwork(nn.Module):
    """Image tensors to raw predictions; `decode` turns those into boxes and scores.

    Args:
        backbone: bottom-up features.
        neck: aligned pyramid.
        head: predictions.
        anchors: (L, A, 2) in input pixels.
    """

    anchors: Tensor

    def __init__(
        self, *, backbone: YOLORBackbone, neck: PANNeck, head: AnchorHead, anchors: Tensor
    ):
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        # Anchors are part of the configuration, not of the weights.
        self.register_buffer("anchors", anchors, persistent=False)

    @property
    def strides(self) -> list[int]:
        return self.backbone.strides

    @property
    def size_divisibility(self) -> int:
        """H and W of the input must be multiples of this."""
        return self.strides[-1]

    def chains(self) -> Iterator[list[nn.Module]]:
        """Layers that follow each other directly, see `layers.fuse`."""
        if not (computes_as(self.neck, PANNeck) and computes_as(self.head, AnchorHead)):
            return
        for chain in zip(self.neck.align, self.head.predict, self.head.refine):
            yield list(chain)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, C, H, W) RGB images in 0-1 to logits (N, A, H / stride, W / stride, 5 + K) per level.

        In training those of the auxiliary heads follow, where the network has any.

        Raises:
            ValueError: when H or W is not a multiple of `size_divisibility`.
        """
        height, width = images.shape[-2:]
        if height % self.size_divisibility or width % self.size_divisibility:
            raise ValueError(
                f"image size (H, W) is ({height}, {width}), expected multiples of "
                f"{self.size_divisibility}: pad the batch"
            )
        return self.head(self.neck(self.backbone(images)))

    def decode(self, levels: Sequence[Tensor]) -> Tensor:
        """Logits of all levels to (N, R, 5 + K) rows, see `ops.decode.decode`; auxiliary heads
        are left out."""
        return decode(levels[: len(self.strides)], self.anchors, self.strides)


def build_network(
    variant: str | Variant,
    num_classes: int = 80,
    *,
    in_channels: int = 3,
    anchors: Anchors | None = None,
    form: str | None = None,
    activation: str | None = None,
    feature_alignment: str | None = None,
    prediction_refinement: str | None = None,
) -> YOLORNetwork:
    """Build a network with random weights.

    Args:
        variant: a name of `VARIANTS`, or a custom row.
        num_classes: classes K, at least 1.
        in_channels: channels of the image.
        anchors: (width, height) pairs in input pixels per level, fine to coarse; None takes the
            variant's.
        form: a name of `layers.FORMS`; None takes the variant's.
        activation: a name of `layers.ACTIVATIONS`; None takes the variant's.
        feature_alignment: implicit knowledge on the neck's outputs, such as "none", "add", "mul
            network" or "mul per_anchor", see `layers.parse_implicit`.
        prediction_refinement: implicit knowledge on the head's outputs ("none", "add", "mul",
            "mul sizes").

    Raises:
        ValueError: when a name is unknown or the anchors do not fit the levels.
    """
    row = customise(
        variant,
        form=form,
        activation=activation,
        anchors=anchors,
        feature_alignment=feature_alignment,
        prediction_refinement=prediction_refinement,
    )
    backbone = build_backbone(row, in_channels)
    neck = build_neck(row, backbone.channels)
    anchor_sizes = anchors_tensor(row.anchors, len(backbone.strides))
    head = AnchorHead(
        neck.channels,
        strides=backbone.strides,
        num_anchors=anchor_sizes.shape[1],
        num_classes=num_classes,
        implicit=row.prediction_refinement,
        alignment=split_alignment(row)[1],
        auxiliary=row.auxiliary_widths,
        options=row.implicit_options,
    )
    return YOLORNetwork(backbone=backbone, neck=neck, head=head, anchors=anchor_sizes)
