"""Decoding and NMS of a whole batch where nothing may wait for the host.

On the CPU images go one by one, see `decode.decode_passing` and `nms.detect`: leaving out what
cannot be a detection saves more than it costs. On a GPU each image would then wait a dozen times.
Here all shapes are fixed: the best candidates of every image are found, compared and suppressed
together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .boxes import cxcywh_to_xyxy
from .decode import decode_offsets
from .device import constant
from .nms import FIRST_ROUND, Detections

# Candidates of an image that are compared with each other at once: bounds memory.
BLOCK = 1024


class Effort(NamedTuple):
    """How far NMS goes before it gives an image up.

    Attributes:
        candidates: the best ones of an image that are looked at.
        rounds: in which the survivors of a block are found. Each settles one more link of the
            longest chain of boxes that overlap the next better one. Behind a trained network chains
            are short; where it gives whole rows of cells the same score they are as long as those.
    """

    candidates: int
    rounds: int


# The first is enough for most images.
EFFORTS = (Effort(FIRST_ROUND, 16), Effort(4 * FIRST_ROUND, 96))


class BatchDetections(NamedTuple):
    """Detections of N images, best first, D places each.

    Attributes:
        boxes: (N, D, 4) xyxy.
        scores: (N, D).
        labels: (N, D) int64 classes.
        rows: (N, D) int64, see `nms.Detections`.
        valid: (N, D) bool, the places that are filled.
        decided: (N,) bool, images whose detections these are; of the others more candidates must
            be looked at.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    rows: Tensor
    valid: Tensor
    decided: Tensor

    def only(self, valid: Tensor) -> BatchDetections:
        """Those that are valid here too, in the same order, at the first places."""
        valid = self.valid & valid
        order = (~valid).to(torch.uint8).argsort(dim=1, stable=True)
        boxes = self.boxes.gather(1, order[:, :, None].expand(-1, -1, 4))
        scores, labels, rows, valid = (x.gather(1, order) for x in (*self[1:4], valid))
        return self._replace(boxes=boxes, scores=scores, labels=labels, rows=rows, valid=valid)

    def images(self) -> list[Detections | None]:
        """Image by image, without empty places, which must be the last ones; None where it is not
        decided. The host waits once for all of them."""
        known = torch.where(self.decided, self.valid.sum(dim=1), -1).cpu().tolist()
        return [
            None if count < 0 else Detections(*(x[i, :count] for x in self[:4]))
            for i, count in enumerate(known)
        ]


def choose(x: Tensor, images: Sequence[int]) -> Tensor:
    """Some images of a batch (N, ...), without sending their numbers to the device."""
    return x if len(images) == len(x) else torch.stack([x[i] for i in images])


def pad_detections(detections: Sequence[Detections]) -> BatchDetections:
    """Detections of single images as a batch."""
    size = max(len(x.scores) for x in detections)
    valid = [torch.ones_like(x.labels, dtype=torch.bool) for x in detections]
    boxes, scores, labels, rows, valid = (
        torch.stack([fill(x, size) for x in field]) for field in (*zip(*detections), valid)
    )
    return BatchDetections(boxes, scores, labels, rows, valid, torch.ones_like(valid.any(dim=1)))


def fill(x: Tensor, size: int) -> Tensor:
    """(P, ...) with zeros up to (size, ...)."""
    return torch.cat([x, x.new_zeros(size - len(x), *x.shape[1:])])


