"""Ways to halve the resolution without losing pixels."""

from __future__ import annotations

from torch import Tensor, nn


class SpaceToDepth(nn.Module):
    """Move every 2x2 block of pixels into the channels: (N, C, H, W) to (N, 4C, H/2, W/2).

    Published weights fix the order: the four groups of C channels are (row 0, col 0),
    (row 1, col 0), (row 0, col 1), (row 1, col 1); `torch.nn.functional.pixel_unshuffle` orders
    them otherwise. H and W must be even.
    """

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // 2, 2, w // 2, 2)
        return x.permute(0, 5, 3, 1, 2, 4).reshape(n, 4 * c, h // 2, w // 2)
