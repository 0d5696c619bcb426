"""Box formats and overlaps.

Formats: `xyxy` is (x1, y1, x2, y2), `cxcywh` is (centre x, centre y, width, height). Any unit, as
long as it is the same for all four numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Keep quotients finite for empty boxes. They are added where the references add them, so that
# losses agree: the first to heights, union and diagonal, the second once more to heights inside the
# arc tangent, and to 1 in alpha.
EPSILONS = {"yolor": (1e-9, 0.0), "yolov7": (1e-7, 1e-7)}


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) boxes from cxcywh to xyxy."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) boxes from xyxy to cxcywh."""
    top_left, bottom_right = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(top_left + bottom_right) / 2, bottom_right - top_left], dim=-1)


def paired_iou(boxes: Tensor, others: Tensor, kind: str = "iou", *, form: str = "yolor") -> Tensor:
    """Overlap of each box with the box in the same row.

    Args:
        boxes: (M, 4) cxcywh with positive sizes.
        others: (M, 4) cxcywh with positive sizes.
        kind: "iou", "giou" (Rezatofighi et al. 2019), "diou" or "ciou" (Zheng et al. 2020, eq. 10).
        form: whose rounding, "yolor" or "yolov7" (YOLOv5's too), see `EPSILONS`.

    Returns:
        (M,) overlaps: IoU in 0-1, the others in (-1.5, 1]. Differentiable in both arguments; the
        weight alpha of the aspect-ratio term is a constant for the gradient.

    Raises:
        ValueError: when kind or form is unknown.
    """
    if kind not in ("iou", "giou", "diou", "ciou"):
        raise ValueError(f"kind is {kind!r}, expected 'iou', 'giou', 'diou' or 'ciou'")
    if form not in EPSILONS:
        raise ValueError(f"form is {form!r}, expected one of {sorted(EPSILONS)}")
    eps, further_eps = EPSILONS[form]
    a1, a2 = cxcywh_to_xyxy(boxes).split(2, dim=-1)  # (M, 2) corners
    b1, b2 = cxcywh_to_xyxy(others).split(2, dim=-1)
    overlap = (torch.minimum(a2, b2) - torch.maximum(a1, b1)).clamp(min=0).prod(dim=-1)
    (a_width, a_height), (b_width, b_height) = (a2 - a1).unbind(-1), (b2 - b1).unbind(-1)
    a_height, b_height = a_height + eps, b_height + eps
    union = a_width * a_height + b_width * b_height - overlap + eps
    iou = overlap / union
    if kind == "iou":
        return iou

    enclosing = torch.maximum(a2, b2) - torch.minimum(a1, b1)
    if kind == "giou":
        area = enclosing.prod(dim=-1) + eps
        return iou - (area - union) / area

    diagonal = enclosing.square().sum(dim=-1) + eps  # squared
    distance = (a1 + a2 - b1 - b2).square().sum(dim=-1) / 4  # squared, between centres
    diou = iou - distance / diagonal
    if kind == "diou":
        return diou

    if further_eps:
        a_height, b_height = a_height + further_eps, b_height + further_eps
    aspect = torch.atan(b_width / b_height) - torch.atan(a_width / a_height)
    v = (4 / math.pi**2) * aspect.square()
    with torch.no_grad():
        # The least value keeps equal boxes from 0 / 0: in float32 1 + 1e-9 is 1.
        alpha = v / ((1 + further_eps) - iou + v).clamp(min=eps)
    return diou - alpha * v
