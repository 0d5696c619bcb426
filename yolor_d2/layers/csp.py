"""Cross-stage-partial (CSP) blocks of YOLOR (the paper's appendix; Scaled-YOLOv4, section 3).

Every CSP block sends its input two ways and joins them again:

        x ─┬─ processed branch ─┐
           └─ split (1x1) ──────┴─ concat ─ [norm, act] ─ output (1x1)

In form D both branches end with their own norm and activation and the concatenation is used as it
is. In form Y the branches may end bare, and the concatenation is normalised and activated as a
whole.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .conv import BlockForm, ConvNormAct, Residual
from .spp import SpatialPyramidPooling


def bare_or_normed(in_channels: int, out_channels: int, form: BlockForm) -> nn.Module:
    """The 1x1 convolution that ends a branch: bare where the merge normalises (form Y)."""
    if form.merge_norm:
        return nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return ConvNormAct(in_channels, out_channels, 1, form=form)


class CSPMerge(nn.Module):
    """Concatenate [processed, split], normalise in form Y, and mix with a 1x1 convolution."""

    def __init__(self, hidden: int, out_channels: int, *, form: BlockForm):
        super().__init__()
        self.has_norm = form.merge_norm
        self.norm_act = (
            nn.Sequential(form.norm(2 * hidden), form.act()) if form.merge_norm else nn.Identity()
        )
        self.output = ConvNormAct(2 * hidden, out_channels, 1, form=form)

    def forward(self, processed: Tensor, split: Tensor) -> Tensor:
        return self.output(self.norm_act(torch.cat([processed, split], dim=1)))


class CSPStage(nn.Module):
    """CSP block of the backbone: a chain of residual units at half the width.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; both branches have half of them.
        num_units: residual units on the processed branch.
        transition: end the processed branch with a 1x1 convolution (the CSP family, "transition
            first"), or not (the P6 family, "fusion first").
        form: where norm and activation sit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_units: int,
        *,
        transition: bool,
        form: BlockForm,
    ):
        super().__init__()
        hidden = out_channels // 2
        self.entry = ConvNormAct(in_channels, hidden, 1, form=form)
        self.units = nn.Sequential(*(Residual(hidden, form=form) for _ in range(num_units)))
        self.transition = bare_or_normed(hidden, hidden, form) if transition else nn.Identity()
        self.split = bare_or_normed(in_channels, hidden, form)
        self.merge = CSPMerge(hidden, out_channels, form=form)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(self.transition(self.units(self.entry(x))), self.split(x))


class CSPNeckBlock(nn.Module):
    """CSP block of the neck: plain 1x1, 3x3 pairs without residual sums; the split follows the
    entry.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output and of both branches.
        num_units: pairs of convolutions on the processed branch.
        form: where norm and activation sit.
    """

    def __init__(self, in_channels: int, out_channels: int, num_units: int, *, form: BlockForm):
        super().__init__()
        self.entry = ConvNormAct(in_channels, out_channels, 1, form=form)
        self.units = nn.Sequential(
            *(
                nn.Sequential(
                    ConvNormAct(out_channels, out_channels, 1, form=form),
                    ConvNormAct(out_channels, out_channels, 3, form=form),
                )
                for _ in range(num_units)
            )
        )
        self.split = bare_or_normed(out_channels, out_channels, form)
        self.merge = CSPMerge(out_channels, out_channels, form=form)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        return self.merge(self.units(x), self.split(x))


class CSPSPP(nn.Module):
    """CSP block around spatial pyramid pooling, on the deepest stage.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output and of both branches.
        extra_pairs: further pairs of 1x1 and 3x3 convolutions after the pooling (YOLOR-CSP-X
            has one).
        form: where norm and activation sit. It also sets the order in which the pooled maps are
            joined, because the published weights of the two forms expect different orders.
    """

    def __init__(
        self, in_channels: int, out_channels: int, extra_pairs: int = 0, *, form: BlockForm
    ):
        super().__init__()
        width = out_channels
        self.before = nn.Sequential(
            ConvNormAct(in_channels, width, 1, form=form),
            ConvNormAct(width, width, 3, form=form),
            ConvNormAct(width, width, 1, form=form),
        )
        self.pool = SpatialPyramidPooling((5, 9, 13), coarse_first=not form.merge_norm)
        self.after = nn.Sequential(
            ConvNormAct(4 * width, width, 1, form=form),
            ConvNormAct(width, width, 3, form=form),
        )
        for _ in range(extra_pairs):
            self.after.append(ConvNormAct(width, width, 1, form=form))
            self.after.append(ConvNormAct(width, width, 3, form=form))
        self.split = bare_or_normed(in_channels, width, form)
        self.merge = CSPMerge(width, out_channels, form=form)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(self.after(self.pool(self.before(x))), self.split(x))
