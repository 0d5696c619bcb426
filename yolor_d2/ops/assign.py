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


def assign_level(
    image: Tensor,
    boxes: Tensor,
    labels: Tensor,
    anchors: Tensor,
    grid_size: tuple[int, int],
    max_ratio: float = 4.0,
) -> LevelTargets:
    """Assign M boxes to the cells and anchors of one level.

    Args:
        image: (M,) int64 index of each box's image in the batch.
        boxes: (M, 4) cxcywh in cells of this level.
        labels: (M,) int64 classes.
        anchors: (A, 2) widths and heights in cells.
        grid_size: (H, W) in cells.
        max_ratio: a box matches an anchor if neither side is this many times longer or shorter.

    Returns:
        The positives of the level; none when M is 0.
    """
    # Naming convention: (A = anchors, M = boxes, B = matching pairs of the two, in this order)
    ratio = boxes[None, :, 2:] / anchors[:, None]  # (A, M, 2)
    matches = torch.maximum(ratio, 1 / ratio).amax(dim=2) < max_ratio  # (A, M)
    anchor, index = matches.nonzero(as_tuple=True)  # (B,)
    centre = boxes[index, :2]  # (B, 2)
    height, width = grid_size
    far = centre.new_tensor([width, height]) - centre  # distance to the right and lower border

    # A centre in the first half of its cell also belongs to the cell before it, in the second half
    # to the cell behind it, as long as that cell exists. Exactly on a cell border both conditions
    # hold.
    before = (centre % 1 < 0.5) & (centre > 1)  # (B, 2): left, up
    behind = (far % 1 < 0.5) & (far > 1)  # (B, 2): right, down
    own = torch.ones_like(before[:, 0])
    neighbours = torch.stack(
        [own, before[:, 0], before[:, 1], behind[:, 0], behind[:, 1]]
    )  # (5, B)
    offsets = centre.new_tensor([[0, 0], [0.5, 0], [0, 0.5], [-0.5, 0], [0, -0.5]])
    side, pair = neighbours.nonzero(as_tuple=True)  # (P,)

    cell = (centre[pair] - offsets[side]).floor().long()
    # A centre exactly on the right or lower border lies in the cell behind the last one.
    column = cell[:, 0].clamp(0, width - 1)
    row = cell[:, 1].clamp(0, height - 1)
    index, anchor = index[pair], anchor[pair]
    corner = torch.stack([column, row], dim=1).to(boxes.dtype)
    box = torch.cat([boxes[index, :2] - corner, boxes[index, 2:]], dim=1)
    return LevelTargets(image[index], anchor, row, column, box, labels[index])


def assign_targets(
    image: Tensor,
    boxes: Tensor,
    labels: Tensor,
    anchors: Tensor,
    strides: Sequence[int],
    grid_sizes: Sequence[tuple[int, int]],
    max_ratio: float = 4.0,
) -> list[LevelTargets]:
    """Assign boxes on every level.

    Args:
        image: (M,) int64 index of each box's image in the batch.
        boxes: (M, 4) cxcywh in input pixels, sizes > 0.
        labels: (M,) int64 classes.
        anchors: (L, A, 2) in input pixels.
        strides: L strides.
        grid_sizes: L pairs (H, W) in cells.
        max_ratio: see `assign_level`.

    Returns:
        L `LevelTargets`, fine to coarse.
    """
    return [
        assign_level(image, boxes / stride, labels, anchors[i] / stride, grid_size, max_ratio)
        for i, (stride, grid_size) in enumerate(zip(strides, grid_sizes))
    ]
