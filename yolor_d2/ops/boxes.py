"""Box formats and overlaps.

Formats: `xyxy` is (x1, y1, x2, y2), `cxcywh` is (centre x, centre y, width, height). Any unit, as
long as it is the same for all four numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Keeps quotients finite for empty boxes. It is added where the reference adds it, so that losses
# agree.
EPS = 1e-9


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) boxes from cxcywh to xyxy."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) boxes from xyxy to cxcywh."""
    top_left, bottom_right = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(top_left + bottom_right) / 2, bottom_right - top_left], dim=-1)


def paired_iou(boxes: Tensor, others: Tensor, kind: str = "iou") -> Tensor:
    """Overlap of each box with the box in the same row.

    Args:
        boxes: (M, 4) cxcywh with positive sizes.
        others: (M, 4) cxcywh with positive sizes.
        kind: "iou", "giou" (Rezatofighi et al. 2019), "diou" or "ciou" (Zheng et al. 2020, eq. 10).

    Returns:
        (M,) overlaps: IoU in 0-1, the others in (-1.5, 1]. Differentiable in both arguments; the
        weight alpha of the aspect-ratio term is a constant for the gradient.

    Raises:
        ValueError: when the kind is unknown.
    """
    if kind not in ("iou", "giou", "diou", "ciou"):
        raise ValueError(f"kind is {kind!r}, expected 'iou', 'giou', 'diou' or 'ciou'")
    a1, a2 = cxcywh_to_xyxy(boxes).split(2, dim=-1)  # (M, 2) corners
    b1, b2 = cxcywh_to_xyxy(others).split(2, dim=-1)
    overlap = (torch.minimum(a2, b2) - torch.maximum(a1, b1)).clamp(min=0).prod(dim=-1)
    (a_width, a_height), (b_width, b_height) = (a2 - a1).unbind(-1), (b2 - b1).unbind(-1)
    a_height, b_height = a_height + EPS, b_height + EPS
    union = a_width * a_height + b_width * b_height - overlap + EPS
    iou = overlap / union
    if kind == "iou":
        return iou

    enclosing = torch.maximum(a2, b2) - torch.minimum(a1, b1)
    if kind == "giou":
        area = enclosing.prod(dim=-1) + EPS
        return iou - (area - union) / area

    diagonal = enclosing.square().sum(dim=-1) + EPS  # squared
    distance = (a1 + a2 - b1 - b2).square().sum(dim=-1) / 4  # squared, between centres
    diou = iou - distance / diagonal
    if kind == "diou":
        return diou

    aspect = torch.atan(b_width / b_height) - torch.atan(a_width / a_height)
    v = (4 / math.pi**2) * aspect.square()
    with torch.no_grad():
        # The least value keeps equal boxes from 0 / 0: in float32 1 + EPS is 1.
        alpha = v / (1 - iou + v).clamp(min=EPS)
    return diou - alpha * v
