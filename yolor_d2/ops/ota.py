"""Optimal-transport assignment: which of its candidates a box takes depends on what is predicted.

simOTA over the candidates of `assign` (OTA, arXiv 2103.14259; YOLOX, arXiv 2107.08430; YOLOv7,
arXiv 2207.02696): every box takes as many of its image's candidates as the best predictions overlap
it, those that cost least. What costs little is a prediction that lies well and has the right class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .assign import Assignment
from .boxes import cxcywh_to_xyxy
from .decode import decode_offsets
from .device import constant
from .losses import logits_at

# Keeps the logarithm of an overlap of 0 finite.
EPS = 1e-8
# A probability that rounds to 0 or 1 has this logarithm, as `torch.nn.BCELoss` has it.
LEAST_LOG = -100.0
# Pairs of boxes and rows that are computed at a time: what fits into the cache of a CPU, and into
# the memory of a GPU several times.
PAIRS_AT_A_TIME = {"cpu": 2**16, "elsewhere": 2**26}
# Rows of a block, see `match_by_blocks`.
BLOCK = 64


class Matches(NamedTuple):
    """What rows are taken for, R rows.

    Attributes:
        box: (..., R) place of the box among those of the image.
        taken: (..., R) bool; `box` of the other rows means nothing.
        counts: (..., T) dynamic k, the rows that each box took before boxes competed for them.
    """

    box: Tensor
    taken: Tensor
    counts: Tensor


def boxes_by_image(
    image: Tensor, num_images: int, most: int | None = None, valid: Tensor | None = None
) -> Tensor:
    """The boxes of each image.

    Args:
        image: (M,) int64 index of each box's image, in rising order where `valid`.
        num_images: N images.
        most: T, at least the largest number of boxes of an image; None takes M.
        valid: (M,) bool, boxes that are none come last; None for all.

    Returns:
        (N, T) int64 numbers of boxes, M where an image has fewer.
    """
    most = len(image) if most is None else most
    ones = torch.ones_like(image) if valid is None else valid.to(image.dtype)
    counts = image.new_zeros(num_images).scatter_add(0, image, ones)
    place = torch.arange(most, device=image.device)
    numbers = (counts.cumsum(0) - counts)[:, None] + place
    return numbers.masked_fill(place >= counts[:, None], len(image))


def predicted_boxes(logits: Tensor, rows: Assignment, anchors: Tensor, stride: Tensor) -> Tensor:
    """(R, 4) xyxy in input pixels that R rows predict.

    Args:
        logits: (R, 5 + K).
        rows: where they come from.
        anchors: (L, A, 2) in input pixels.
        stride: (L,).
    """
    offsets, sizes = decode_offsets(logits[:, :4], anchors[rows.level, rows.anchor])
    cells = torch.stack([rows.column, rows.row], dim=1)
    centres = (offsets + cells) * stride[rows.level, None]
    return cxcywh_to_xyxy(torch.cat([centres, sizes], dim=1))


def class_costs(logits: Tensor) -> Tensor:
    """(R, K) cost of a row for a box of each class.

    The binary cross entropy, summed over the classes, between the square root of class score times
    objectness and the class of the box.

    Args:
        logits: (R, 5 + K).
    """
    classes, objectness = logits[:, 5:], logits[:, 4:5]
    score = classes.sigmoid()
    # 1 - score * objectness without a difference, which would be 0 for large logits.
    rest = (-classes).sigmoid().addcmul_(score, (-objectness).sigmoid())
    score = score.mul_(objectness.sigmoid()).sqrt_()
    log_rest = rest.div_(1 + score).log_().clamp_(min=LEAST_LOG)
    log_score = score.log_().clamp_(min=LEAST_LOG)
    return (log_rest - log_score).sub_(log_rest.sum(dim=1, keepdim=True))


def pairwise_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """(..., T, R) IoU of boxes (..., T, 4) with (..., R, 4), both xyxy."""
    return iou_of_sides(boxes[..., :, None, :].unbind(-1), others[..., None, :, :].unbind(-1))


def iou_of_sides(boxes: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """IoU of boxes with others of a shape to which they can be broadcast, each as x1, y1, x2, y2.

    By coordinates, as a last axis of two would make every step three times as long.
    """
    (x1, y1, x2, y2), (left, top, right, bottom) = boxes, others
    width = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp_(min=0)
    height = (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp_(min=0)
    overlap = width.mul_(height)
    union = ((x2 - x1) * (y2 - y1) + (right - left) * (bottom - top)).sub_(overlap)
    return overlap.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))


def cost_of(iou: Tensor, of_class: Tensor, iou_weight: float) -> Tensor:
    """Cost of rows for boxes that they overlap like this; uses the memory of `iou`."""
    return iou.add_(EPS).log_().mul_(-iou_weight).add_(of_class)


def cheapest(cost: Tensor, counts: Tensor, most: int) -> Tensor:
    """(..., T, R) bool: the `counts` (..., T) cheapest rows of a box, of equal ones the first."""
    limit = cost.topk(most, dim=-1, largest=False).values.gather(-1, counts[..., None] - 1)
    cheaper, equal = cost < limit, cost == limit
    left = counts[..., None] - cheaper.sum(dim=-1, keepdim=True)
    first = equal.cumsum(dim=-1, dtype=torch.int32) <= left
    return cheaper.logical_or_(equal.logical_and_(first))


def match_boxes(
    predicted: Tensor,
    costs: Tensor,
    is_row: Tensor,
    boxes: Tensor,
    labels: Tensor,
    is_box: Tensor,
    *,
    top_ious: int,
    iou_weight: float,
) -> Matches:
    """Let the boxes of several images take rows, every box compared with every row of its image.

    Args:
        predicted: (..., R, 4) xyxy of R > 0 rows.
        costs: (..., R, K) cost of the classes, see `class_costs`.
        is_row: (..., R) bool, which rows are candidates.
        boxes: (..., T, 4) xyxy.
        labels: (..., T) classes.
        is_box: (..., T) bool.
        top_ious, iou_weight: see `assign_ota`.
    """
    num_rows, num_boxes = costs.shape[-2], labels.shape[-1]
    most = min(top_ious, num_rows)
    costs = costs.transpose(-1, -2)  # (..., K, R)
    times = torch.zeros_like(is_row, dtype=torch.int64)
    taker, winner = torch.zeros_like(times), torch.zeros_like(times)
    least = torch.full_like(costs[..., 0, :], torch.inf)
    found = []
    if torch.compiler.is_compiling():
        step, starts = num_boxes, [0]  # one graph for all numbers of boxes
    else:
        pairs = PAIRS_AT_A_TIME["cpu" if costs.device.type == "cpu" else "elsewhere"]
        step = max(pairs // is_row.numel(), 1)
        starts = range(0, num_boxes, step)
    for start in starts:
        part = slice(start, start + step)
        label = labels[..., part]
        wanted = is_box[..., part, None] & is_row[..., None, :]
        iou = pairwise_iou(boxes[..., part, :], predicted).masked_fill_(~wanted, 0)
        counts = iou.topk(most, dim=-1).values.sum(dim=-1).long().clamp(1, most)
        of_class = costs.gather(-2, label[..., None].expand(*label.shape, num_rows))
        cost = cost_of(iou, of_class, iou_weight).masked_fill_(~wanted, torch.inf)
        taken = cheapest(cost, counts, most).logical_and_(wanted)
        found.append(counts)

        number = torch.arange(start, start + label.shape[-1], device=label.device)
        times += taken.sum(dim=-2)
        taker = torch.maximum(taker, (taken * number[:, None]).amax(dim=-2))
        lowest, place = cost.min(dim=-2)
        winner = torch.where(lowest < least, place + start, winner)
        least = torch.minimum(lowest, least)
    box = torch.where(times > 1, winner, taker)
    return Matches(box, times > 0, torch.cat(found, dim=-1))


def match_by_blocks(
    rows: Tensor,
    predicted: Tensor,
    costs: Tensor,
    boxes: Tensor,
    labels: Tensor,
    *,
    top_ious: int,
    iou_weight: float,
) -> Matches:
    """Let the boxes of one image take rows, comparing them only where it may matter.

    Takes what `match_boxes` takes. Blocks of rows that are near each other stand for their rows: of
    a block that a box does not touch the cheapest row is that of the class. A box looks closer only
    at blocks whose best rows may be among its own best.

    Args:
        rows: (R,) numbers, which decide between equal costs.
        predicted: (R, 4) xyxy, best in the order of `sort_by_place`.
        costs: (R, K), see `class_costs`.
        boxes: (T, 4) xyxy, T > 0.
        labels: (T,) classes.
        top_ious, iou_weight: see `assign_ota`.
    """
    # Naming convention: (G = blocks, B = rows of a block, P = pairs of box and block)
    num_rows, num_boxes = len(rows), len(boxes)
    num_blocks = -(-num_rows // BLOCK)
    padding = num_blocks * BLOCK - num_rows
    sides = F.pad(predicted, (0, 0, 0, padding)).view(num_blocks, BLOCK, 4).transpose(1, 2)
    sides = sides.flatten(1)
    by_class = F.pad(costs.T, (0, padding), value=torch.inf).reshape(-1, BLOCK)

    def of_class(box: Tensor, block: Tensor) -> Tensor:
        return by_class.index_select(0, labels[box] * num_blocks + block)

    bounds = torch.cat([predicted, predicted[-1:].expand(padding, 4)]).view(num_blocks, BLOCK, 4)
    first, last = bounds[..., :2].amin(dim=1), bounds[..., 2:].amax(dim=1)
    touches = ((boxes[:, None, :2] < last) & (boxes[:, None, 2:] > first)).all(dim=2)  # (T, G)

    # The last pair stands for all that do not touch.
    box, block = touches.nonzero(as_tuple=True)
    pair = torch.full_like(touches, len(box), dtype=torch.int64)
    pair[box, block] = torch.arange(len(box), device=box.device)
    iou = predicted.new_zeros(len(box) + 1, BLOCK)
    best = predicted.new_zeros(num_boxes, num_blocks)  # largest overlap
    untouched = cost_of(iou[-1].clone(), iou[-1], iou_weight)[0]
    least = by_class.amin(dim=1).view(-1, num_blocks)[labels] + untouched  # cost
    step = max(PAIRS_AT_A_TIME["cpu"] // BLOCK, 1)
    for start in range(0, len(box), step):
        part = slice(start, start + step)
        t, g = box[part], block[part]
        others = sides.index_select(0, g).view(-1, 4, BLOCK)
        found = iou_of_sides(boxes[t, :, None].unbind(1), others.unbind(1))
        iou[start : start + len(t)] = found
        best[t, g] = found.amax(dim=1)
        least[t, g] = cost_of(found, of_class(t, g), iou_weight).amin(dim=1)

    # The largest overlaps are in the blocks with the largest ones.
    most, most_blocks = min(top_ious, num_rows), min(top_ious, num_blocks)
    near = pair.gather(1, best.topk(most_blocks, dim=1).indices)
    largest = iou.index_select(0, near.flatten()).view(num_boxes, -1).topk(most, dim=1).values
    counts = largest.sum(dim=1).long().clamp(1, most)
    # As many blocks as a box takes rows have one that costs no more than this.
    limits = least.topk(most_blocks, dim=1, largest=False).values
    limit = limits.gather(1, counts[:, None].clamp(max=most_blocks) - 1)
    limit = limit.masked_fill_(counts[:, None] > most_blocks, torch.inf)
    box, block = (least <= limit).nonzero(as_tuple=True)
    cost = cost_of(iou.index_select(0, pair[box, block]), of_class(box, block), iou_weight)
    place, within = ((cost <= limit[box]) & cost.isfinite()).nonzero(as_tuple=True)
    box, cost = box[place], cost[place, within]
    row = block[place] * BLOCK + within
    box, row = take_cheapest(box, row, cost, rows, counts)
    times = torch.bincount(row, minlength=num_rows)
    taker = torch.zeros_like(rows).scatter_(0, row, box)
    shared = (times > 1).nonzero(as_tuple=True)[0]
    if len(shared):
        truth = boxes, labels, iou_weight
        taker[shared] = least_costly_box(predicted[shared], costs[shared], *truth)
    return Matches(taker, times > 0, counts)


def take_cheapest(
    box: Tensor, row: Tensor, cost: Tensor, rows: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Boxes and rows of the `counts` (T,) cheapest of pairs with these (P,) boxes, rows and costs;
    of equal ones those of the least number in `rows`."""
    order = rows[row].argsort()
    for key in (cost, box):
        order = order[key[order].argsort(stable=True)]
    box, row = box[order], row[order]
    pairs = torch.bincount(box, minlength=len(counts))
    rank = torch.arange(len(box), device=box.device) - (pairs.cumsum(0) - pairs)[box]
    taken = rank < counts[box]
    return box[taken], row[taken]


