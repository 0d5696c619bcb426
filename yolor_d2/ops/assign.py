"""Which cells and anchors are responsible for which ground-truth box.

Shape decides the anchor, position the cell: an anchor takes every box whose sides differ from its
own by less than a factor; the box then belongs to its cell and to the nearest horizontal and
vertical neighbour. One box may match several anchors and levels, or none. There is no IoU matching
and no best-anchor rescue.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .device import constant, shapes_may_depend_on_values

# Directions in which a centre is moved to get into the cells that a box may belong to: its own one,
# left, up, right, down ...
SIDES = ((0.0, 0.0), (-1.0, 0.0), (0.0, -1.0), (1.0, 0.0), (0.0, 1.0))
# ... and how far, in cells, by the most cells of a box: half a cell reaches the nearer neighbour of
# either axis, a whole one both.
REACH = {3: 0.5, 5: 1.0}


class LevelTargets(NamedTuple):
    """The positives of one level, P rows.

    Rows are ordered by neighbour (own cell, left, up, right, down), then anchor, then box. The
    order matters where two rows name the same cell and anchor: the later one sets the
    objectness target.

    Attributes:
        image: (P,) index of the image in the batch.
        anchor: (P,) index of the anchor.
        row, column: (P,) cell.
        box: (P, 4) cxcywh in cells, the centre relative to the cell's top-left corner.
        label: (P,) class.
    """

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    box: Tensor
    label: Tensor


class Assignment(NamedTuple):
    """The positives of all levels, R rows, level by level, each in the order of `LevelTargets`.

    Attributes:
        level: (R,) index of the level.
        number: (R,) number of the box in the batch.
        image, anchor, row, column, box, label: see `LevelTargets`.
        positives: (L,) number of positives of each level.
        sizes: rows of each level.
        valid: (R,) bool, which rows are positives; None where all are. With it every possible
            match has a row, so that no shape depends on a value. The other rows name cells of the
            grid too, and their boxes are finite.
    """

    level: Tensor
    number: Tensor
    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    box: Tensor
    label: Tensor
    positives: Tensor
    sizes: list[int]
    valid: Tensor | None = None

    def per_level(self) -> list[LevelTargets]:
        """The levels one by one; `valid` must be None."""
        fields = (self.image, self.anchor, self.row, self.column, self.box, self.label)
        return [LevelTargets(*x) for x in zip(*(field.split(self.sizes) for field in fields))]


def join_levels(targets: Sequence[LevelTargets]) -> Assignment:
    """Positives of single levels as one; `number` is the label."""
    sizes = [len(level.label) for level in targets]
    image, anchor, row, column, box, label = (torch.cat(field) for field in zip(*targets))
    positives = torch.tensor(sizes, device=label.device)
    level = torch.arange(len(sizes), device=label.device).repeat_interleave(positives)
    return Assignment(level, label, image, anchor, row, column, box, label, positives, sizes)


def assign(
    image: Tensor,
    boxes: Tensor,
    labels: Tensor,
    anchors: Tensor,
    strides: Sequence[int],
    grid_sizes: Sequence[tuple[int, int]],
    max_ratio: float = 4.0,
    *,
    candidates: int = 3,
    fixed_shape: bool | None = None,
) -> Assignment:
    """Assign M boxes to the cells and anchors of L levels.

    Args:
        image: (M,) int64 index of each box's image in the batch.
        boxes: (M, 4) cxcywh in input pixels. One without width or height matches nothing.
        labels: (M,) int64 classes.
        anchors: (L, A, 2) widths and heights in input pixels.
        strides: L strides.
        grid_sizes: L pairs (H, W) in cells.
        max_ratio: a box matches an anchor if neither side is this many times longer or shorter.
        candidates: most cells of a box on each level and anchor that it matches: 3, its own and the
            nearest neighbours, or 5, its own and all four (YOLOv7's coarse assignment).
        fixed_shape: keep a row for every possible match, see `Assignment.valid`; None does so
            wherever leaving rows out would make the host wait.

    Raises:
        ValueError: when `candidates` is another number.
    """
    if candidates not in REACH:
        raise ValueError(f"candidates is {candidates}, expected one of {sorted(REACH)}")
    reach = REACH[candidates]
    # Naming convention: (L = levels, S = sides, A = anchors, M = boxes)
    if fixed_shape is None:
        fixed_shape = not shapes_may_depend_on_values(boxes)
    stride = constant(tuple(map(float, strides)), boxes)[:, None, None]  # (L, 1, 1)
    extent = constant(tuple((float(w), float(h)) for h, w in grid_sizes), boxes)[:, None]
    scaled = boxes / stride  # (L, M, 4), in cells
    ratio = scaled[:, None, :, 2:] / (anchors / stride)[:, :, None]  # (L, A, M, 2)
    matches = torch.maximum(ratio, 1 / ratio).amax(dim=3) < max_ratio  # (L, A, M)

    # With three candidates a centre in the first half of its cell also belongs to the cell before
    # it, in the second half to the cell behind it, as long as that cell exists. Exactly on a cell
    # border both conditions hold. With five they always do.
    centre = scaled[:, :, :2]
    far = extent - centre  # distance to the right and lower border
    before = (centre % 1 < reach) & (centre > 1)  # (L, M, 2): left, up
    behind = (far % 1 < reach) & (far > 1)  # (L, M, 2): right, down
    own = torch.ones_like(before[:, :, :1])
    reached = torch.cat([own, before, behind], dim=2).transpose(1, 2)  # (L, S, M)
    valid = reached[:, :, None] & matches[:, None]  # (L, S, A, M)

    # A centre exactly on the right or lower border lies in the cell behind the last one.
    cell = (centre[:, None] + reach * constant(SIDES, boxes)[:, None]).floor()  # (L, S, M, 2)
    cell = torch.minimum(cell.clamp(min=0), extent[:, None] - 1)
    box = torch.cat([centre[:, None] - cell, scaled[:, None, :, 2:].expand(*cell.shape)], dim=3)
    positives = valid.sum(dim=(1, 2, 3))
    if fixed_shape:
        level, _, anchor, number = (
            torch.arange(size, device=boxes.device)
            .view([-1 if axis == i else 1 for i in range(4)])
            .expand(valid.shape)
            .reshape(-1)
            for axis, size in enumerate(valid.shape)
        )
        cell = cell[:, :, None].expand(*valid.shape, 2).reshape(-1, 2)
        box = box[:, :, None].expand(*valid.shape, 4).reshape(-1, 4)
        sizes = [valid[0].numel()] * len(valid)
        kept = valid.reshape(-1)
    else:
        level, side, anchor, number = valid.nonzero(as_tuple=True)
        cell, box = cell[level, side, number], box[level, side, number]
        sizes, kept = positives.tolist(), None
    column, row = cell.long().unbind(dim=1)
    indices = image[number], anchor, row, column, box, labels[number]
    return Assignment(level, number, *indices, positives, sizes, kept)


def assign_targets(
    image: Tensor,
    boxes: Tensor,
    labels: Tensor,
    anchors: Tensor,
    strides: Sequence[int],
    grid_sizes: Sequence[tuple[int, int]],
    max_ratio: float = 4.0,
) -> list[LevelTargets]:
    """The positives alone, level by level, fine to coarse; arguments as in `assign`."""
    assignment = assign(
        image, boxes, labels, anchors, strides, grid_sizes, max_ratio, fixed_shape=False
    )
    return assignment.per_level()


def assign_level(
    image: Tensor,
    boxes: Tensor,
    labels: Tensor,
    anchors: Tensor,
    grid_size: tuple[int, int],
    max_ratio: float = 4.0,
) -> LevelTargets:
    """`assign_targets` for one level, boxes and (A, 2) anchors in its cells."""
    return assign_targets(image, boxes, labels, anchors[None], [1], [grid_size], max_ratio)[0]
