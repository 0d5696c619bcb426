"""Losses of the tasks beside detection, and where their targets and outputs lie.

The paper (section 5.4) names the tasks; these losses are this project's choice. Identities are told
apart by classification with a learned prototype each. JDE (arXiv 1909.12605)
found that better than triplet losses; and a loss over pairs of a batch would need the same
individual twice in it, which batches of a few images rarely hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .assign import Assignment, LevelTargets, join_levels


def present_classes(
    image: Tensor, labels: Tensor, num_images: int, num_classes: int, valid: Tensor | None = None
) -> Tensor:
    """Which classes the boxes of each image have.

    Args:
        image: (M,) int64 index of each box's image.
        labels: (M,) int64 classes.
        num_images: N.
        num_classes: K.
        valid: (M,) bool, which boxes count; None counts all.

    Returns:
        (N, K) float32, 1 where an image has a box of the class, else 0.
    """
    seen = torch.ones(labels.shape, device=labels.device) if valid is None else valid.float()
    counts = torch.zeros(num_images, num_classes, device=labels.device)
    return counts.index_put((image, labels), seen, accumulate=True).clamp(max=1)


def presence_loss(logits: Tensor, present: Tensor) -> Tensor:
    """Mean binary cross entropy over images and classes.

    Args:
        logits: (N, K).
        present: (N, K) in 0-1, see `present_classes`.

    Returns:
        0-dim float32.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), present)


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
    found = identities[targets.number]
    if targets.valid is not None:
        return vectors, found.masked_fill(~targets.valid, -1)
    known = found >= 0
    return vectors[known], found[known]


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
