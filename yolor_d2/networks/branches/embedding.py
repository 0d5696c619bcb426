"""A vector for each object that tells which individual it is: joint detection and embedding (paper
section 5.4, JDE; with implicit knowledge iJDE).

The paper names the task; branch and loss are this project's choice. Identities are distinguished by
classification with a learned prototype each. JDE (arXiv 1909.12605) found that better than triplet
losses; and a loss over pairs of a batch would need the same individual twice in it, which batches
of a few images rarely hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers import BlockForm, ConvNormAct, ImplicitOptions, build_implicit, widened
from ...ops.assign import Assignment, LevelTargets, join_levels
from ...ops.truth import Truth
from .branch import DetectedBoxes, FileOutput, TaskBranch


def cosine_scale(num_identities: int) -> float:
    """Factor s on the cosines before the softmax: sqrt(2) * log(I - 1).

    Cosines lie in [-1, 1], between which a softmax over many identities cannot become certain. The
    formula is that of AdaCos for a fixed scale (arXiv 1905.00292); below it, for fewer than
    four identities, s stays at sqrt(2).
    """
    return math.sqrt(2) * math.log(max(num_identities - 1, math.e))


def matched_embeddings(
    maps: Sequence[Tensor], targets: Assignment | Sequence[LevelTargets], identities: Tensor
) -> tuple[Tensor, Tensor]:
    """Vectors at the positives of objects whose identity is known.

    Args:
        maps: L (N, D, H, W).
        targets: positives of all levels, or L of one level each whose `label` is the number of
            their box.
        identities: (M,) int64 identities of the boxes, negative where unknown.

    Returns:
        (P, D) vectors and (P,) int64 identities; negative in rows that do not count, which there
        are where shapes are fixed, see `Assignment.valid`.
    """
    if not isinstance(targets, Assignment):
        targets = join_levels(targets)
    places = (targets.image, targets.row, targets.column)
    by_level = zip(*(place.split(targets.sizes) for place in places))
    vectors = torch.cat([x.permute(0, 2, 3, 1)[where] for x, where in zip(maps, by_level)])
    numbers = identities[targets.number]
    if targets.valid is not None:
        return vectors, numbers.masked_fill(~targets.valid, -1)
    known = numbers >= 0
    return vectors[known], numbers[known]


def identity_loss(vectors: Tensor, identities: Tensor, prototypes: Tensor) -> Tensor:
    """Mean cross entropy of a softmax over scaled cosines between vectors and prototypes.

    Args:
        vectors: (P, D) of length 1.
        identities: (P,) int64, below I; rows with negative ones do not count.
        prototypes: (I, D) of any length but 0.

    Returns:
        0-dim float32; without vectors 0, with gradients of 0, so that processes whose images have
        no object wait for no gradient of the others.
    """
    cosines = vectors.float() @ F.normalize(prototypes.float(), dim=1).T  # (P, I)
    logits = cosines * cosine_scale(len(prototypes))
    entropy = F.cross_entropy(logits, identities.clamp(min=-1), ignore_index=-1, reduction="sum")
    return entropy / (identities >= 0).sum().clamp(min=1)


def embeddings_of_rows(maps: Sequence[Tensor], rows: Tensor, num_anchors: int) -> Tensor:
    """Vectors at the cells of decoded rows.

    Args:
        maps: L (D, H, W) of one image, fine to coarse.
        rows: (R,) int64 numbers of rows in the order of `ops.decode.decode`, with A * H * W a
            level.
        num_anchors: A.

    Returns:
        (R, D), in the order of `rows`.
    """
    cells = torch.cat([level.flatten(1).T for level in maps])  # (sum of H * W, D)
    numbers, start = [], 0
    for level in maps:
        size = level.shape[1] * level.shape[2]
        one_anchor = torch.arange(start, start + size, device=rows.device)
        numbers.append(one_anchor.repeat(num_anchors))
        start += size
    return cells[torch.cat(numbers)[rows]]


class EmbeddingBranch(TaskBranch):
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
        gain: weight of the loss.
        form: norm and activation of the 3x3 convolution.
        num_anchors: anchors of a cell, which share its vector.
    """

    by_data = ("prototypes",)

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        dimension: int = 128,
        num_identities: int = 0,
        channels: int = 128,
        implicit: str = "none",
        options: ImplicitOptions = ImplicitOptions(),
        gain: float = 0.05,
        form: BlockForm,
        num_anchors: int = 3,
    ):
        super().__init__(gain)
        self.num_anchors = num_anchors
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

    def forward(self, features: Sequence[Tensor], windows: Tensor) -> list[Tensor]:
        """Features (N, Ci, Hi, Wi) to (N, D, Hi, Wi) float32 vectors of length 1, by level."""
        return [
            F.normalize(project(implicit(conv(x))).float(), dim=1)
            for x, conv, implicit, project in zip(features, self.convs, self.implicit, self.project)
        ]

    def losses(self, output: list[Tensor], truth: Truth, targets: Assignment) -> dict[str, Tensor]:
        """See `TaskBranch`: "loss_embedding"; `truth` has the field "identities"."""
        matched = matched_embeddings(output, targets, truth.fields["identities"])
        return {"loss_embedding": self.gain * identity_loss(*matched, self.prototypes)}

    def decode(self, output: list[Tensor], image: int, detections: DetectedBoxes) -> Tensor:
        """(D, dimension) vectors of length 1."""
        return embeddings_of_rows([x[image] for x in output], detections.rows, self.num_anchors)

    def file_outputs(self) -> list[FileOutput]:
        """See `TaskBranch`."""
        meaning = "vectors of length 1; those of one individual have a large inner product"
        return [FileOutput("embeddings", True, "number", meaning)]

    def export(self, output: list[Tensor]) -> list[Tensor]:
        """(N, R, D): anchors of a cell share its vector."""
        a = self.num_anchors
        cells = [x.flatten(2).transpose(1, 2) for x in output]  # (N, H * W, D)
        return [torch.cat([x for level in cells for x in [level] * a], dim=1)]
