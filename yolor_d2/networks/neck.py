"""Path-aggregation neck (PAN) with implicit feature alignment (paper section 3.2 and figure 8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..layers import (
    SPPS,
    BlockForm,
    ConvNormAct,
    ImplicitOptions,
    Registry,
    RepConv,
    build_block,
    build_downsample,
    build_implicit,
    split_levels,
    widened,
)
from ..layers.registry import NONE
from .backbone import NEXT, SAME, check_word

BLOCK_KEY = "block of the neck (MODEL.YOLOR.NECK_WIDTHS, NECK_UNITS, NECK_BLOCK, NECK_HIDDEN)"

# Values of MODEL.YOLOR.NECK_ORDER: what comes first where the top-down path joins two maps.
LATERAL_FIRST, UPSAMPLED_FIRST = "lateral_first", "upsampled_first"
# Values of MODEL.YOLOR.NECK_JOINS: which map of the top-down path the bottom-up path joins, see
# `PANNeck`.
JOINS_BLOCK, JOINS_REDUCED = "block", "reduced"

# Convolutions that end the neck, to twice its width: called with channels of input and output, and
# the form by keyword.
OUTPUTS: Registry[Callable[..., nn.Module]] = Registry(
    "output of the neck", "MODEL.YOLOR.NECK_OUTPUT", may_be_none=True
)
OUTPUTS.add("repconv", RepConv)


@OUTPUTS.register("conv")
def conv3x3(in_channels: int, out_channels: int, *, form: BlockForm) -> nn.Module:
    return ConvNormAct(in_channels, out_channels, 3, form=form)


def forward_with_tap(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The output of a block, and the map that an auxiliary head reads: the same, unless the block
    has a method `forward_parts` that gives both, as `layers.EELAN` has."""
    if hasattr(block, "forward_parts"):
        return block.forward_parts(x)  # type: ignore[operator]
    x = block(x)
    return x, x


