"""From decoded rows to the final detections of one image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Candidates kept per image: bounds time and memory when nearly every row passes the threshold.
MAX_CANDIDATES = 30_000
# Candidates in the first round of NMS, see `detect`.
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


def class_thresholds(
    score_threshold: float | Tensor, classes: Sequence[int] | None, like: Tensor
) -> Tensor:
    """(K,) least score of every class; infinity for those that are not wanted.

    Args:
        score_threshold: one for all classes, or (K,).
        classes: the wanted classes; None wants all.
        like: (..., K) class scores, whose device and dtype the result has.

    Raises:
        ValueError: when there are thresholds for another number of classes.
    """
    count = like.shape[-1]
    least = torch.as_tensor(score_threshold, device=like.device, dtype=like.dtype)
    if least.dim() and len(least) != count:
        raise ValueError(f"there are {len(least)} score thresholds, but {count} classes")
    least = least.expand(count)
    if classes is None:
        return least
    chosen = torch.full_like(least, torch.inf)
    chosen[list(classes)] = least[list(classes)]
    return chosen


def select_candidates(
    rows: Tensor,
    score_threshold: float | Tensor,
    classes: Sequence[int] | None = None,
    *,
    multi_label: bool = True,
) -> Detections:
    """Every (row, class) pair above the threshold, or the best class of each row.

    Scores are not computed for pairs that cannot pass, so that the cost beyond one comparison per
    pair is that of the candidates.

    Args:
        rows: (R, 5 + K) decoded rows of one image: xyxy, objectness, class scores.
        score_threshold: both objectness and its product with the class score must exceed this;
            (K,) gives every class a threshold of its own.
        classes: keep only these classes; None keeps all.
        multi_label: one row may give several classes; otherwise its best class alone, where that
            passes.

    Returns:
        Candidates in falling score, at most `MAX_CANDIDATES`. Those that are not finite are
        dropped, as half precision may overflow in a network that is still learning.
    """
    least = class_thresholds(score_threshold, classes, rows[:, 5:])
    number = (rows[:, 4] > least.amin()).nonzero()[:, 0]
    if 2 * len(number) > len(rows):
        # Copying most rows would cost more than comparing all.
        number, kept = torch.arange(len(rows), device=rows.device), rows
    else:
        kept = rows[number]
    objectness, class_scores = kept[:, 4], kept[:, 5:]
    if not multi_label:
        if classes is not None:
            class_scores = class_scores.masked_fill(least.isinf(), -1.0)
        # NaN would be the greatest.
        labels = class_scores.nan_to_num(nan=-1.0).argmax(dim=1)
        index = torch.arange(len(kept), device=rows.device)
    else:
        # A little below the threshold, as division rounds; the product decides below.
        floor = (least.amin() * (1 - 1e-5) / objectness)[:, None]
        index, labels = (class_scores > floor).nonzero(as_tuple=True)
    # Selecting from flat tensors costs a fraction of indexing; times 0, only finite numbers are 0.
    certain = objectness.contiguous().index_select(0, index)
    scores = certain * kept.take(index * kept.shape[1] + 5 + labels)
    finite = (kept[:, :4] * 0).sum(dim=1) == 0
    passing = torch.minimum(scores, certain) > least.index_select(0, labels)
    passing &= scores.isfinite() & finite.index_select(0, index)
    if not passing.all():
        index, labels, scores = index[passing], labels[passing], scores[passing]
    if len(scores) > MAX_CANDIDATES:
        # Ties at the limit are left to the stable sort.
        limit = scores.topk(MAX_CANDIDATES, sorted=False).values.amin()
        best = (scores >= limit).nonzero()[:, 0]
        index, labels, scores = index[best], labels[best], scores[best]
    scores, order = scores.sort(descending=True, stable=True)
    order = order[:MAX_CANDIDATES]
    index = index[order]
    return Detections(kept[index, :4], scores[:MAX_CANDIDATES], labels[order], number[index])


def detect(
    rows: Tensor,
    *,
    score_threshold: float | Tensor,
    iou_threshold: float,
    max_detections: int = 300,
    class_agnostic: bool = False,
    classes: Sequence[int] | None = None,
    multi_label: bool = True,
) -> Detections:
    """Non-maximum suppression over the candidates of one image.

    Args:
        rows: (R, 5 + K) decoded rows, see `select_candidates`.
        score_threshold: see `select_candidates`.
        iou_threshold: a box that overlaps a better one of its class by more than this is dropped.
        max_detections: keep this many of the best.
        class_agnostic: let boxes of different classes suppress each other.
        classes: keep only these classes; None keeps all.
        multi_label: see `select_candidates`.

    Returns:
        Detections in falling score.
    """
    candidates = select_candidates(rows, score_threshold, classes, multi_label=multi_label)
    return suppress(
        candidates,
        iou_threshold=iou_threshold,
        max_detections=max_detections,
        class_agnostic=class_agnostic,
    )


def suppress(
    candidates: Detections,
    *,
    iou_threshold: float,
    max_detections: int = 300,
    class_agnostic: bool = False,
) -> Detections:
    """Non-maximum suppression over candidates in falling score; arguments as in `detect`."""
    # Here, as it takes a second and training has no use for it.
    from torchvision.ops import batched_nms, nms

    boxes, scores, labels, numbers = candidates
    # NMS is greedy: what happens to a box depends on better boxes alone. So if the best
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
