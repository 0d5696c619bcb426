"""Spatial pyramid pooling: the input beside its local maxima over growing windows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .conv import BlockForm, ConvNormAct
from .registry import Registry

# What the neck does to the deepest map: called with channels of input and output, what else the
# configuration gives it, and the form by keyword.
SPPS: Registry[Callable[..., nn.Module]] = Registry(
    "pyramid pooling", "MODEL.YOLOR.SPP", may_be_none=True
)


class SpatialPyramidPooling(nn.Module):
    """Join a map with its max-pooled copies (stride 1, same size), channels times 1 + len(sizes).

    Args:
        sizes: odd window sizes in cells, rising by a constant step from the first, e.g. 5, 9, 13.
        coarse_first: order of the joined maps: [largest window ... smallest, input] or
            [input, smallest ... largest].
    """

    def __init__(self, sizes: Sequence[int], *, coarse_first: bool):
        super().__init__()
        steps = [sizes[0]] + [b - a + 1 for a, b in itertools.pairwise(sizes)]
        if any(step % 2 == 0 or step < 3 for step in steps):
            raise ValueError(f"pooling sizes must be odd and rising, got {tuple(sizes)}")
        # A maximum over 9x9 is the maximum over 5x5 of maxima over 5x5: chained small windows give
        # the same values (max-pooling pads with -inf) at a fraction of the work.
        self.steps = steps
        self.coarse_first = coarse_first

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for step in self.steps:
            maps.append(F.max_pool2d(maps[-1], step, stride=1, padding=step // 2))
        return torch.cat(maps[::-1] if self.coarse_first else maps, dim=1)


@SPPS.register("spp")
class SPP(nn.Module):
    """Pyramid pooling between two 1x1 convolutions, at half the width of the input (YOLOv5).

    Args:
        in_channels: channels of the input, even.
        out_channels: channels of the output.
        sizes: see `SpatialPyramidPooling`.
        form: norm and activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        sizes: Sequence[int] = (5, 9, 13),
        *,
        form: BlockForm,
    ):
        super().__init__()
        self.before = ConvNormAct(in_channels, in_channels // 2, 1, form=form)
        self.pool = SpatialPyramidPooling(sizes, coarse_first=False)
        self.after = ConvNormAct((1 + len(sizes)) * (in_channels // 2), out_channels, 1, form=form)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.pool(self.before(x)))