def detect_batch(
    levels: Sequence[Tensor],
    anchors: Tensor,
    strides: Sequence[int],
    *,
    score_threshold: float,
    class_thresholds: Tensor | None = None,
    iou_threshold: float,
    max_detections: int,
    class_agnostic: bool,
    multi_label: bool,
    effort: Effort = EFFORTS[0],
) -> BatchDetections:
    """The detections of a batch. The host does not wait.

    Args:
        levels: L logits (N, A, H, W, 5 + K).
        anchors: (L, A, 2) in input pixels.
        strides: L strides.
        score_threshold: the least of all classes.
        class_thresholds: (K,), of each class; None takes `score_threshold` for all.
        iou_threshold, max_detections, class_agnostic, multi_label: see `nms.detect`.
        effort: how far to go; at least twice `max_detections` candidates are looked at.

    Returns:
        What `nms.detect` gives for every image. Not decided are images of which these candidates
        give too few detections though there are more of them, and those whose NMS needs
        more rounds.
    """
    limit = max(effort.candidates, 2 * max_detections)
    rows, more_rows = best_rows(levels, score_threshold, limit)
    boxes, objectness, classes = decode_rows(levels, rows, anchors, strides)
    least = class_thresholds if class_thresholds is not None else score_threshold
    scores, index, labels, more = best_pairs(
        boxes, objectness, classes, least, limit, multi_label=multi_label
    )
    boxes, valid = boxes.gather(1, index[:, :, None].expand(-1, -1, 4)), scores > 0
    keep, settled = nms_batch(
        boxes, None if class_agnostic else labels, valid, iou_threshold, effort.rounds
    )
    decided = settled & ((keep.sum(dim=1) >= max_detections) | ~(more | more_rows))
    detections = BatchDetections(boxes, scores, labels, rows.gather(1, index), valid, decided).only(
        keep
    )
    boxes, scores, labels, rows, valid = (x[:, :max_detections] for x in detections[:5])
    return BatchDetections(boxes, scores, labels, rows, valid, decided)