def least_costly_box(
    predicted: Tensor, costs: Tensor, boxes: Tensor, labels: Tensor, iou_weight: float
) -> Tensor:
    """(R,) of all boxes that which costs each row least; arguments as in `match_by_blocks`."""
    box = torch.zeros(len(costs), dtype=torch.int64, device=costs.device)
    least = torch.full_like(costs[:, 0], torch.inf)
    step = max(PAIRS_AT_A_TIME["cpu"] // len(costs), 1)
    sides, costs = predicted.T.contiguous(), costs.T.contiguous()
    for start in range(0, len(boxes), step):
        part = slice(start, start + step)
        iou = iou_of_sides(boxes[part, :, None].unbind(1), sides)
        lowest, place = cost_of(iou, costs[labels[part]], iou_weight).min(dim=0)
        box = torch.where(lowest < least, place + start, box)
        least = torch.minimum(lowest, least)
    return box


def assign_ota(
    candidates: Assignment,
    levels: Sequence[Tensor],
    boxes: Tensor,
    labels: Tensor,
    anchors: Tensor,
    strides: Sequence[int],
    *,
    by_image: Tensor,
    top_ious: int = 10,
    iou_weight: float = 3.0,
) -> Assignment:
    """Choose among the candidates of M boxes by what is predicted there.

    In every image each box takes its k cheapest candidates, also of those that are candidates of
    other boxes alone; k is the sum of its largest overlaps with predictions, rounded down, at least
    1. The cost is that of `class_costs` plus the weighted -ln(IoU). Where several boxes take one
    row, it goes to the box of the image with the least cost there. Of rows with equal costs the
    first one is taken. An image without candidates has no positives.

    Args:
        candidates: R rows, see `assign.assign`.
        levels: L logits (N, A, H, W, 5 + K); they get no gradient.
        boxes: (M, 4) cxcywh in input pixels.
        labels: (M,) int64 classes.
        anchors: (L, A, 2) in input pixels.
        strides: L strides.
        by_image: (N, T) numbers of the boxes of each image, see `boxes_by_image`.
        top_ious: the largest overlaps of which k is the sum.
        iou_weight: weight of -ln(IoU) beside the cost of the classes.

    Returns:
        The rows that are taken, in the order of the candidates, or all of them with new `valid`
        where the candidates have one.
    """
    if len(candidates.image) == 0:
        return candidates
    choose = choose_by_image if candidates.valid is None else choose_together
    with torch.no_grad():
        logits = logits_at(levels, candidates)
        stride = constant(tuple(map(float, strides)), logits)
        predicted = predicted_boxes(logits, candidates, anchors.to(logits.dtype), stride)
        number, taken = choose(
            candidates,
            (predicted, class_costs(logits)),
            (cxcywh_to_xyxy(boxes.to(logits.dtype)), labels),
            by_image,
            {"top_ious": top_ious, "iou_weight": iou_weight},
        )
        return take_rows(candidates, number, taken, boxes, labels, strides)


def choose_by_image(
    candidates: Assignment,
    rows: tuple[Tensor, Tensor],
    truth: tuple[Tensor, Tensor],
    by_image: Tensor,
    settings: dict,
) -> tuple[Tensor, Tensor]:
    """(R,) number of the box of each row and (R,) bool, image by image, without rows and boxes that
    are none; arguments as `choose_together`."""
    number, taken = candidates.number.clone(), torch.zeros_like(candidates.image, dtype=torch.bool)
    order = sort_by_place(candidates.image, rows[0])
    counts = torch.bincount(candidates.image, minlength=len(by_image)).tolist()
    for mine, numbers in zip(order.split(counts), by_image):
        numbers = numbers[numbers < len(truth[1])]
        if len(mine):
            found = match_by_blocks(
                mine, *(x[mine] for x in rows), *(x[numbers] for x in truth), **settings
            )
            number[mine], taken[mine] = numbers[found.box], found.taken
    return number, taken


def sort_by_place(image: Tensor, boxes: Tensor) -> Tensor:
    """(R,) order of boxes (R, 4), xyxy in pixels, by image, size in powers of two, and place: along
    a Z-order curve, so that each piece of it is a compact part of the image."""
    size = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).clamp(min=1).log2().div_(2).long() & 31
    x, y = (
        ((boxes[:, :2] + boxes[:, 2:]) / 8).clamp_(min=0).long().bitwise_and_(2**16 - 1).unbind(1)
    )
    return (((image << 5) + size << 32) + spread_bits(x) + 2 * spread_bits(y)).argsort(stable=True)