class PANNeck(nn.Module):
    """Top-down, then bottom-up aggregation of the backbone's features.

    Drawn for three levels (c: backbone, s: top-down, d: bottom-up, p: output):

        c5 ── SPP ── s5 ───────────────── d5 ── conv3x3 ── implicit ── p5
                     │ r4 up              │ down
        c4 ── 1x1 ── s4 ───────────────── d4 ── conv3x3 ── implicit ── p4
                     │ r3 up              │ down
        c3 ── 1x1 ── s3 ════════════════ d3 ── conv3x3 ── implicit ── p3

    Every s and d after a meeting point is a block over the concatenation, the level's own map
    first on the top-down path, the arriving map first on the bottom-up path; r is the coarser map,
    reduced to the finer width by a 1x1 convolution. The implicit module of each level aligns the
    kernel spaces of the pyramid ("iFA"); in the published models it adds. Two more places are empty
    in the published models: behind every s, and behind every d.

    YOLOv5 differs in what the arguments say: no SPP here, no 1x1 convolution on c, the arriving map
    first on the top-down path, r4 and r3 in place of s5 and s4 on the bottom-up path, and no output
    convolution.

    In training auxiliary heads (YOLOv7, section 4.2) read every s through a 3x3 convolution of
    their own.

    Args:
        in_channels: width of each backbone feature, fine to coarse.
        widths: width of the neck at each level, fine to coarse.
        num_units: units of each block, such as convolution pairs of a CSP block.
        form: norm and activation.
        block: kind of the blocks, see `layers.blocks.BLOCKS`.
        hidden: width inside the blocks of each level, fine to coarse; empty leaves it to the kind.
        downsample: how the bottom-up path halves the resolution, see `layers.build_downsample`.
        downsample_width: whether that gives the width of the coarser level ("next") or keeps that
            of the finer one ("same").
        spp: kind of pyramid pooling on the deepest feature and its arguments, see
            `layers.spp.SPPS`, or ("none",).
        lateral: "conv" for 1x1 convolutions on the backbone's features, or "none".
        order: "lateral_first" or "upsampled_first", where the top-down path joins two maps.
        joins: the bottom-up path joins s ("block") or r ("reduced").
        output: kind of convolution to twice the width, see `OUTPUTS`, or "none".
        auxiliary_widths: width of the map for the auxiliary head of each level, fine to coarse;
            empty for none.
        implicit: implicit knowledge on every output p, see `layers.parse_implicit`; one for all
            levels, or one each with commas, fine to coarse.
        implicit_top_down: the same on every s.
        implicit_bottom_up: the same on every d.
        options: what all implicit knowledge shares.

    Attributes:
        channels: width of each output, fine to coarse.
    """

    # Parts without effect at inference, see `layers.fuse`.
    training_only: ClassVar = ("auxiliary",)

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        widths: Sequence[int],
        num_units: int,
        form: BlockForm,
        block: str = "csp_neck",
        hidden: Sequence[int] = (),
        downsample: str = "conv",
        downsample_width: str = NEXT,
        spp: Sequence[str | int] = ("csp",),
        lateral: str = "conv",
        order: str = LATERAL_FIRST,
        joins: str = JOINS_BLOCK,
        output: str = "conv",
        auxiliary_widths: Sequence[int] = (),
        implicit: str = "add",
        implicit_top_down: str = "none",
        implicit_bottom_up: str = "none",
        options: ImplicitOptions = ImplicitOptions(),
    ):
        super().__init__()
        num_levels = len(in_channels)
        for key, values, may_be_empty in (
            ("NECK_WIDTHS", widths, False),
            ("NECK_HIDDEN", hidden, True),
            ("AUXILIARY_WIDTHS", auxiliary_widths, True),
        ):
            if len(values) != num_levels and not (may_be_empty and not values):
                raise ValueError(
                    f"the backbone has {num_levels} levels, but the neck {len(values)} widths "
                    f"(MODEL.YOLOR.{key}): {list(values)}"
                )
        check_word(lateral, ("conv", NONE), "NECK_LATERAL")
        check_word(joins, (JOINS_BLOCK, JOINS_REDUCED), "NECK_JOINS")
        check_word(downsample_width, (NEXT, SAME), "NECK_DOWNSAMPLE_WIDTH")
        self.order = check_word(order, (LATERAL_FIRST, UPSAMPLED_FIRST), "NECK_ORDER")
        self.joins = joins

        def place(words: str, channels: Sequence[int]) -> nn.ModuleList:
            levels = split_levels(words, len(channels))
            return nn.ModuleList(
                build_implicit(level, c, options=options) for level, c in zip(levels, channels)
            )

        def block_of(level: int, channels: int) -> nn.Module:
            spec = (widths[level], num_units, block, *hidden[level : level + 1])
            return build_block(spec, channels, form=form, key=BLOCK_KEY)[0]

        self.top_down_implicit = place(implicit_top_down, widths)
        descended = [widened(x, width) for x, width in zip(self.top_down_implicit, widths)]
        # The finest map is the last on the top-down path and the first on the bottom-up path.
        self.bottom_up_implicit = place(implicit_bottom_up, [descended[0], *widths[1:]])
        ascended = [
            widened(x, width)
            for x, width in zip(self.bottom_up_implicit, [descended[0], *widths[1:]])
        ]
        self.spp = build_spp(spp, in_channels[-1], widths[-1], form=form)
        # One entry per step between neighbouring levels, fine to coarse: entry i joins levels i
        # and i + 1.
        self.reduce = nn.ModuleList(
            ConvNormAct(coarse, fine, 1, form=form) for fine, coarse in zip(widths, descended[1:])
        )
        own = widths[:-1] if lateral == "conv" else in_channels[:-1]
        self.lateral = nn.ModuleList(
            ConvNormAct(channels, width, 1, form=form) if lateral == "conv" else nn.Identity()
            for channels, width in zip(in_channels[:-1], own)
        )
        self.top_down = nn.ModuleList(
            block_of(i, channels + widths[i]) for i, channels in enumerate(own)
        )
        arriving = list(widths[1:] if downsample_width == NEXT else ascended[:-1])
        self.down = nn.ModuleList(
            build_downsample(downsample, fine, wanted, form=form)
            for fine, wanted in zip(ascended, arriving)
        )
        joined = descended[1:] if joins == JOINS_BLOCK else widths[:-1]
        self.bottom_up = nn.ModuleList(
            block_of(i + 1, sum(pair)) for i, pair in enumerate(zip(arriving, joined))
        )
        outputs = list(ascended) if output == NONE else [2 * width for width in widths]
        self.output = nn.ModuleList(
            nn.Identity() if output == NONE else OUTPUTS.lookup(output)(c, wanted, form=form)
            for c, wanted in zip(ascended, outputs)
        )
        self.align = place(implicit, outputs)
        self.channels = [widened(x, c) for x, c in zip(self.align, outputs)]
        self.auxiliary = nn.ModuleList(
            ConvNormAct(c, wanted, 3, form=form) for c, wanted in zip(widths, auxiliary_widths)
        )
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Backbone features to aligned features of the same (H, W), both fine to coarse; in
        training those of the auxiliary heads follow, as many, fine to coarse."""
        x, tap = forward_with_tap(self.spp, features[-1])
        x = self.top_down_implicit[-1](x)
        taps, kept = [tap], [x]  # they grow from coarse to fine
        for i in reversed(range(len(self.top_down))):
            reduced = self.reduce[i](x)
            if self.joins == JOINS_REDUCED:
                kept[0] = reduced
            maps = [self.lateral[i](features[i]), self.upsample(reduced)]
            if self.order == UPSAMPLED_FIRST:
                maps.reverse()
            x, tap = forward_with_tap(self.top_down[i], torch.cat(maps, dim=1))
            x = self.top_down_implicit[i](x)
            taps.insert(0, tap)
            kept.insert(0, x)

        x = self.bottom_up_implicit[0](x)
        bottom_up = [x]  # grows from fine to coarse
        for i in range(len(self.bottom_up)):
            x = self.bottom_up[i](torch.cat([self.down[i](x), kept[i + 1]], dim=1))
            x = self.bottom_up_implicit[i + 1](x)
            bottom_up.append(x)

        aligned = [align(output(x)) for x, output, align in zip(bottom_up, self.output, self.align)]
        if self.training:
            aligned += [conv(tap) for tap, conv in zip(taps, self.auxiliary)]
        return aligned


def build_spp(
    spec: Sequence[str | int], in_channels: int, out_channels: int, *, form: BlockForm
) -> nn.Module:
    """Pyramid pooling on the deepest feature; ("none",) leaves it unchanged.

    Raises:
        ValueError: when the kind is unknown or its arguments do not fit.
    """
    kind, *args = spec
    if kind == NONE:
        if in_channels != out_channels:
            raise ValueError(
                f"without pyramid pooling (MODEL.YOLOR.SPP) the neck's coarsest width "
                f"(MODEL.YOLOR.NECK_WIDTHS) is that of the backbone, {in_channels}, not "
                f"{out_channels}"
            )
        return nn.Identity()
    build = SPPS.lookup(str(kind))
    try:
        return build(in_channels, out_channels, *args, form=form)
    except (TypeError, ValueError) as error:
        raise ValueError(f"pyramid pooling (MODEL.YOLOR.SPP) is {list(spec)}: {error}") from error
