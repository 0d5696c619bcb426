"""Losses of the further tasks, and vectors of detections; see `networks.tasks`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .assign import LevelTargets


def present_classes(image: Tensor, labels: Tensor, num_images: int, num_classes: int) -> Tensor:
    """(N, K) 1 where an image shows a class, else 0.

    Args:
        image: (M,) int64 index of each object's image.
        labels: (M,) int64 classes.
        num_images: images N.
        num_classes: classes K.
    """
    present = torch.zeros(num_images, num_classes, device=image.device)
    present[image, labels] = 1
    return present


def classification_loss(logits: Tensor, present: Tensor) -> Tensor:
    """Binary cross-entropy of every image and class, averaged.

    Args:
        logits: (N, K).
        present: (N, K), see `present_classes`.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), present)


def embedding_loss(
    maps: Sequence[Tensor],
    targets: Sequence[LevelTargets],
    identities: Tensor,
    prototypes: Tensor,
) -> Tensor:
    """Cross-entropy of the positives' vectors over the identities' prototypes.

    Logits are cosines times sqrt(2) log(I - 1), the fixed scale of AdaCos (arXiv 1905.00292, eq.
    12), which lets the probability of I identities come near 1; 1 at least.

    Args:
        maps: (N, D, H, W) vectors of length 1 of each level.
        targets: positives of each level, see `ops.assign`.
        identities: (M,) int64 identity of each object of the batch, below 0 for none.
        prototypes: (I, D), of any length.

    Returns:
        The mean over all positives that have an identity; 0 without any, with gradients of 0.
    """
    vectors, wanted = [], []
    for x, level in zip(maps, targets):
        known = identities[level.source] >= 0
        rows = x[level.image[known], :, level.row[known], level.column[known]]  # (P, D)
        vectors.append(rows.float())
        wanted.append(identities[level.source[known]])
    found, identity = torch.cat(vectors), torch.cat(wanted)
    directions = F.normalize(prototypes.float(), dim=1)
    if len(found) == 0:
        return sum((x.sum() * 0 for x in maps), directions.sum() * 0)
    scale = max(math.sqrt(2) * math.log(max(len(prototypes) - 1, 1)), 1.0)
    return F.cross_entropy(scale * found @ directions.T, identity)


def gather_embeddings(maps: Sequence[Tensor], image: int, rows: Tensor, num_anchors: int) -> Tensor:
    """Vectors of the cells that decoded rows come from.

    Args:
        maps: (N, D, H, W) of each level, fine to coarse.
        image: index of the image.
        rows: (B,) int64 indices as in `ops.nms.Detections`; a level's rows run over anchor, then
            cell.
        num_anchors: anchors A per cell.

    Returns:
        (B, D).
    """
    cells = torch.cat([x[image].flatten(1) for x in maps], dim=1)  # (D, cells of all levels)
    sizes = torch.tensor([x.shape[2] * x.shape[3] for x in maps], device=rows.device)
    ends = (num_anchors * sizes).cumsum(0)
    level = torch.bucketize(rows, ends, right=True)
    inside = rows - (ends - num_anchors * sizes)[level]
    cell = inside % sizes[level] + (sizes.cumsum(0) - sizes)[level]
    return cells[:, cell].T
