"""From decoded rows to the final detections of one image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Candidates kept per image: bounds time and memory when nearly every row passes the threshold.
MAX_CANDIDATES = 30_000
# Candidates in the first round of suppression, see `detect`.
FIRST_ROUND = 2048


class Detections(NamedTuple):
    """D detections of one image, best first.

    Attributes:
        boxes: (D, 4) xyxy in input pixels.
        scores: (D,) objectness times class score.
        labels: (D,) int64 classes.
        rows: (D,) int64, the decoded row that each came from: with it a caller finds what else
            the network says at that anchor and cell.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    rows: Tensor


def select_candidates(
    rows: Tensor, score_threshold: float, classes: Sequence[int] | None = None
) -> Detections:
    """Every (row, class) pair above the threshold; one row may give several.

    Args:
        rows: (R, 5 + K) decoded rows of one image: xyxy, objectness, class scores.
        score_threshold: both objectness and its product with the class score must exceed this.
        classes: keep only these classes; None keeps all.

    Returns:
        Candidates in falling score, at most `MAX_CANDIDATES`. Rows that are not finite are
        dropped, as half precision may overflow in a network that is still learning.
    """
    number = (rows[:, 4] > score_threshold).nonzero()[:, 0]
    rows = rows[number]
    finite = rows.isfinite().all(dim=1)
    rows, number = rows[finite], number[finite]
    scores = rows[:, 4:5] * rows[:, 5:]  # (R', K)
    above = scores > score_threshold
    if classes is not None:
        wanted = torch.zeros(scores.shape[1], dtype=torch.bool, device=rows.device)
        wanted[list(classes)] = True
        above &= wanted
    index, labels = above.nonzero(as_tuple=True)
    scores, order = scores[index, labels].sort(descending=True, stable=True)
    order = order[:MAX_CANDIDATES]
    index = index[order]
    return Detections(rows[index, :4], scores[:MAX_CANDIDATES], labels[order], number[index])


def detect(
    rows: Tensor,
    *,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int = 300,
    class_agnostic: bool = False,
    classes: Sequence[int] | None = None,
) -> Detections:
    """Non-maximum suppression over the candidates of one image.

    Args:
        rows: (R, 5 + K) decoded rows, see `select_candidates`.
        score_threshold: see `select_candidates`.
        iou_threshold: a box that overlaps a better one of its class by more than this is dropped.
        max_detections: keep this many of the best.
        class_agnostic: let boxes of different classes suppress each other.
        classes: keep only these classes; None keeps all.

    Returns:
        Detections in falling score.
    """
    # Here, as it takes a second and training has no use for it.
    from torchvision.ops import batched_nms, nms

    boxes, scores, labels, numbers = select_candidates(rows, score_threshold, classes)
    # Suppression is greedy: what happens to a box depends on better boxes alone. So if the best
    # candidates already give enough detections, the others need not be compared, which costs
    # quadratic time.
    considered = FIRST_ROUND
    # torchvision tells classes apart by shifting boxes, which fails for negative coordinates.
    shifted = boxes - boxes.amin() if len(boxes) else boxes
    while True:
        best = slice(None, considered)
        if class_agnostic:
            keep = nms(boxes[best], scores[best], iou_threshold)
        else:
            keep = batched_nms(shifted[best], scores[best], labels[best], iou_threshold)
        if len(keep) >= max_detections or considered >= len(scores):
            break
        considered *= 4
    keep = keep[:max_detections]
    return Detections(boxes[keep], scores[keep], labels[keep], numbers[keep])
