"""Optimal-transport assignment: which of its candidates a box takes depends on what is predicted.

simOTA (OTA, arXiv 2103.14259; YOLOX, arXiv 2107.08430) over the candidates of `assign`, as YOLOv7
(arXiv 2207.02696) has it: every box takes as many of its image's candidates as the best predictions
overlap it, those that cost least. What costs little is a prediction that lies well and has the
right class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
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
# Pairs of boxes and rows that are computed at a time: what fits into the cache of a CPU ...
PAIRS_IN_CACHE = 2**18
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
    x1, y1, x2, y2 = boxes[..., :, None, :].unbind(-1)
    # Side by side in memory, as a last axis of four would make every step several times as long.
    left, top, right, bottom = (x[..., None, :].contiguous() for x in others.unbind(-1))
    width = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp_(min=0)
    height = (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp_(min=0)
    overlap = width.mul_(height)
    union = ((x2 - x1) * (y2 - y1) + (right - left) * (bottom - top)).sub_(overlap)
    return overlap.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))


def pair_costs(iou: Tensor, of_class: Tensor, weight: float) -> Tensor:
    """(..., T, R) cost of R rows for T boxes.

    Args:
        iou: (..., T, R).
        of_class: (..., T, R) cost of each row for the class of each box, see `class_costs`.
        weight: of -ln(IoU).
    """
    return of_class.add((iou + EPS).log_(), alpha=-weight)


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
    predictions: Predictions, objects: Objects, *, top_ious: int, iou_weight: float
) -> Matches:
    """`match_all` for one image on a CPU, without most pairs of a crowd.

    A box takes at most `top_ious` rows. So of the rows that it does not overlap, whose costs differ
    by their class costs alone, the cheapest of its class are enough.

    Args:
        predictions: of R > 0 rows.
        objects: T > 0 boxes.
        top_ious, iou_weight: see `assign_ota`.
    """
    rows, boxes, labels = predictions.boxes, objects.boxes, objects.labels
    most = min(top_ious, len(rows))
    left, top, right, bottom = (x.contiguous() for x in rows.unbind(dim=1))
    present, of_box = labels.unique(return_inverse=True)
    # Equal ones to the last of them too, as `cheapest` takes the first.
    limits = predictions.costs[present].topk(most, dim=1, largest=False).values[:, -1:]
    far = predictions.costs[present] <= limits
    boxes_taken, rows_taken = [], []
    for part in near_each_other(boxes, max(PAIRS_IN_CACHE // len(rows), 1)):
        here = torch.arange(len(rows))
        if len(part) < len(boxes):
            (x1, y1), (x2, y2) = boxes[part, :2].amin(dim=0), boxes[part, 2:].amax(dim=0)
            seen = (left < x2) & (right > x1) & (top < y2) & (bottom > y1)
            here = seen.logical_or_(far[of_box[part].unique()].any(dim=0)).nonzero()[:, 0]
        iou = pairwise_iou(boxes[part], rows[here])
        cost = pair_costs(iou, predictions.costs[labels[part, None], here], iou_weight)
        taken = cheapest(cost, dynamic_k(iou, most), most).nonzero(as_tuple=True)
        boxes_taken.append(part[taken[0]])
        rows_taken.append(here[taken[1]])
    taker, row = torch.cat(boxes_taken), torch.cat(rows_taken)
    times = torch.bincount(row, minlength=len(rows))
    box = torch.zeros_like(times)
    box[row] = taker
    for part in (times > 1).nonzero()[:, 0].split(max(PAIRS_IN_CACHE // len(boxes), 1)):
        iou = pairwise_iou(boxes, rows[part])
        cost = pair_costs(iou, predictions.costs[labels[:, None], part], iou_weight)
        box[part] = cost.argmin(dim=0)
    return Matches(box, times > 0)


def near_each_other(boxes: Tensor, count: int) -> Sequence[Tensor]:
    """Numbers of T boxes (T, 4) in parts of `count` at most whose boxes lie near each other."""
    if len(boxes) <= count:
        return [torch.arange(len(boxes))]
    # Stripes of about as many boxes as parts in each of them.
    num_stripes = math.ceil(math.sqrt(len(boxes) / count))
    by_height = boxes[:, 1].argsort()
    stripes = by_height.tensor_split(num_stripes)
    return [x for stripe in stripes for x in stripe[boxes[stripe, 0].argsort()].split(count)]


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
        number, taken = choose(
            candidates,
            Predictions(
                predicted_boxes(logits, candidates, anchors.to(logits.dtype), stride),
                class_costs(logits),
            ),
            Objects(cxcywh_to_xyxy(boxes.to(logits.dtype)), labels),
            by_image,
            top_ious,
            iou_weight,
        )
        return take_rows(candidates, number, taken, boxes, labels, strides)


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
    order = candidates.image.argsort(stable=True)
    counts = torch.bincount(candidates.image, minlength=len(by_image)).tolist()
    for rows, numbers in zip(order.split(counts), by_image):
        if len(rows) == 0:
            continue
        numbers = numbers[numbers < len(objects.labels)]
        found = match_near(
            Predictions(predictions.boxes[rows], predictions.costs[:, rows]),
            Objects(*(x[numbers] for x in objects)),
            top_ious=top_ious,
            iou_weight=iou_weight,
        )
        number[rows], taken[rows] = numbers[found.box], found.taken
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
    pairs = per_box * by_image.shape[1] ** 2
    for numbers in by_image.split(max(PAIRS_IN_MEMORY // pairs, 1)):
        is_box = numbers < num_boxes
        numbers = numbers.clamp(max=num_boxes - 1)  # (N', T)
        rows = (first[:, None] + numbers[:, None]).flatten(1)  # (N', R')
        is_own = is_box.repeat(1, per_box)
        found = match_all(
            Predictions(predictions.boxes[rows], predictions.costs[:, rows].transpose(0, 1)),
            candidates.valid[rows] & is_own,
            Objects(*(x[numbers] for x in objects)),
            is_box,
            top_ious=top_ious,
            iou_weight=iou_weight,
        )
        place = rows.masked_fill(~is_own, num_rows)
        number = number.scatter(0, place.flatten(), numbers.gather(1, found.box).flatten())
        taken = taken.scatter(0, place.flatten(), found.taken.flatten())
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
    found = level, number, image, anchor, row, column, box, labels[number]
    return Assignment(*found, positives, sizes, valid)
