"""Optimal-transport assignment: which of its candidates a box takes depends on what is predicted.

simOTA (OTA, arXiv 2103.14259; YOLOX, arXiv 2107.08430) over the candidates of `assign`, as YOLOv7
(arXiv 2207.02696) has it: every box takes as many of its image's candidates as the best predictions
overlap it, those that cost least. What costs little is a prediction that lies well and has the
right class.
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
# Rows of a block, see `match_near`.
BLOCK = 64
# Pairs of boxes and rows that are computed at a time: what fits into the cache of a CPU ...
PAIRS_IN_CACHE = 2**16
# ... and several times into the memory of a GPU.
PAIRS_IN_MEMORY = 2**26


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
        predictions = predict(levels, candidates, anchors, strides)
        number, taken = choose(
            candidates,
            predictions,
            Objects(cxcywh_to_xyxy(boxes.to(predictions.boxes.dtype)), labels),
            by_image,
            top_ious,
            iou_weight,
        )
        return take_rows(candidates, number, taken, boxes, labels, strides)


def predict(
    levels: Sequence[Tensor], rows: Assignment, anchors: Tensor, strides: Sequence[int]
) -> Predictions:
    """What rows predict; arguments as in `assign_ota`."""
    places = torch.arange(len(rows.image), device=rows.image.device)
    if rows.valid is None:
        # Each cell once: rows of one cell are to have equal costs to the last bit.
        rows, places = unique_cells(levels, rows)
    logits = logits_at(levels, rows)
    stride = constant(tuple(map(float, strides)), logits)
    boxes = predicted_boxes(logits, rows, anchors.to(logits.dtype), stride)
    costs = class_costs(logits)
    if rows.valid is None:
        boxes, costs = boxes[places], costs.index_select(1, places)
    return Predictions(boxes, costs)


def unique_cells(levels: Sequence[Tensor], rows: Assignment) -> tuple[Assignment, Tensor]:
    """One row of each cell and anchor that R rows name, and (R,) its place among them."""
    # The level comes first, so that the levels stay in order.
    limits = [max(x.shape[axis] for x in levels) for axis in range(4)]
    key = rows.level
    for limit, part in zip(limits, (rows.image, rows.anchor, rows.row, rows.column)):
        key = key * limit + part
    _, place = key.unique(return_inverse=True)
    first = place.new_zeros(int(place.max()) + 1).scatter_(0, place, torch.arange(len(place)))
    sizes = torch.bincount(rows.level[first], minlength=len(levels)).tolist()
    names = ("level", "image", "anchor", "row", "column")
    fields = {name: getattr(rows, name)[first] for name in names}
    return rows._replace(**fields, sizes=sizes), place


def choose_by_image(
    candidates: Assignment,
    predictions: Predictions,
    objects: Objects,
    by_image: Tensor,
    top_ious: int,
    iou_weight: float,
) -> tuple[Tensor, Tensor]:
    """(R,) number of the box of each row and (R,) bool, whether it is taken, image by image without
    rows and boxes that are none. Arguments as in `assign_ota`."""
    number, taken = candidates.number.clone(), torch.zeros_like(candidates.image, dtype=torch.bool)
    order = sort_by_place(candidates.image, predictions.boxes)
    counts = torch.bincount(candidates.image, minlength=len(by_image)).tolist()
    for rows, numbers in zip(order.split(counts), by_image):
        if len(rows) == 0:
            continue
        numbers = numbers[numbers < len(objects.labels)]
        matches = match_near(
            rows,
            Predictions(predictions.boxes[rows], predictions.costs[:, rows]),
            Objects(*(x[numbers] for x in objects)),
            top_ious=top_ious,
            iou_weight=iou_weight,
        )
        number[rows], taken[rows] = numbers[matches.box], matches.taken
    return number, taken


def choose_together(
    candidates: Assignment,
    predictions: Predictions,
    objects: Objects,
    by_image: Tensor,
    top_ious: int,
    iou_weight: float,
) -> tuple[Tensor, Tensor]:
    """The same for many images at once; no shape depends on a value. The same number of candidates
    belongs to each box."""
    assert candidates.valid is not None
    num_boxes, num_rows = len(objects.labels), len(candidates.image)
    # A row of every level, neighbour and anchor for each box, in this order.
    per_box = num_rows // num_boxes
    first = torch.arange(per_box, device=by_image.device) * num_boxes
    # One place more takes what belongs to no box.
    number = candidates.number.new_zeros(num_rows + 1)
    taken = candidates.valid.new_zeros(num_rows + 1)
    images = [by_image]
    # What is compiled is one graph for all numbers of boxes, and takes all pairs at once.
    if not torch.compiler.is_compiling():
        pairs = max(per_box * by_image.shape[1] ** 2, 1)
        images = by_image.split(max(PAIRS_IN_MEMORY // pairs, 1))
    for numbers in images:
        is_box = numbers < num_boxes
        numbers = numbers.clamp(max=num_boxes - 1)  # (N', T)
        rows = (first[:, None] + numbers[:, None]).flatten(1)  # (N', R')
        is_own = is_box.repeat(1, per_box)
        matches = match_all(
            Predictions(predictions.boxes[rows], predictions.costs[:, rows].transpose(0, 1)),
            candidates.valid[rows] & is_own,
            Objects(*(x[numbers] for x in objects)),
            is_box,
            top_ious=top_ious,
            iou_weight=iou_weight,
        )
        place = rows.masked_fill(~is_own, num_rows)
        number = number.scatter(0, place.flatten(), numbers.gather(1, matches.box).flatten())
        taken = taken.scatter(0, place.flatten(), matches.taken.flatten())
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
    positives = torch.stack([part.sum() for part in taken.split(candidates.sizes)])
    rows = candidates.level, candidates.image, candidates.anchor, candidates.row, candidates.column
    sizes, valid = candidates.sizes, taken
    if candidates.valid is None:
        sizes, valid = positives.tolist(), None
        rows, number = (x[taken] for x in rows), number[taken]
    level, image, anchor, row, column = rows
    scaled = boxes[number] / constant(tuple(map(float, strides)), boxes)[level, None]
    centre = scaled[:, :2] - torch.stack([column, row], dim=1)
    box = torch.cat([centre, scaled[:, 2:]], dim=1)
    indices = level, number, image, anchor, row, column, box, labels[number]
    return Assignment(*indices, positives, sizes, valid)
