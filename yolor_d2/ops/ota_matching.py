"""Costs of pairs of boxes and predictions, and the pairs of an image that cost least.

The choice of `ops.ota` within one image, or within several at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Keeps the logarithm of an overlap of 0 finite.
EPS = 1e-8
# A probability that rounds to 0 or 1 has this logarithm, as `torch.nn.BCELoss` has it.
LEAST_LOG = -100.0
# Rows of a block, see `match_near`.
BLOCK = 64
# Pairs of boxes and rows that are computed at a time: what fits into the cache of a CPU.
PAIRS_IN_CACHE = 2**16


class Predictions(NamedTuple):
    """What R rows predict.

    Attributes:
        boxes: (..., R, 4) xyxy in input pixels.
        costs: (..., K, R) cost for a box of each class, see `class_costs`.
    """

    boxes: Tensor
    costs: Tensor


class Objects(NamedTuple):
    """T boxes of the ground truth.

    Attributes:
        boxes: (..., T, 4) xyxy in input pixels.
        labels: (..., T) classes.
    """

    boxes: Tensor
    labels: Tensor


class Matches(NamedTuple):
    """What rows are taken for, R rows.

    Attributes:
        box: (..., R) place of the box among those of the image.
        taken: (..., R) bool; `box` of the other rows means nothing.
    """

    box: Tensor
    taken: Tensor


def class_costs(logits: Tensor) -> Tensor:
    """(K, R) cost of a row for a box of each class.

    The binary cross entropy, summed over the classes, between the square root of class score times
    objectness and the class of the box.

    Args:
        logits: (R, 5 + K).
    """
    classes, objectness = logits[:, 5:].T.contiguous(), logits[:, 4]
    score = classes.sigmoid()
    # 1 - score * objectness without a difference, which would be 0 for large logits.
    rest = (-classes).sigmoid().addcmul_(score, (-objectness).sigmoid())
    score = score.mul_(objectness.sigmoid()).sqrt_()
    # (1 - p) / (1 + sqrt(p)) is 1 - sqrt(p).
    log_rest = rest.div_(1 + score).log_().clamp_(min=LEAST_LOG)
    log_score = score.log_().clamp_(min=LEAST_LOG)
    return (log_rest - log_score).sub_(log_rest.sum(dim=0))


def pairwise_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """(..., T, R) IoU of boxes (..., T, 4) with (..., R, 4), both xyxy."""
    # Side by side in memory, as a last axis of four would make every step several times as long.
    sides = [x[..., None, :].contiguous() for x in others.unbind(-1)]
    return iou_of_sides(boxes[..., :, None, :].unbind(-1), sides)


def iou_of_sides(boxes: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """IoU of boxes with others, each as x1, y1, x2, y2 that can be broadcast to one shape."""
    (x1, y1, x2, y2), (left, top, right, bottom) = boxes, others
    width = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp_(min=0)
    height = (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp_(min=0)
    overlap = width.mul_(height)
    union = ((x2 - x1) * (y2 - y1) + (right - left) * (bottom - top)).sub_(overlap)
    return overlap.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))


def pair_costs(iou: Tensor, of_class: Tensor, weight: float) -> Tensor:
    """Costs of rows for boxes.

    Args:
        iou: any shape; its memory becomes the result's.
        of_class: the same shape, cost of each row for the class of the box, see `class_costs`.
        weight: of -ln(IoU).
    """
    return iou.add_(EPS).log_().mul_(-weight).add_(of_class)


def dynamic_k(iou: Tensor, top_ious: int) -> Tensor:
    """(..., T) rows that each box takes: the sum of its largest overlaps, rounded down, at least 1.

    Args:
        iou: (..., T, R > 0).
        top_ious: how many of them.
    """
    most = min(top_ious, iou.shape[-1])
    return iou.topk(most, dim=-1).values.sum(dim=-1).long().clamp(1, most)


def cheapest(cost: Tensor, counts: Tensor, most: int) -> Tensor:
    """(..., T, R) bool: the `counts` (..., T) cheapest rows of each box; the first of equal ones.

    Args:
        cost: (..., T, R).
        counts: from 1 to `most`.
        most: at most R.
    """
    limit = cost.topk(most, dim=-1, largest=False).values.gather(-1, counts[..., None] - 1)
    cheaper, equal = cost < limit, cost == limit
    left = counts[..., None] - cheaper.sum(dim=-1, keepdim=True)
    first = equal.cumsum(dim=-1, dtype=torch.int32) <= left
    return cheaper.logical_or_(equal.logical_and_(first))


def match_all(
    predictions: Predictions,
    is_row: Tensor,
    objects: Objects,
    is_box: Tensor,
    *,
    top_ious: int,
    iou_weight: float,
) -> Matches:
    """Let the boxes of an image, or of several, take rows; looks at all pairs.

    Args:
        predictions: of R > 0 rows.
        is_row: (..., R) bool, which rows are candidates.
        objects: T boxes.
        is_box: (..., T) bool.
        top_ious, iou_weight: see `assign_ota`.
    """
    wanted = is_box[..., None] & is_row[..., None, :]
    iou = pairwise_iou(objects.boxes, predictions.boxes).masked_fill_(~wanted, 0)
    counts = dynamic_k(iou, top_ious)
    of_class = predictions.costs.gather(-2, objects.labels[..., None].expand(iou.shape))
    cost = pair_costs(iou, of_class, iou_weight).masked_fill_(~wanted, torch.inf)
    taken = cheapest(cost, counts, min(top_ious, is_row.shape[-1])).logical_and_(wanted)
    number = torch.arange(is_box.shape[-1], device=is_box.device)[:, None]
    times = taken.sum(dim=-2)
    taker = (taken * number).amax(dim=-2)
    return Matches(torch.where(times > 1, cost.argmin(dim=-2), taker), times > 0)


def match_near(
    order: Tensor, predictions: Predictions, objects: Objects, *, top_ious: int, iou_weight: float
) -> Matches:
    """`match_all` for one image on a CPU, without most pairs of a crowd.

    Equal pairs must have equal costs. Functions such as the logarithm round in another way at the
    end of what a thread computes, so everything is computed in whole blocks.

    Blocks of rows that are near each other stand for their rows: of a block that a box does not
    touch the cheapest row is that of its class. A box looks closer only at blocks whose best rows
    may be among its own best ones.

    Args:
        order: (R,) numbers of the rows, the first of which is taken of equal ones.
        predictions: of R > 0 rows, best sorted by `sort_by_place`.
        objects: T > 0 boxes.
        top_ious, iou_weight: see `assign_ota`.
    """
    # Naming convention: (G = blocks, B = rows of a block, P = pairs of a box and a block)
    boxes, labels = objects
    num_rows, num_boxes = len(order), len(boxes)
    num_blocks = -(-num_rows // BLOCK)
    padding = num_blocks * BLOCK - num_rows
    sides = F.pad(predictions.boxes, (0, 0, 0, padding)).view(num_blocks, BLOCK, 4)
    sides = sides.transpose(1, 2).flatten(1)  # (G, 4 B)
    by_class = F.pad(predictions.costs, (0, padding), value=torch.inf).view(-1, BLOCK)

    def costs_of(box: Tensor, block: Tensor, iou: Tensor) -> Tensor:  # (P, B)
        of_class = by_class.index_select(0, labels[box] * num_blocks + block)
        return pair_costs(iou, of_class, iou_weight)

    box, block = touching_blocks(boxes, predictions.boxes, num_blocks, padding).nonzero().unbind(1)
    # Number of each pair; the last one stands for all that do not touch.
    pair = box.new_full((num_boxes, num_blocks), len(box))
    pair[box, block] = torch.arange(len(box))
    iou = boxes.new_zeros(len(box) + 1, BLOCK)
    largest = boxes.new_zeros(num_boxes, num_blocks)  # IoU
    untouched = pair_costs(iou[-1].clone(), iou[-1], iou_weight)[0]
    least = by_class.amin(dim=1).view(-1, num_blocks)[labels] + untouched  # cost
    for part in torch.arange(len(box)).split(PAIRS_IN_CACHE // BLOCK):
        t, g = box[part], block[part]
        others = sides.index_select(0, g).view(-1, 4, BLOCK).unbind(1)
        overlaps = iou_of_sides(boxes[t, :, None].unbind(1), others)
        iou[part] = overlaps
        largest[t, g] = overlaps.amax(dim=1)
        least[t, g] = costs_of(t, g, overlaps).amin(dim=1)

    # The largest overlaps are in the blocks with the largest ones.
    most_blocks = min(top_ious, num_blocks)
    near = pair.gather(1, largest.topk(most_blocks, dim=1).indices).flatten()
    near_iou = iou.index_select(0, near).view(num_boxes, -1)
    counts = dynamic_k(near_iou, min(top_ious, num_rows))
    # As many blocks as a box takes rows have a row that costs no more than this.
    limits = least.topk(most_blocks, dim=1, largest=False).values
    limit = limits.gather(1, counts[:, None].clamp(max=most_blocks) - 1)
    limit = limit.masked_fill_(counts[:, None] > most_blocks, torch.inf)
    box, block = (least <= limit).nonzero(as_tuple=True)
    parts = [x.split(PAIRS_IN_CACHE // BLOCK) for x in (box, block, pair[box, block])]
    cost = torch.cat([costs_of(t, g, iou.index_select(0, p)) for t, g, p in zip(*parts)])
    place, within = ((cost <= limit[box]) & cost.isfinite()).nonzero(as_tuple=True)
    row = block[place] * BLOCK + within
    taker, row = take_cheapest(box[place], row, cost[place, within], order, counts)
    times = torch.bincount(row, minlength=num_rows)
    takers = torch.zeros_like(order).scatter_(0, row, taker)
    shared = (times > 1).nonzero()[:, 0]
    shared = torch.cat([shared, shared[:1].expand(-len(shared) % BLOCK)])  # several times is right
    for part in shared.split(max(PAIRS_IN_CACHE // num_boxes // BLOCK, 1) * BLOCK):
        cost = pairwise_iou(boxes, predictions.boxes[part])
        cost = pair_costs(cost, predictions.costs[:, part][labels], iou_weight)
        takers[part] = cost.argmin(dim=0)
    return Matches(takers, times > 0)


def touching_blocks(boxes: Tensor, rows: Tensor, num_blocks: int, padding: int) -> Tensor:
    """(T, G) bool: which blocks of rows (R, 4) may overlap boxes (T, 4), both xyxy."""
    rows = torch.cat([rows, rows[-1:].expand(padding, 4)]).view(num_blocks, -1, 4)
    first, last = rows[..., :2].amin(dim=1), rows[..., 2:].amax(dim=1)
    return ((boxes[:, None, :2] < last) & (boxes[:, None, 2:] > first)).all(dim=2)


def take_cheapest(
    box: Tensor, row: Tensor, cost: Tensor, order: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Boxes and rows of the `counts` (T,) cheapest pairs of each box, of pairs with these boxes,
    rows and costs, (P,) each; of equal ones those with the least number in `order`."""
    places = order[row].argsort()
    for key in (cost, box):
        places = places[key[places].argsort(stable=True)]
    box, row = box[places], row[places]
    pairs = torch.bincount(box, minlength=len(counts))
    rank = torch.arange(len(box)) - (pairs.cumsum(0) - pairs)[box]
    taken = rank < counts[box]
    return box[taken], row[taken]


def sort_by_place(image: Tensor, boxes: Tensor) -> Tensor:
    """(R,) order of boxes (R, 4), xyxy in pixels, by image, size in powers of two, and place: along
    a Z-order curve, so that every piece of it is a compact part of the image."""
    size = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).clamp(min=1).log2().div_(2).long() & 31
    centre = ((boxes[:, :2] + boxes[:, 2:]) / 8).clamp_(min=0).long() & (2**16 - 1)
    x, y = spread_bits(centre).unbind(1)
    return ((((image << 5) + size) << 32) + x + 2 * y).argsort(stable=True)


def spread_bits(x: Tensor) -> Tensor:
    """The 16 bits of a number to every second bit."""
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        x = (x | (x << shift)) & mask
    return x