def best_rows(
    levels: Sequence[Tensor], score_threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    """The rows of each image with the greatest product of objectness and best class score.

    Returns:
        (N, C) int64 numbers of rows as in `decode.decode`, rising, C at most `limit`; and (N,)
        bool, whether more rows than these pass the threshold.
    """
    bounds = []
    for x in levels:
        objectness = x[..., 4].float().sigmoid()
        best = objectness * x[..., 5:].amax(dim=-1).float().sigmoid()
        # With a class that is no number the objectness is a bound too.
        bound = torch.where(best.isnan(), objectness, best)
        bounds.append(bound.masked_fill(~(objectness > score_threshold), -1.0).flatten(1))
    bound = torch.cat(bounds, dim=1)  # (N, R)
    rows = bound.topk(min(limit, bound.shape[1]), dim=1, sorted=False).indices.sort(dim=1).values
    # In the product rounding is allowed for.
    passing = (bound >= score_threshold * (1 - 1e-5)).sum(dim=1)
    return rows, passing > rows.shape[1]


def decode_rows(
    levels: Sequence[Tensor], rows: Tensor, anchors: Tensor, strides: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Some rows of `decode.decode`.

    Args:
        levels: L logits (N, A, H, W, 5 + K).
        rows: (N, C) numbers of rows.
        anchors: (L, A, 2) in input pixels.
        strides: L strides.

    Returns:
        (N, C, 4) xyxy, (N, C) objectness and (N, C, K) class scores, float32.
    """
    image = torch.arange(len(rows), device=rows.device)[:, None]
    logits = levels[0].new_zeros(*rows.shape, levels[0].shape[-1])
    grid = rows.new_zeros(*rows.shape, 2)  # column, row
    level, start = torch.zeros_like(rows), 0
    for number, x in enumerate(levels):
        _, a, h, w, _ = x.shape
        place = rows - start
        inside = ((place >= 0) & (place < a * h * w))[:, :, None]
        place = place.clamp(0, a * h * w - 1)
        column, row, anchor = place % w, place // w % h, place // (h * w)
        logits = torch.where(inside, x[image, anchor, row, column], logits)
        grid = torch.where(inside, torch.stack([column, row], dim=2), grid)
        level = torch.where(inside[:, :, 0], number * a + anchor, level)
        start += a * h * w
    logits = logits.float()
    of_anchor = constant(
        tuple(float(stride) for stride in strides for _ in range(anchors.shape[1])), logits
    )
    offsets, sizes = decode_offsets(logits[..., :4], anchors.flatten(0, 1)[level].float())
    centres = (offsets + grid) * of_anchor[level][:, :, None]
    scores = logits[..., 4:].sigmoid()
    boxes = cxcywh_to_xyxy(torch.cat([centres, sizes], dim=-1))
    return boxes, scores[..., 0], scores[..., 1:]


def best_pairs(
    boxes: Tensor,
    objectness: Tensor,
    classes: Tensor,
    least: float | Tensor,
    limit: int,
    *,
    multi_label: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best candidates, which are pairs of a row and a class.

    Args:
        boxes: (N, C, 4).
        objectness: (N, C).
        classes: (N, C, K) class scores.
        least: threshold, or (K,).
        limit: candidates of an image, at most.
        multi_label: a row may give several classes; otherwise its best class alone.

    Returns:
        (N, C') scores in falling order, 0 where there is no candidate any more; (N, C') index of
        the row; (N, C') class; (N,) bool, whether more pairs than these pass.
    """
    scores = objectness[:, :, None] * classes
    passing = torch.minimum(scores, objectness[:, :, None]) > least
    passing &= scores.isfinite() & boxes.isfinite().all(dim=2, keepdim=True)
    if not multi_label:
        best = classes.nan_to_num(nan=-1.0).argmax(dim=2, keepdim=True)
        passing &= best == torch.arange(classes.shape[2], device=classes.device)
    flat = scores.masked_fill(~passing, 0.0).flatten(1)
    # Of equal scores the first row, and its first class, comes first, as in `nms.detect`.
    best = flat.topk(min(limit, flat.shape[1]), dim=1, sorted=False).indices.sort(dim=1).values
    top, order = flat.gather(1, best).sort(dim=1, descending=True, stable=True)
    best = best.gather(1, order)
    more = passing.sum(dim=(1, 2)) > best.shape[1]
    num_classes = classes.shape[2]
    return top, best // num_classes, best % num_classes, more


def nms_batch(
    boxes: Tensor, labels: Tensor | None, valid: Tensor, iou_threshold: float, rounds: int
) -> tuple[Tensor, Tensor]:
    """Greedy non-maximum suppression within each image.

    A box survives if no better survivor overlaps it. That rule, applied to all boxes of a block at
    once again and again, comes to rest at the result of taking the boxes one by one.

    Args:
        boxes: (N, C, 4) in falling score.
        labels: (N, C), boxes of different ones do not suppress each other; None lets all do so.
        valid: (N, C) bool.
        iou_threshold: see `nms.detect`.
        rounds: see `Effort`.

    Returns:
        (N, C) bool, the survivors; and (N,) bool, whether they had come to rest.
    """
    keep, settled = valid.clone(), torch.ones_like(valid[:, 0])
    for start in range(0, boxes.shape[1], BLOCK):
        here = slice(start, start + BLOCK)
        alone = keep[:, here]
        for earlier in range(0, start, BLOCK):
            before = slice(earlier, earlier + BLOCK)
            overlap = overlapping(boxes, labels, before, here, iou_threshold)
            alone = alone & ~hits(keep[:, before], overlap)
        overlap = overlapping(boxes, labels, here, here, iou_threshold).triu(diagonal=1)
        last, now = alone, alone & ~hits(alone, overlap)
        for _ in range(rounds - 1):
            last, now = now, alone & ~hits(now, overlap)
        settled &= (now == last).all(dim=1)
        keep[:, here] = now
    return keep, settled


def hits(keep: Tensor, overlap: Tensor) -> Tensor:
    """(N, I) bool and (N, I, J) bool to (N, J): whether a kept one of I overlaps J."""
    return (keep[:, :, None] & overlap).any(dim=1)


def overlapping(
    boxes: Tensor, labels: Tensor | None, first: slice, second: slice, iou_threshold: float
) -> Tensor:
    """(N, I, J) bool, whether boxes of the first slice overlap those of the second one too much."""
    columns = boxes.movedim(2, 0).contiguous()  # (4, N, C), as pairs of neighbours are compared
    a, b = columns[:, :, first, None], columns[:, :, None, second]  # (4, N, I, 1), (4, N, 1, J)
    width = torch.minimum(a[2], b[2]).sub_(torch.maximum(a[0], b[0]))
    height = torch.minimum(a[3], b[3]).sub_(torch.maximum(a[1], b[1]))
    common = width.clamp_(min=0).mul_(height.clamp_(min=0))
    area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=2)  # (N, C)
    union = (area[:, first, None] + area[:, None, second]).sub_(common)
    result = common.div_(union) > iou_threshold
    if labels is not None:
        result &= labels[:, first, None] == labels[:, None, second]
    return result
