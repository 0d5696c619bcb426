"""Path-aggregation neck (PAN) with implicit feature alignment (paper section 3.2 and figure 8)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..layers import (
    CSPSPP,
    BlockForm,
    ConvNormAct,
    CSPNeckBlock,
    ImplicitOptions,
    build_downsample,
    build_implicit,
    split_levels,
    widened,
)


class PANNeck(nn.Module):
    """Top-down, then bottom-up aggregation of the backbone's features.

    Drawn for three levels (c: backbone, s: top-down, d: bottom-up, p: output):

        c5 ── SPP ── s5 ───────────────── d5 ── conv3x3 ── implicit ── p5
                     │ up                 │ down
        c4 ── 1x1 ── s4 ───────────────── d4 ── conv3x3 ── implicit ── p4
                     │ up                 │ down
        c3 ── 1x1 ── s3 ════════════════ d3 ── conv3x3 ── implicit ── p3

    Every s and d after a meeting point is a CSP block over the concatenation, the level's own map
    first on the way down, the arriving map first on the way up. The implicit module of each level
    aligns the kernel spaces of the pyramid ("iFA"); in the published models it adds. Two more
    places are empty in the published models: behind every s, and behind every d.

    Args:
        in_channels: width of each backbone feature, fine to coarse.
        widths: width of the neck at each level, fine to coarse; outputs have twice as many
            channels.
        num_units: convolution pairs in each CSP block.
        form: norm and activation.
        downsample: how the way up halves the resolution, see `layers.build_downsample`.
        spp_extra_pairs: see `layers.CSPSPP`.
        implicit: implicit knowledge on every output p, see `layers.parse_implicit`; one for all
            levels, or one each with commas, fine to coarse.
        implicit_top_down: the same on every s.
        implicit_bottom_up: the same on every d.
        options: what all implicit knowledge shares.

    Attributes:
        channels: width of each output, fine to coarse.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        widths: Sequence[int],
        num_units: int,
        form: BlockForm,
        downsample: str = "conv",
        spp_extra_pairs: int = 0,
        implicit: str = "add",
        implicit_top_down: str = "none",
        implicit_bottom_up: str = "none",
        options: ImplicitOptions = ImplicitOptions(),
    ):
        super().__init__()
        if len(in_channels) != len(widths):
            raise ValueError(
                f"the backbone has {len(in_channels)} levels, but the neck {len(widths)} widths "
                f"(MODEL.YOLOR.NECK_WIDTHS): {list(widths)}"
            )

        def place(words: str, channels: Sequence[int]) -> nn.ModuleList:
            levels = split_levels(words, len(channels))
            return nn.ModuleList(
                build_implicit(level, c, options=options) for level, c in zip(levels, channels)
            )

        self.top_down_implicit = place(implicit_top_down, widths)
        descended = [widened(x, width) for x, width in zip(self.top_down_implicit, widths)]
        # The finest map is the last on the way down and the first on the way up.
        self.bottom_up_implicit = place(implicit_bottom_up, [descended[0], *widths[1:]])
        ascended = [
            widened(x, width)
            for x, width in zip(self.bottom_up_implicit, [descended[0], *widths[1:]])
        ]
        self.spp = CSPSPP(in_channels[-1], widths[-1], spp_extra_pairs, form=form)
        # One entry per step between neighbouring levels, fine to coarse: entry i joins levels i
        # and i + 1.
        steps = list(itertools.pairwise(widths))
        self.reduce = nn.ModuleList(
            ConvNormAct(coarse, fine, 1, form=form) for fine, coarse in zip(widths, descended[1:])
        )
        self.lateral = nn.ModuleList(
            ConvNormAct(channels, width, 1, form=form)
            for channels, width in zip(in_channels[:-1], widths)
        )
        self.top_down = nn.ModuleList(
            CSPNeckBlock(2 * fine, fine, num_units, form=form) for fine, _ in steps
        )
        self.down = nn.ModuleList(
            build_downsample(downsample, fine, coarse, form=form)
            for fine, coarse in zip(ascended, widths[1:])
        )
        self.bottom_up = nn.ModuleList(
            CSPNeckBlock(coarse + arriving, coarse, num_units, form=form)
            for coarse, arriving in zip(widths[1:], descended[1:])
        )
        self.output = nn.ModuleList(
            ConvNormAct(width, 2 * widths[i], 3, form=form) for i, width in enumerate(ascended)
        )
        outputs = [2 * width for width in widths]
        self.align = place(implicit, outputs)
        self.channels = [widened(x, c) for x, c in zip(self.align, outputs)]
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Backbone features to aligned features of the same (H, W), both fine to coarse."""
        x = self.top_down_implicit[-1](self.spp(features[-1]))
        top_down = [x]  # grows from coarse to fine
        for i in reversed(range(len(self.top_down))):
            arriving = self.upsample(self.reduce[i](x))
            x = self.top_down[i](torch.cat([self.lateral[i](features[i]), arriving], dim=1))
            x = self.top_down_implicit[i](x)
            top_down.insert(0, x)

        x = self.bottom_up_implicit[0](x)
        bottom_up = [x]  # grows from fine to coarse
        for i in range(len(self.bottom_up)):
            x = self.bottom_up[i](torch.cat([self.down[i](x), top_down[i + 1]], dim=1))
            x = self.bottom_up_implicit[i + 1](x)
            bottom_up.append(x)

        return [align(output(x)) for x, output, align in zip(bottom_up, self.output, self.align)]
