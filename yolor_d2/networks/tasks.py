"""Further tasks on the shared representation (paper section 5.4), a branch each on the neck.

The paper names the tasks, joint detection and multi-label image classification (JDC), joint
detection and feature embedding (JDE), and puts implicit knowledge into each branch (iJDC, iJDE).
It says nothing about the branches themselves; their layout, sizes and losses are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import BlockForm, ConvNormAct, ImplicitOptions, build_implicit, widened

# Share of the classes that a picture is taken to show before anything is learned.
PRIOR = 0.1


class ClassificationBranch(nn.Module):
    """Which classes an image shows: 3x3 convolution, implicit knowledge, mean, linear layer.

    Args:
        in_channels: width of the coarsest output of the neck, which sees most of the image.
        channels: width of the branch.
        num_classes: classes K.
        form: norm and activation.
        implicit: implicit knowledge behind the convolution, see `layers.parse_implicit`.
        options: what all implicit knowledge shares.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        channels: int,
        num_classes: int,
        form: BlockForm,
        implicit: str = "none",
        options: ImplicitOptions = ImplicitOptions(),
    ):
        super().__init__()
        self.conv = ConvNormAct(in_channels, channels, 3, form=form)
        self.align = build_implicit(implicit, channels, options=options)
        self.predict = nn.Linear(widened(self.align, channels), num_classes)
        nn.init.constant_(self.predict.bias, math.log(PRIOR / (1 - PRIOR)))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features (N, Ci, Hi, Wi), fine to coarse, to logits (N, K)."""
        return self.predict(self.align(self.conv(features[-1])).mean(dim=(2, 3)))


class EmbeddingBranch(nn.Module):
    """A vector for every cell, by which individuals are told apart.

    On each level a 3x3 convolution, implicit knowledge and a 1x1 convolution. Training compares the
    vectors with a prototype of each identity, as in JDE (arXiv 1909.12605, section 3.3).

    Args:
        in_channels: width of each output of the neck, fine to coarse.
        channels: width of the branch.
        dim: length D of the vectors.
        num_identities: identities that are learned.
        form: norm and activation.
        implicit: implicit knowledge behind each 3x3 convolution, see `layers.parse_implicit`.
        options: what all implicit knowledge shares.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        channels: int,
        dim: int,
        num_identities: int,
        form: BlockForm,
        implicit: str = "none",
        options: ImplicitOptions = ImplicitOptions(),
    ):
        super().__init__()
        if dim < 1 or num_identities < 2:
            raise ValueError(
                f"embeddings (MODEL.YOLOR.TASKS.EMBEDDING) have DIM {dim} and NUM_IDENTITIES "
                f"{num_identities}, expected at least 1 and 2"
            )
        self.conv = nn.ModuleList(ConvNormAct(c, channels, 3, form=form) for c in in_channels)
        self.align = nn.ModuleList(
            build_implicit(implicit, channels, options=options) for _ in in_channels
        )
        self.project = nn.ModuleList(
            nn.Conv2d(widened(align, channels), dim, 1) for align in self.align
        )
        self.prototypes = nn.Parameter(torch.randn(num_identities, dim))

    def chains(self) -> Iterator[list[nn.Module]]:
        """Layers that follow each other directly, see `layers.fuse`."""
        for align, project in zip(self.align, self.project):
            yield [align, project]

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Features (N, Ci, Hi, Wi), fine to coarse, to vectors of length 1, (N, D, Hi, Wi) each."""
        return [
            F.normalize(project(align(conv(x))), dim=1)
            for x, conv, align, project in zip(features, self.conv, self.align, self.project)
        ]
