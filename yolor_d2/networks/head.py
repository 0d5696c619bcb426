"""Anchor head with implicit prediction refinement (paper section 3.2, "iPR")."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..layers import (
    PER_ANCHOR,
    SCOPES,
    AnchorwiseConv,
    ImplicitOptions,
    build_implicit,
    parse_implicit,
    split_levels,
)


class AnchorHead(nn.Module):
    """One 1x1 prediction convolution a level, refined by an implicit module on its outputs.

    Args:
        in_channels: width of each input feature, fine to coarse.
        strides: input pixels per cell of each level.
        num_anchors: anchors A per cell.
        num_classes: classes K, at least 1.
        implicit: implicit knowledge on the outputs, see `layers.parse_implicit`; the published
            models multiply. "sizes" refines tw and th alone (a name of `layers.SCOPES`).
            One for all levels, or one each with commas, fine to coarse.
        alignment: implicit knowledge on the inputs for each anchor ("per_anchor", see
            `layers.AnchorwiseConv`), or "none"; any other alignment is the neck's.
        auxiliary: widths of the features of auxiliary heads, one a level, or none. They have no
            implicit knowledge and work in training alone.
        options: what all implicit knowledge shares.
    """

    # Parts without effect at inference, see `layers.fuse`.
    training_only: ClassVar = ("auxiliary",)

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        strides: Sequence[int],
        num_anchors: int,
        num_classes: int,
        implicit: str = "mul",
        alignment: str = "none",
        auxiliary: Sequence[int] = (),
        options: ImplicitOptions = ImplicitOptions(),
    ):
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}, expected at least 1")
        self.strides = list(strides)
        self.num_anchors = num_anchors
        self.num_classes = num_classes
        outputs = num_anchors * (5 + num_classes)

        def predictor(words: str, channels: int) -> nn.Conv2d:
            spec = parse_implicit(words, may_widen=False, scopes=(PER_ANCHOR,))
            if not spec:
                return nn.Conv2d(channels, outputs, 1)
            return AnchorwiseConv(
                channels, outputs, num_anchors=num_anchors, spec=spec, options=options
            )

        def refinement(words: str) -> nn.Module:
            spec = parse_implicit(words, may_widen=False, scopes=tuple(SCOPES))
            positions = SCOPES[spec.scope](num_anchors, num_classes) if spec.scope else None
            return build_implicit(spec, outputs, options=options, positions=positions)

        num_levels = len(self.strides)
        self.predict = nn.ModuleList(
            predictor(words, c)
            for words, c in zip(split_levels(alignment, num_levels), in_channels)
        )
        self.refine = nn.ModuleList(
            refinement(words) for words in split_levels(implicit, num_levels)
        )
        self.auxiliary = nn.ModuleList(nn.Conv2d(c, outputs, 1) for c in auxiliary)
        self.init_biases()

    @torch.no_grad()
    def init_biases(self) -> None:
        """Start from plausible frequencies, so that the first steps do not fight the background.

        About 8 objects in a 640 px image for objectness, and 0.6 of them spread over the classes.
        """
        levels = chain(zip(self.predict, self.strides), zip(self.auxiliary, self.strides))
        for conv, stride in levels:
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            bias = conv.bias.view(self.num_anchors, 5 + self.num_classes)
            bias[:, 4] += math.log(8 / (640 / stride) ** 2)
            bias[:, 5:] += math.log(0.6 / (self.num_classes - 0.99))

    def chains(self) -> Iterator[list[nn.Module]]:
        """Layers that follow each other directly, see `layers.fuse`."""
        for predict, refine in zip(self.predict, self.refine):
            yield [predict, refine]

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Features (N, Ci, Hi, Wi) to logits (N, A, Hi, Wi, 5 + K), fine to coarse.

        The last axis is tx, ty, tw, th, objectness, classes; `ops.decode` turns it into boxes.
        In training the features of auxiliary heads, and their logits, follow those of all levels.
        """
        num_levels = len(self.strides)
        logits = [
            refine(predict(x)) for x, predict, refine in zip(features, self.predict, self.refine)
        ]
        logits += [predict(x) for x, predict in zip(features[num_levels:], self.auxiliary)]
        return [
            x.view(x.shape[0], self.num_anchors, -1, *x.shape[2:]).permute(0, 1, 3, 4, 2)
            for x in logits
        ]
