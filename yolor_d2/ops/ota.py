"""Optimal-transport assignment: which of its candidates a box takes depends on what is predicted.

simOTA (OTA, arXiv 2103.14259; YOLOX, arXiv 2107.08430) over the candidates of `assign`, as YOLOv7
(arXiv 2207.02696) has it: every box takes as many of its image's candidates as the best predictions
overlap it, those that cost least. What costs little is a prediction that lies well and has the
right class.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .assign import Assignment
from .boxes import cxcywh_to_xyxy
from .decode import decode_offsets
from .device import constant
from .losses import logits_at
from .ota_matching import Objects, Predictions, class_costs, match_all, match_near, sort_by_place

# Pairs of boxes and rows that are computed at a time: what fits several times into the memory of
# a GPU.
PAIRS_IN_MEMORY = 2**26


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
        # Each cell once: rows of one cell must have bit-identical costs.
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
