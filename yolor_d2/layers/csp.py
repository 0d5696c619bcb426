"""Cross-stage-partial (CSP) blocks (the paper's appendix; Scaled-YOLOv4, section 3; YOLOv5).

Every CSP block sends its input two ways and joins them again:

        x ─┬─ processed branch ─┐
           └─ split (1x1) ──────┴─ concat ─ [norm, act] ─ output (1x1)

In form D both branches end with their own norm and activation and the concatenation is used
unchanged. In form Y the branches may end bare, and the concatenation is normalised and activated as
a whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import BLOCKS
from .conv import BlockForm, ConvNormAct, Residual
from .spp import SPP, SPPS, SpatialPyramidPooling


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
        shortcut: whether the units add their input.
        form: where norm and activation sit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_units: int,
        *,
        transition: bool,
        shortcut: bool = True,
        form: BlockForm,
    ):
        super().__init__()
        hidden = out_channels // 2
        self.entry = ConvNormAct(in_channels, hidden, 1, form=form)
        self.units = nn.Sequential(
            *(Residual(hidden, shortcut=shortcut, form=form) for _ in range(num_units))
        )
        self.transition = bare_or_normed(hidden, hidden, form) if transition else nn.Identity()
        self.split = bare_or_normed(in_channels, hidden, form)
        self.merge = CSPMerge(hidden, out_channels, form=form)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(self.transition(self.units(self.entry(x))), self.split(x))


class C3(CSPStage):
    """CSP block with three convolutions beside its units (YOLOv5, release 5).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; both branches have half of them.
        num_units: units on the processed branch.
        shortcut: whether the units add their input: in the backbone they do, in the neck not.
        form: norm and activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_units: int,
        *,
        shortcut: bool = True,
        form: BlockForm,
    ):
        super().__init__(
            in_channels, out_channels, num_units, transition=False, shortcut=shortcut, form=form
        )


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
        before: kernel sizes of the convolutions before the pooling.
        after: kernel sizes of the convolutions after it.
        coarse_first: order in which the pooled maps are joined, see `SpatialPyramidPooling`; None
            leaves it to the form, as the published weights of forms D and Y expect different ones.
        form: where norm and activation sit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        extra_pairs: int = 0,
        *,
        before: Sequence[int] = (1, 3, 1),
        after: Sequence[int] = (1, 3),
        coarse_first: bool | None = None,
        form: BlockForm,
    ):
        super().__init__()
        width = out_channels
        if coarse_first is None:
            coarse_first = not form.merge_norm

        def convs(channels: int, kernel_sizes: Sequence[int]) -> nn.Sequential:
            inputs = [channels] + [width] * (len(kernel_sizes) - 1)
            return nn.Sequential(
                *(ConvNormAct(c, width, k, form=form) for c, k in zip(inputs, kernel_sizes))
            )

        self.before = convs(in_channels, before)
        self.pool = SpatialPyramidPooling((5, 9, 13), coarse_first=coarse_first)
        self.after = convs(4 * width, (*after, *(1, 3) * extra_pairs))
        self.split = bare_or_normed(in_channels, width, form)
        self.merge = CSPMerge(width, out_channels, form=form)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(self.after(self.pool(self.before(x))), self.split(x))


class SPPCSPC(CSPSPP):
    """YOLOv7's `CSPSPP`: the pooled maps are joined with the smallest window first."""

    def __init__(self, in_channels: int, out_channels: int, *, form: BlockForm):
        super().__init__(in_channels, out_channels, coarse_first=False, form=form)


class SPPT(CSPSPP):
    """SPP-T, that of YOLOv7-tiny: one 1x1 convolution before the pooling and one after it; the
    largest window first."""

    def __init__(self, in_channels: int, out_channels: int, *, form: BlockForm):
        super().__init__(
            in_channels, out_channels, before=(1,), after=(1,), coarse_first=True, form=form
        )


SPPS.add("csp", CSPSPP)
SPPS.add("sppcspc", SPPCSPC)
SPPS.add("spp_t", SPPT)
BLOCKS.add("csp", CSPStage)


@BLOCKS.register("csp_neck")
def csp_neck(
    in_channels: int, width: int, units: int, *, transition: bool = False, form: BlockForm
) -> CSPNeckBlock:
    """The neck's CSP block."""
    return CSPNeckBlock(in_channels, width, units, form=form)


@BLOCKS.register("residual")
def residual(
    in_channels: int, width: int, units: int, *, transition: bool = False, form: BlockForm
) -> nn.Module:
    """Residual units, half as wide inside, on the input itself (stage B1 of YOLOv4-CSP)."""
    if width != in_channels:
        raise ValueError(f"it keeps its width, and {in_channels} channels reach it")
    return nn.Sequential(*(Residual(width, width // 2, form=form) for _ in range(units)))


@BLOCKS.register("c3")
def c3(
    in_channels: int, width: int, units: int, *, transition: bool = False, form: BlockForm
) -> C3:
    """C3 as in YOLOv5's backbone."""
    return C3(in_channels, width, units, form=form)


@BLOCKS.register("c3_plain")
def c3_plain(
    in_channels: int, width: int, units: int, *, transition: bool = False, form: BlockForm
) -> C3:
    """C3 whose units do not add their input, as in YOLOv5's neck."""
    return C3(in_channels, width, units, shortcut=False, form=form)


@BLOCKS.register("spp_c3")
def spp_c3(
    in_channels: int,
    width: int,
    units: int,
    *sizes: int,
    transition: bool = False,
    form: BlockForm,
) -> nn.Module:
    """Pyramid pooling over windows of these sizes, then `c3_plain`: YOLOv5's last stage."""
    pool = SPP(in_channels, width, sizes or (5, 9, 13), form=form)
    return nn.Sequential(pool, C3(width, width, units, shortcut=False, form=form))
