"""Branches of further tasks beside the detection head, on the same features (paper section 5.4).

The paper names the tasks, joint detection with multi-label image classification (JDC) and with
feature embedding (JDE), and that each branch may have an implicit vector of its own (iJDC, iJDE).
It does not say how the branches look: their layout here is this project's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import BlockForm, ConvNormAct, ImplicitOptions, build_implicit, widened


def mean_over_image(x: Tensor, windows: Tensor, stride: int) -> Tensor:
    """Average over the cells of each image, without those of the canvas around it.

    Args:
        x: (N, C, H, W) feature.
        windows: (N, 4) xyxy of each image on the canvas, in input pixels, whole numbers.
        stride: input pixels per cell.

    Returns:
        (N, C) means over the cells that an image touches, at least one each.
    """
    height, width = x.shape[2:]
    left, top, right, bottom = windows[:, :, None].unbind(dim=1)  # (N, 1)
    down = torch.arange(height, device=x.device) * stride
    across = torch.arange(width, device=x.device) * stride
    rows = (down < bottom) & (down + stride > top)  # (N, H)
    columns = (across < right) & (across + stride > left)  # (N, W)
    inside = (rows[:, None, :, None] & columns[:, None, None, :]).to(x.dtype)  # (N, 1, H, W)
    # float32, as the sum over many cells leaves the range of half precision.
    return (x * inside).sum(dim=(2, 3), dtype=torch.float32) / inside.sum(
        dim=(2, 3), dtype=torch.float32
    )


class ClassificationBranch(nn.Module):
    """Which classes are in an image: 3x3 convolution, implicit, average on each level, linear.

    All levels take part, since the presence of a class may rest on an object of any size.

    Args:
        in_channels: width of each input feature, fine to coarse.
        strides: input pixels per cell of each level.
        num_classes: classes K.
        channels: width of the convolution.
        implicit: implicit knowledge, see `layers.parse_implicit`; the paper adds a vector.
        options: what all implicit knowledge shares.
        form: norm and activation of the convolution.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        strides: Sequence[int],
        num_classes: int,
        channels: int = 128,
        implicit: str = "none",
        options: ImplicitOptions = ImplicitOptions(),
        form: BlockForm,
    ):
        super().__init__()
        self.strides = list(strides)
        self.convs = nn.ModuleList(ConvNormAct(c, channels, 3, form=form) for c in in_channels)
        self.implicit = nn.ModuleList(
            build_implicit(implicit, channels, options=options) for _ in in_channels
        )
        widths = [widened(module, channels) for module in self.implicit]
        self.linear = nn.Linear(sum(widths), num_classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Sequence[Tensor], windows: Tensor) -> Tensor:
        """Features (N, Ci, Hi, Wi) and windows, see `mean_over_image`, to (N, K) logits."""
        means = [
            mean_over_image(implicit(conv(x)), windows, stride)
            for x, conv, implicit, stride in zip(features, self.convs, self.implicit, self.strides)
        ]
        return self.linear(torch.cat(means, dim=1))


class EmbeddingBranch(nn.Module):
    """A vector for every cell: 3x3 convolution, implicit, 1x1 convolution, scaled to length 1.

    One vector a cell, which its anchors share, as in JDE (arXiv 1909.12605). Training
    tells individuals apart by learned prototypes, one each; inference has no use for them.

    Args:
        in_channels: width of each input feature, fine to coarse.
        dimension: length D of a vector.
        num_identities: individuals I of the training set; 0 for inference alone.
        channels: width of the 3x3 convolution.
        implicit: implicit knowledge, see `layers.parse_implicit`; the paper adds a vector.
        options: what all implicit knowledge shares.
        form: norm and activation of the 3x3 convolution.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        dimension: int = 128,
        num_identities: int = 0,
        channels: int = 128,
        implicit: str = "none",
        options: ImplicitOptions = ImplicitOptions(),
        form: BlockForm,
    ):
        super().__init__()
        self.convs = nn.ModuleList(ConvNormAct(c, channels, 3, form=form) for c in in_channels)
        self.implicit = nn.ModuleList(
            build_implicit(implicit, channels, options=options) for _ in in_channels
        )
        self.project = nn.ModuleList(
            nn.Conv2d(widened(module, channels), dimension, 1) for module in self.implicit
        )
        self.prototypes = nn.Parameter(torch.randn(num_identities, dimension))

    def chains(self) -> Iterator[list[nn.Module]]:
        """Layers that follow each other directly, see `layers.fuse`."""
        for implicit, project in zip(self.implicit, self.project):
            yield [implicit, project]

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Features (N, Ci, Hi, Wi) to (N, D, Hi, Wi) float32 vectors of length 1, by level."""
        return [
            F.normalize(project(implicit(conv(x))).float(), dim=1)
            for x, conv, implicit, project in zip(features, self.convs, self.implicit, self.project)
        ]


class TaskBranches(nn.Module):
    """The branches that are switched on; the others do not exist and have no parameters.

    Args:
        classification: see `ClassificationBranch`; None switches the task off.
        embedding: see `EmbeddingBranch`; None switches the task off.
    """

    def __init__(
        self,
        *,
        classification: ClassificationBranch | None = None,
        embedding: EmbeddingBranch | None = None,
    ):
        super().__init__()
        self.classification = classification
        self.embedding = embedding

    def forward(
        self, features: Sequence[Tensor], windows: Tensor
    ) -> tuple[Tensor | None, list[Tensor] | None]:
        """Logits of the classes and embedding maps, see the branches; None for what is off."""
        logits = maps = None
        if self.classification is not None:
            logits = self.classification(features, windows)
        if self.embedding is not None:
            maps = self.embedding(features)
        return logits, maps
