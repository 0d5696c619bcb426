"""The detection loss: box (CIoU), objectness and class terms over all levels.

The formulas follow the authors' training recipe for the paper's models; `detection_losses` is the
whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .assign import LevelTargets
from .boxes import paired_iou
from .decode import decode_offsets

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
        focal_gamma: exponent of the focal factor on both cross entropies; 0 switches it off.
        label_smoothing: class targets are 1 - label_smoothing / 2 and label_smoothing / 2 in place
            of 1 and 0.
    """

    box: float = 0.05
    objectness: float = 1.0
    balance: tuple[float, ...] | None = None
    classes: float = 0.5
    scale_classes: bool = True
    focal_gamma: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self):
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


def binary_cross_entropy(logits: Tensor, targets: Tensor, focal_gamma: float = 0.0) -> Tensor:
    """Mean binary cross entropy with soft targets, with an optional focal factor (Lin et al. 2017).

    Args:
        logits: any shape, at least one element.
        targets: same shape, in 0-1.
        focal_gamma: 0 for the plain cross entropy.

    Returns:
        0-dim mean. The focal factor takes part in the gradient.
    """
    if focal_gamma == 0:
        return F.binary_cross_entropy_with_logits(logits, targets)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    scores = logits.sigmoid()
    agreement = targets * scores + (1 - targets) * (1 - scores)
    alpha = 0.25 * targets + 0.75 * (1 - targets)
    return (entropy * alpha * (1 - agreement) ** focal_gamma).mean()


def last_of_each(keys: Tensor) -> Tensor:
    """(P,) keys to the indices of the last row of every distinct key.

    Writing only these rows makes "the last one wins" true on every device; a plain indexed
    assignment with repeated indices leaves the winner open.
    """
    ordered, order = keys.sort(stable=True)
    is_last = torch.ones_like(ordered, dtype=torch.bool)
    is_last[:-1] = ordered[1:] != ordered[:-1]
    return order[is_last]


def level_losses(
    logits: Tensor,
    targets: LevelTargets,
    anchors: Tensor,
    focal_gamma: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Unweighted terms of one level.

    Args:
        logits: (N, A, H, W, 5 + K).
        targets: positives of the level.
        anchors: (A, 2) in cells.
        focal_gamma, label_smoothing: see `LossGains`.

    Returns:
        Box, objectness and class term, 0-dim float32. The box term is None without positives, the
        class term is None without positives or with K = 1.
    """
    _n, a, h, w, outputs = logits.shape
    num_classes = outputs - 5
    # The small probabilities of objectness and the quotients of CIoU need float32, also under
    # autocast.
    objectness = logits[..., 4].float()
    target = torch.zeros_like(objectness)
    if len(targets.label) == 0:
        return None, binary_cross_entropy(objectness, target, focal_gamma), None

    matched = logits[
        targets.image, targets.anchor, targets.row, targets.column
    ].float()  # (P, 5 + K)
    centres, sizes = decode_offsets(matched[:, :4], anchors[targets.anchor])
    ciou = paired_iou(torch.cat([centres, sizes], dim=1), targets.box, kind="ciou")
    box_loss = (1 - ciou).mean()

    cell = ((targets.image * a + targets.anchor) * h + targets.row) * w + targets.column
    last = last_of_each(cell)
    where = (targets.image[last], targets.anchor[last], targets.row[last], targets.column[last])
    target[where] = ciou.detach()[last].clamp(min=0)
    objectness_loss = binary_cross_entropy(objectness, target, focal_gamma)

    if num_classes == 1:
        return box_loss, objectness_loss, None
    one_hot = F.one_hot(targets.label, num_classes).to(matched.dtype)
    wanted = one_hot * (1 - label_smoothing) + label_smoothing / 2
    class_loss = binary_cross_entropy(matched[:, 5:], wanted, focal_gamma)
    return box_loss, objectness_loss, class_loss


def detection_losses(
    levels: Sequence[Tensor],
    targets: Sequence[LevelTargets],
    anchors: Tensor,
    strides: Sequence[int],
    gains: LossGains = LossGains(),
) -> DetectionLosses:
    """Box, objectness and class loss of a batch.

    Args:
        levels: L logits (N, A, H, W, 5 + K), fine to coarse.
        targets: L positives, see `ops.assign.assign_targets`.
        anchors: (L, A, 2) in input pixels.
        strides: L strides.
        gains: weights of the terms.

    Returns:
        Weighted terms, means over the batch: the caller multiplies by the batch size if its
        optimiser expects sums. A term without any positive is 0 and has no gradient.

    Raises:
        ValueError: when there is no objectness balance for this number of levels.
    """
    num_levels = len(levels)
    level_weights = gains.balance or OBJECTNESS_BALANCE.get(num_levels, ())
    if len(level_weights) != num_levels:
        raise ValueError(
            f"the objectness balance (MODEL.YOLOR.LOSS.BALANCE) needs a weight for each of "
            f"{num_levels} levels, got {list(level_weights)}; the published ones are for "
            f"{sorted(OBJECTNESS_BALANCE)} levels"
        )
    num_classes = levels[0].shape[-1] - 5
    zero = levels[0].new_zeros((), dtype=torch.float32)
    box, objectness, classes = zero, zero, zero
    for i, balance in enumerate(level_weights):
        box_i, objectness_i, classes_i = level_losses(
            levels[i],
            targets[i],
            anchors[i] / strides[i],
            gains.focal_gamma,
            gains.label_smoothing,
        )
        objectness = objectness + balance * objectness_i
        if box_i is not None:
            box = box + box_i
        if classes_i is not None:
            classes = classes + classes_i

    per_level = 3 / num_levels
    objectness_gain = gains.objectness * per_level * (1.4 if num_levels >= 4 else 1.0)
    classes_gain = gains.classes * per_level * (num_classes / 80 if gains.scale_classes else 1.0)
    return DetectionLosses(
        box=box * gains.box * per_level,
        objectness=objectness * objectness_gain,
        classes=classes * classes_gain,
    )
