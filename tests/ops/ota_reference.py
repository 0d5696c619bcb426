"""Assignment by optimal transport, slow and obvious: one image, one box, one candidate at a time.

Everything is float64. Ties go to the first candidate and to the first box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Row(NamedTuple):
    """A cell and anchor of a level of an image, and the number of a box in the batch."""

    level: int
    image: int
    anchor: int
    row: int
    column: int
    box: int


class Chosen(NamedTuple):
    """What the assignment takes.

    Attributes:
        rows: the positives, image by image, each in the order of its candidates.
        counts: (M,) how many candidates each box wanted, 0 in an image without any.
        margin: how far the nearest decision was from turning out otherwise: the smallest difference
            of two costs that were compared, unless they were equal, and of a sum of overlaps from
            an integer.
        ties: whether equal costs were decided between by their order.
    """

    rows: list[Row]
    counts: list[int]
    margin: float
    ties: bool


def neighbours(x: float, y: float, width: int, height: int, candidates: int) -> list[tuple]:
    """Which sides of its cell a centre reaches, of own, left, up, right, down: what is subtracted
    from it to get there, or None. `width` and `height` are those of the grid, all in cells."""
    if candidates == 5:
        return [
            (0, 0),
            (1, 0) if x > 1 else None,
            (0, 1) if y > 1 else None,
            (-1, 0) if width - x > 1 else None,
            (0, -1) if height - y > 1 else None,
        ]
    return [
        (0, 0),
        (0.5, 0) if x % 1 < 0.5 and x > 1 else None,
        (0, 0.5) if y % 1 < 0.5 and y > 1 else None,
        (-0.5, 0) if (width - x) % 1 < 0.5 and width - x > 1 else None,
        (0, -0.5) if (height - y) % 1 < 0.5 and height - y > 1 else None,
    ]


def find_candidates(
    image: np.ndarray,
    boxes: np.ndarray,
    anchors: np.ndarray,
    strides: Sequence[int],
    grid_sizes: Sequence[tuple[int, int]],
    max_ratio: float,
    candidates: int,
) -> list[Row]:
    """All candidates of a batch, by level, then side, then anchor, then box.

    Args:
        image: (M,) image of each box.
        boxes: (M, 4) cxcywh in pixels.
        anchors: (L, A, 2) in pixels.
        strides: L.
        grid_sizes: L pairs (height, width).
        max_ratio: limit of the ratio of a side and the anchor's.
        candidates: 3 or 5 cells of a box.
    """
    found = []
    for level, (stride, (height, width)) in enumerate(zip(strides, grid_sizes)):
        for side in range(5):
            for anchor, (anchor_width, anchor_height) in enumerate(anchors[level]):
                for number, (cx, cy, w, h) in enumerate(boxes):
                    if min(w, h) <= 0:
                        continue
                    ratios = (w / anchor_width, anchor_width / w)
                    ratios += (h / anchor_height, anchor_height / h)
                    if max(ratios) >= max_ratio:
                        continue
                    x, y = cx / stride, cy / stride
                    offset = neighbours(x, y, width, height, candidates)[side]
                    if offset is None:
                        continue
                    column = min(max(math.floor(x - offset[0]), 0), width - 1)
                    row = min(max(math.floor(y - offset[1]), 0), height - 1)
                    found.append(Row(level, int(image[number]), anchor, row, column, number))
    return found


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def decode(logits: np.ndarray, row: Row, anchor: np.ndarray, stride: int) -> list[float]:
    """Predicted xyxy in pixels."""
    x, y, w, h = sigmoid(logits[:4])
    cx, cy = (2 * x - 0.5 + row.column) * stride, (2 * y - 0.5 + row.row) * stride
    w, h = (2 * w) ** 2 * anchor[0], (2 * h) ** 2 * anchor[1]
    return [float(v) for v in (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)]


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """IoU of two boxes, xyxy."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / union


def class_cost(logits: np.ndarray, label: int) -> float:
    """Sum over the classes of the cross entropy of sqrt(class score x objectness)."""
    scores = np.sqrt(sigmoid(logits[5:]) * sigmoid(logits[4]))
    return -math.log(scores[label]) - np.log(1 - np.delete(scores, label)).sum()


def choose(
    candidates: Sequence[Row],
    levels: Sequence[np.ndarray],
    boxes: np.ndarray,
    labels: np.ndarray,
    anchors: np.ndarray,
    strides: Sequence[int],
    image: np.ndarray,
    top_ious: int = 10,
    iou_weight: float = 3.0,
) -> Chosen:
    """The positives among the candidates.

    Args:
        candidates: see `find_candidates`.
        levels: L logits (N, A, H, W, 5 + K).
        boxes: (M, 4) cxcywh in pixels.
        labels: (M,) classes.
        anchors: (L, A, 2) in pixels.
        strides: L.
        image: (M,) image of each box.
        top_ious: of how many overlaps the sum says how many candidates a box takes.
        iou_weight: weight of the overlap beside that of the classes.
    """
    counts, kept, margin, ties = [0] * len(boxes), [], math.inf, False
    for n in range(len(levels[0])):
        rows = [row for row in candidates if row.image == n]
        targets = [m for m in range(len(boxes)) if image[m] == n]
        if not rows or not targets:
            continue
        ious, costs = np.zeros((2, len(targets), len(rows)))
        for j, row in enumerate(rows):
            logits = levels[row.level][n, row.anchor, row.row, row.column].astype(np.float64)
            predicted = decode(logits, row, anchors[row.level][row.anchor], strides[row.level])
            by_class = {k: class_cost(logits, k) for k in {int(labels[m]) for m in targets}}
            for i, m in enumerate(targets):
                cx, cy, w, h = map(float, boxes[m])
                wanted = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
                ious[i, j] = overlap(predicted, wanted)
                costs[i, j] = by_class[int(labels[m])] - iou_weight * math.log(ious[i, j] + 1e-8)

        taken = np.zeros((len(targets), len(rows)), dtype=bool)
        for i, m in enumerate(targets):
            total = sum(sorted(ious[i], reverse=True)[:top_ious])
            counts[m] = max(1, math.floor(total))
            if total > 1.5:  # below 2 it takes one
                margin = min(margin, abs(total - round(total)))
            order = np.argsort(costs[i], kind="stable")
            taken[i, order[: counts[m]]] = True
            if counts[m] < len(rows):
                last, next_one = costs[i, order[counts[m] - 1]], costs[i, order[counts[m]]]
                margin = min(margin, (next_one - last) or math.inf)
                ties |= last == next_one
        for j, row in enumerate(rows):
            if not taken[:, j].any():
                continue
            owner = int(np.argmax(taken[:, j]))
            if taken[:, j].sum() > 1:
                owner = int(np.argmin(costs[:, j]))
                others = [c - costs[owner, j] for c in costs[:, j] if c != costs[owner, j]]
                margin = min([margin, *others])
                ties |= len(others) < len(targets) - 1
            kept.append(row._replace(box=targets[owner]))
    return Chosen(kept, counts, margin, bool(ties))
