"""The detection loss: box (CIoU), objectness and class terms over all levels.

The formulas follow the authors' training recipe for the paper's models; `detection_losses` is the
whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .assign import Assignment, LevelTargets, join_levels
from .boxes import EPSILONS, paired_iou
from .decode import decode_offsets
from .device import constant

# Weight of the objectness term of each level, fine to coarse: fine levels have more cells, of
# which a smaller share is positive, so their mean would otherwise drown.
OBJECTNESS_BALANCE = {
    3: (4.0, 1.0, 0.4),
    4: (4.0, 1.0, 0.4, 0.1),
    5: (4.0, 1.0, 0.5, 0.4, 0.1),
}


@dataclass(frozen=True)
class LossGains:
    """Weights of the terms.

    Attributes:
        box: gain of the CIoU term.
        objectness: gain of the objectness term.
        balance: weight of the objectness term of each level, fine to coarse; None takes the
            published one, see `OBJECTNESS_BALANCE`.
        classes: gain of the class term.
        scale_classes: `classes` is meant for 80 classes and is multiplied by K / 80.
        train_size: side of the training images in pixels; `objectness` is meant for 640 and is
            multiplied by (train_size / 640)^2 (YOLOv7, YOLOv5). None multiplies it by 1.4 from four
            levels on (YOLOR).
        focal_gamma: exponent of the focal factor on both cross entropies; 0 switches it off.
        label_smoothing: class targets are 1 - label_smoothing / 2 and label_smoothing / 2 in place
            of 1 and 0.
        ciou: whose rounding of CIoU, "yolor" or "yolov7", see `boxes.paired_iou`.
    """

    box: float = 0.05
    objectness: float = 1.0
    balance: tuple[float, ...] | None = None
    classes: float = 0.5
    scale_classes: bool = True
    train_size: int | None = None
    focal_gamma: float = 0.0
    label_smoothing: float = 0.0
    ciou: str = "yolor"

    def __post_init__(self):
        if self.ciou not in EPSILONS:
            raise ValueError(
                f"MODEL.YOLOR.LOSS.CIOU is {self.ciou!r}, expected one of {sorted(EPSILONS)}"
            )
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"label smoothing (MODEL.YOLOR.LOSS.LABEL_SMOOTHING) is {self.label_smoothing}, "
                "expected a number in [0, 1)"
            )


class DetectionLosses(NamedTuple):
    """Weighted 0-dim terms, means over the batch."""

    box: Tensor
    objectness: Tensor
    classes: Tensor


def binary_cross_entropy(
    logits: Tensor, targets: Tensor, focal_gamma: float = 0.0, weight: Tensor | None = None
) -> Tensor:
    """Binary cross entropy with soft targets, with an optional focal factor (Lin et al. 2017).

    Args:
        logits: any shape; with weights (R, K).
        targets: same shape, in 0-1.
        focal_gamma: 0 for the plain cross entropy.
        weight: (R,), of the mean over each row.

    Returns:
        0-dim: the mean, or the sum of the weighted means of the rows. The focal factor takes part
        in the gradient.
    """
    if focal_gamma == 0 and weight is None:
        return F.binary_cross_entropy_with_logits(logits, targets)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if focal_gamma != 0:
        scores = logits.sigmoid()
        agreement = targets * scores + (1 - targets) * (1 - scores)
        alpha = 0.25 * targets + 0.75 * (1 - targets)
        entropy = entropy * alpha * (1 - agreement) ** focal_gamma
    return entropy.mean() if weight is None else (entropy.mean(dim=1) * weight).sum()


def last_of_each(keys: Tensor) -> tuple[Tensor, Tensor]:
    """The last row of every distinct key.

    Writing only these rows makes "the last one wins" true on every device; a plain indexed
    assignment with repeated indices leaves the winner open.

    Args:
        keys: (P,).

    Returns:
        (P,) indices that sort the keys, stable, and (P,) bool, in that order: whether the row is
        the last one of its key.
    """
    ordered, order = keys.sort(stable=True)
    is_last = torch.ones_like(ordered, dtype=torch.bool)
    is_last[:-1] = ordered[1:] != ordered[:-1]
    return order, is_last


def objectness_targets(
    levels: Sequence[Tensor], targets: Assignment, overlap: Tensor
) -> list[Tensor]:
    """What objectness should be in every cell: 0, or the overlap of the cell's last positive.

    Args:
        levels: L logits (N, A, H, W, 5 + K).
        targets: R rows.
        overlap: (R,) CIoU of the predicted boxes with their targets; negative ones count as 0.

    Returns:
        L float32 (N, A, H, W).
    """
    cells = [level[..., 4].numel() for level in levels]
    total = sum(cells)
    shapes = [level.shape[1:4] for level in levels]
    starts = list(accumulate(cells, initial=0))
    shape = constant(tuple(map(tuple, shapes)), targets.level)[targets.level]  # (R, 3)
    start = constant(tuple(starts[:-1]), targets.level)[targets.level]
    a, h, w = shape.unbind(dim=1)
    cell = start + ((targets.image * a + targets.anchor) * h + targets.row) * w + targets.column
    if targets.valid is not None:
        cell = cell.masked_fill(~targets.valid, total)
    order, is_last = last_of_each(cell)
    # One cell more takes what is not wanted.
    flat = overlap.new_zeros(total + 1)
    flat[cell[order].masked_fill(~is_last, total)] = overlap.clamp(min=0)[order]
    return [part.view(level.shape[:4]) for part, level in zip(flat[:total].split(cells), levels)]


def at_least_float32(x: Tensor) -> Tensor:
    """The small probabilities of objectness and the quotients of CIoU need it, also under
    autocast."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def logits_at(levels: Sequence[Tensor], targets: Assignment) -> Tensor:
    """(R, 5 + K) logits of R rows, at least float32.

    Args:
        levels: L logits (N, A, H, W, 5 + K).
        targets: R rows, those of each level in `sizes`.
    """
    places = (targets.image, targets.anchor, targets.row, targets.column)
    by_level = zip(*(place.split(targets.sizes) for place in places))
    # A level without rows has no part in the gradient.
    rows = [
        level[where] if len(where[0]) else level.new_zeros(0, level.shape[-1])
        for level, where in zip(levels, by_level)
    ]
    return at_least_float32(torch.cat(rows))


