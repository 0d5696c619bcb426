"""Losses of keypoints: distances in units of OKS, visibility, and the map around each point."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops.assign import Assignment
from ...ops.device import constant
from ...ops.losses import at_least_float32
from ...ops.truth import Truth

# What a point costs by its scaled error e; both are e where it is small.
POINT_LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    # sqrt(1 + 2 e) - 1, a pseudo-Huber loss: as the distance where that is large, so that it pulls
    # at a point however far away it is.
    "huber": lambda e: 2 * e / ((1 + 2 * e).sqrt() + 1),
    # 1 - OKS, the authors': it has next to no gradient where the error is a multiple of what OKS
    # forgives, which is where the points of an untrained branch are.
    "oks": lambda e: -torch.expm1(-e),
}

# Of COCO's person: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles.
COCO_SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
    *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)
OTHER_SIGMA = 0.1
# How many cells of the finest level on every side of a point learn where it lies: the correction
# has to reach it from wherever it was thought to be, mostly within two cells.
NEARBY = 2
# Where the pseudo-Huber loss of that map turns from the square of the distance into the distance,
# relative to that of the points: where it is the square, cells hardly learn to be more precise.
NEARBY_KNEE = 0.25


def sigmas_of(num_keypoints: int, given: Sequence[float] = ()) -> tuple[float, ...]:
    """A sigma for each of K points: the given ones, else COCO's for 17 points, else 0.1.

    Raises:
        ValueError: when there are some, but not K positive ones.
    """
    if not given:
        return COCO_SIGMAS if num_keypoints == len(COCO_SIGMAS) else (OTHER_SIGMA,) * num_keypoints
    if len(given) != num_keypoints or not all(0 < sigma < math.inf for sigma in given):
        raise ValueError(
            f"MODEL.YOLOR.TASKS.KEYPOINTS.SIGMAS is {list(given)}, expected none or a positive "
            f"number for each of {num_keypoints} points"
        )
    return tuple(map(float, given))


def scaled_errors(points: Tensor, wanted: Tensor, areas: Tensor, sigmas: Tensor) -> Tensor:
    """e = d^2 / (4 s sigma^2) of each point; exp(-e) is its OKS.

    COCO's evaluation divides by 8 s sigma^2, with s the area of the object's mask.

    Args:
        points: (R, K, 2).
        wanted: (R, K, 2).
        areas: (R,) s, width times height of the object, in the square of the same unit.
        sigmas: (K,).

    Returns:
        (R, K).
    """
    squared = (points - wanted).square().sum(dim=2)
    # The reference adds 1e-9 against objects without area.
    return squared / (4 * areas[:, None] * sigmas.square() + 1e-9)


def keypoint_losses(
    levels: Sequence[Tensor],
    targets: Assignment,
    keypoints: Tensor,
    strides: Sequence[int],
    sigmas: Sequence[float],
    loss: str = "oks",
) -> tuple[Tensor, Tensor]:
    """Unweighted losses at the positives of objects of which points are labelled.

    Args:
        levels: L (N, A, H, W, K, 3), see `KeypointBranch.forward`.
        targets: positives of all levels.
        keypoints: (M, K, 3) x, y in input pixels, visibility, 0 where not labelled.
        strides: L strides.
        sigmas: K.
        loss: a name of `POINT_LOSSES`.

    Returns:
        0-dim, at least float32: the sum over the levels of the mean of what the labelled points
        cost, and of the mean cross entropy of "is labelled" over all points. A level without any
        adds 0, with gradients of 0.
    """
    # Naming convention: (R = positives, K = points, L = levels)
    places = (targets.image, targets.anchor, targets.row, targets.column)
    by_level = zip(*(place.split(targets.sizes) for place in places))
    matched = at_least_float32(torch.cat([x[where] for x, where in zip(levels, by_level)]))
    truth = keypoints[targets.number].to(matched.dtype)  # (R, K, 3)
    labelled = truth[..., 2] > 0
    if targets.valid is not None:
        labelled = labelled & targets.valid[:, None]
    known = labelled.any(dim=1)  # (R,)

    stride = constant(tuple(map(float, strides)), matched)[targets.level, None, None]
    cell = torch.stack([targets.column, targets.row], dim=1)[:, None]  # (R, 1, 2)
    # Nothing that other points or cells hold may reach the sums, be it infinite.
    unused = ~labelled[..., None]
    offsets = (2 * matched[..., :2] - 0.5).masked_fill(unused, 0.0)
    wanted = (truth[..., :2] / stride - cell).masked_fill(unused, 0.0)
    areas = targets.box[:, 2:].prod(dim=1).to(matched.dtype)
    errors = scaled_errors(offsets, wanted, areas, constant(tuple(map(float, sigmas)), matched))
    terms = POINT_LOSSES[loss](errors).masked_fill(~labelled, 0.0)
    logits = matched[..., 2].masked_fill(~known[:, None], 0.0)
    entropy = F.binary_cross_entropy_with_logits(logits, labelled.to(logits), reduction="none")
    entropy = entropy.masked_fill(~known[:, None], 0.0)

    def sum_of_means(values: Tensor, counts: Tensor) -> Tensor:
        """(R, K) values and (R,) how many of a row count."""
        by_level = [x.sum() for x in counts.split(targets.sizes)]
        factor = 1 / torch.stack(by_level).clamp(min=1).to(values.dtype)
        return (values.sum(dim=1) * factor[targets.level]).sum()

    num_keypoints = labelled.shape[1]
    return (
        sum_of_means(terms, labelled.sum(dim=1)),
        sum_of_means(entropy, num_keypoints * known),
    )


def nearby_loss(
    near: Tensor,
    truth: Truth,
    stride: int,
    sigmas: Sequence[float],
) -> Tensor:
    """Unweighted loss of the map that corrects points, at the cells around each labelled point: the
    pseudo-Huber loss, by which cells close to the point weigh more, as the last correction is made
    there.

    Args:
        near: (N, 2 K, H, W) x, y from the centre of each cell to the nearest point of either kind,
            in cells.
        truth: objects of the batch, with the field "keypoints", see `keypoint_losses`.
        stride: input pixels per cell.
        sigmas: K.

    Returns:
        0-dim, at least float32: the mean of what these cells cost, weighted by exp(-d^2 / 2), where
        d is the distance from the cell's centre to the point in cells; without any 0, with
        gradients of 0.
    """
    # Naming convention: (M = objects, K = points, S = cells around a point)
    near = at_least_float32(near)
    height, width = near.shape[2:]
    keypoints = truth.fields["keypoints"].to(near.dtype)
    places = keypoints[..., :2] / stride
    side = torch.arange(-NEARBY, NEARBY + 1, device=near.device)
    around = torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=-1).view(-1, 2)
    cells = places.floor().long()[:, None] + around[:, None]  # (M, S, K, 2)
    limit = constant((width, height), cells)
    counts = ((cells >= 0) & (cells < limit)).all(dim=3)
    counts = counts & ((keypoints[..., 2] > 0) & truth.valid[:, None])[:, None]
    x, y = torch.where(counts[..., None], cells, 0).unbind(dim=3)
    number = torch.arange(keypoints.shape[1], device=near.device)
    # Cells that do not count read one that may hold anything, be it infinite.
    by_point = near.unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2)  # (N, K, H, W, 2)
    picked = by_point[truth.image[:, None, None], number, y, x]
    picked = picked.masked_fill(~counts[..., None], 0.0)
    wanted = (places[:, None] - cells - 0.5).masked_fill(~counts[..., None], 0.0)
    areas = truth.boxes[:, 2:].prod(dim=1).to(near.dtype) / stride**2
    areas = areas[:, None].expand(counts.shape[:2]).flatten()
    errors = scaled_errors(
        picked.flatten(0, 1), wanted.flatten(0, 1), areas, constant(tuple(sigmas), near)
    ).view(counts.shape)
    terms = NEARBY_KNEE * POINT_LOSSES["huber"](errors / NEARBY_KNEE**2)
    weights = torch.exp(-wanted.square().sum(dim=3) / 2).masked_fill(~counts, 0.0)
    # The cell that a point lies in has at least exp(-0.25), nearly 0.8.
    return (terms * weights).sum() / weights.sum().clamp(min=0.5)