def spread_bits(x: Tensor) -> Tensor:
    """The 16 bits of a number to every second bit."""
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        x = (x | (x << shift)) & mask
    return x


def choose_together(
    candidates: Assignment,
    rows: tuple[Tensor, Tensor],
    truth: tuple[Tensor, Tensor],
    by_image: Tensor,
    settings: dict,
) -> tuple[Tensor, Tensor]:
    """(R,) number of the box of each row and (R,) bool, whether it is taken; no shape depends on a
    value.

    Args:
        candidates: the rows, of which a fixed number belongs to each box.
        rows: boxes (R, 4) and costs (R, K) that they predict.
        truth: boxes (M, 4) xyxy and labels (M,).
        by_image: see `assign_ota`.
        settings: of `match_boxes`.
    """
    assert candidates.valid is not None
    num_boxes, num_rows = len(truth[1]), len(candidates.image)
    is_box = by_image < num_boxes
    numbers = by_image.clamp(max=num_boxes - 1)  # (N, T)
    # A row of every level, neighbour and anchor for each box, in this order.
    per_box = num_rows // num_boxes
    first = torch.arange(per_box, device=numbers.device) * num_boxes
    mine = (first[:, None] + numbers[:, None]).flatten(1)  # (N, R')
    is_row = candidates.valid[mine] & is_box.repeat(1, per_box)
    found = match_boxes(
        *(x[mine] for x in rows), is_row, *(x[numbers] for x in truth), is_box, **settings
    )
    # One place more takes what belongs to no box.
    place = mine.masked_fill(~is_box.repeat(1, per_box), num_rows).flatten()
    box = numbers.gather(1, found.box).flatten()
    number = candidates.number.new_zeros(num_rows + 1).scatter(0, place, box)
    taken = candidates.valid.new_zeros(num_rows + 1).scatter(0, place, found.taken.flatten())
    return number[:-1], taken[:-1]


def take_rows(
    candidates: Assignment,
    number: Tensor,
    taken: Tensor,
    boxes: Tensor,
    labels: Tensor,
    strides: Sequence[int],
) -> Assignment:
    """The candidates that are taken, for the boxes that take them; see `assign_ota`."""
    if candidates.valid is None:
        sizes = [int(part.sum()) for part in taken.split(candidates.sizes)]
        kept, valid = taken.nonzero(as_tuple=True)[0], None
        rows = (x[kept] for x in candidates[:-3])
        number = number[kept]
    else:
        sizes, rows, valid = candidates.sizes, candidates[:-3], taken
    level, _, image, anchor, row, column, _, _ = rows
    positives = torch.stack([part.sum() for part in taken.split(candidates.sizes)])
    scaled = boxes[number] / constant(tuple(map(float, strides)), boxes)[level, None]
    centre = scaled[:, :2] - torch.stack([column, row], dim=1)
    box = torch.cat([centre, scaled[:, 2:]], dim=1)
    found = level, number, image, anchor, row, column, box, labels[number]
    return Assignment(*found, positives, sizes, valid)