def loss_terms(
    levels: Sequence[Tensor],
    targets: Assignment,
    anchors: Tensor,
    gains: LossGains = LossGains(),
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Unweighted terms.

    Args:
        levels: L logits (N, A, H, W, 5 + K).
        targets: positives of all levels.
        anchors: (L, A, 2) in cells.
        gains: focal factor, label smoothing and form of CIoU count.

    Returns:
        0-dim, at least float32: box term, the sum of the means over the positives of each level;
        objectness terms of each level, means over its cells; class term, as the box term, and 0
        with K = 1.
    """
    matched = logits_at(levels, targets)
    wanted_box = targets.box
    # Of each row in the mean of its level.
    factor = (1 / targets.positives.clamp(min=1).to(matched.dtype))[targets.level]
    if targets.valid is not None:
        # Nothing that other cells hold may reach the sums, be it infinite.
        matched = matched.masked_fill(~targets.valid[:, None], 0.0)
        wanted_box = wanted_box.masked_fill(~targets.valid[:, None], 1.0)
        factor = factor * targets.valid

    centres, sizes = decode_offsets(matched[:, :4], anchors[targets.level, targets.anchor])
    predicted = torch.cat([centres, sizes], dim=1)
    ciou = paired_iou(predicted, wanted_box, kind="ciou", form=gains.ciou)
    box_loss = ((1 - ciou) * factor).sum()

    objectness = [
        binary_cross_entropy(at_least_float32(level[..., 4]), target, gains.focal_gamma)
        for level, target in zip(levels, objectness_targets(levels, targets, ciou.detach()))
    ]
    num_classes = matched.shape[1] - 5
    if num_classes == 1:
        return box_loss, objectness, box_loss.new_zeros(())
    is_class = targets.label[:, None] == torch.arange(num_classes, device=matched.device)
    wanted = is_class.to(matched.dtype)
    if gains.label_smoothing > 0:
        wanted = wanted * (1 - gains.label_smoothing) + gains.label_smoothing / 2
    classes = binary_cross_entropy(matched[:, 5:], wanted, gains.focal_gamma, factor)
    return box_loss, objectness, classes


def detection_losses(
    levels: Sequence[Tensor],
    targets: Assignment | Sequence[LevelTargets],
    anchors: Tensor,
    strides: Sequence[int],
    gains: LossGains = LossGains(),
) -> DetectionLosses:
    """Box, objectness and class loss of a batch.

    Args:
        levels: L logits (N, A, H, W, 5 + K), fine to coarse.
        targets: positives, see `ops.assign`; of all levels, or L of one level each.
        anchors: (L, A, 2) in input pixels.
        strides: L strides.
        gains: weights of the terms.

    Returns:
        Weighted terms, means over the batch: the caller multiplies by the batch size if its
        optimiser expects sums. A term without any positive is 0, with gradients of 0.

    Raises:
        ValueError: when there is no objectness balance for this number of levels.
    """
    if not isinstance(targets, Assignment):
        targets = join_levels(targets)
    stride = constant(tuple(map(float, strides)), anchors)[:, None, None]
    terms = loss_terms(levels, targets, anchors / stride, gains)
    return weigh_terms(*terms, gains, num_classes=levels[0].shape[-1] - 5)


def weigh_terms(
    box: Tensor, by_level: Sequence[Tensor], classes: Tensor, gains: LossGains, num_classes: int
) -> DetectionLosses:
    """Terms as `loss_terms` gives them, times their gains; errors as of `detection_losses`.

    Args:
        box: 0-dim, summed over the levels.
        by_level: L objectness terms, 0-dim.
        classes: 0-dim, summed over the levels.
        gains: weights of the terms.
        num_classes: K.
    """
    num_levels = len(by_level)
    level_weights = gains.balance or OBJECTNESS_BALANCE.get(num_levels, ())
    if len(level_weights) != num_levels:
        raise ValueError(
            f"the objectness balance (MODEL.YOLOR.LOSS.BALANCE) needs a weight for each of "
            f"{num_levels} levels, got {list(level_weights)}; the published ones are for "
            f"{sorted(OBJECTNESS_BALANCE)} levels"
        )
    objectness = torch.stack([weight * term for weight, term in zip(level_weights, by_level)]).sum()

    per_level = 3 / num_levels
    if gains.train_size is None:
        objectness_factor = 1.4 if num_levels >= 4 else 1.0
    else:
        objectness_factor = (gains.train_size / 640) ** 2
    objectness_gain = gains.objectness * per_level * objectness_factor
    classes_gain = gains.classes * per_level * (num_classes / 80 if gains.scale_classes else 1.0)
    return DetectionLosses(
        box=box * gains.box * per_level,
        objectness=objectness * objectness_gain,
        classes=classes * classes_gain,
    )
