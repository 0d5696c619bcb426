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
    build_downsample,
    build_implicit,
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
    aligns the kernel spaces of the pyramid ("iFA"); in the published models it adds.

    Args:
        in_channels: width of each backbone feature, fine to coarse.
        widths: width of the neck at each level, fine to coarse; outputs have twice as many
            channels.
        num_units: convolution pairs in each CSP block.
        form: norm and activation.
        downsample: how the way up halves the resolution, see `layers.build_downsample`.
        spp_extra_pairs: see `layers.CSPSPP`.
        implicit: operator of the implicit feature alignment, see `layers.build_implicit`.

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
    ):
        super().__init__()
        if len(in_channels) != len(widths):
            raise ValueError(
                f"the backbone has {len(in_channels)} levels, but the neck {len(widths)} widths "
                f"(MODEL.YOLOR.NECK_WIDTHS): {list(widths)}"
            )
        self.channels = [2 * width for width in widths]
        self.spp = CSPSPP(in_channels[-1], widths[-1], spp_extra_pairs, form=form)
        # One entry per step between neighbouring levels, fine to coarse: entry i joins levels i
        # and i + 1.
        steps = list(itertools.pairwise(widths))
        self.reduce = nn.ModuleList(
            ConvNormAct(coarse, fine, 1, form=form) for fine, coarse in steps
        )
        self.lateral = nn.ModuleList(
            ConvNormAct(channels, width, 1, form=form)
            for channels, width in zip(in_channels[:-1], widths)
        )
        self.top_down = nn.ModuleList(
            CSPNeckBlock(2 * fine, fine, num_units, form=form) for fine, _ in steps
        )
        self.down = nn.ModuleList(
            build_downsample(downsample, fine, coarse, form=form) for fine, coarse in steps
        )
        self.bottom_up = nn.ModuleList(
            CSPNeckBlock(2 * coarse, coarse, num_units, form=form) for _, coarse in steps
        )
        self.output = nn.ModuleList(
            ConvNormAct(width, channels, 3, form=form)
            for width, channels in zip(widths, self.channels)
        )
        self.align = nn.ModuleList(build_implicit(implicit, c) for c in self.channels)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Backbone features to aligned features of the same (H, W), both fine to coarse."""
        x = self.spp(features[-1])
        top_down = [x]  # grows from coarse to fine
        for i in reversed(range(len(self.top_down))):
            arriving = self.upsample(self.reduce[i](x))
            x = self.top_down[i](torch.cat([self.lateral[i](features[i]), arriving], dim=1))
            top_down.insert(0, x)

        bottom_up = [x]  # grows from fine to coarse
        for i in range(len(self.bottom_up)):
            x = self.bottom_up[i](torch.cat([self.down[i](x), top_down[i + 1]], dim=1))
            bottom_up.append(x)

        return [align(output(x)) for x, output, align in zip(bottom_up, self.output, self.align)]
