"""Anchor sizes and the boxes they can be responsible for (see `ops.assign`)."""

from __future__ import annotations

import torch
from torch import Tensor


def best_ratios(sizes: Tensor, anchors: Tensor) -> Tensor:
    """How well the best anchor fits each box.

    Args:
        sizes: (M, 2) widths and heights of boxes, > 0.
        anchors: (A, 2) widths and heights in the same unit.

    Returns:
        (M,) in (0, 1]: the fraction by which the worse of the two sides differs, 1 for a perfect
        fit.
    """
    ratio = sizes[:, None] / anchors  # (M, A, 2)
    return torch.minimum(ratio, 1 / ratio).amin(dim=2).amax(dim=1)


def best_possible_recall(sizes: Tensor, anchors: Tensor, max_ratio: float = 4.0) -> float:
    """Fraction of the boxes that match an anchor; only those can be learned.

    Args:
        sizes, anchors: see `best_ratios`. Without boxes the recall is 1.
        max_ratio: see `assign.assign`.
    """
    if len(sizes) == 0:
        return 1.0
    return (best_ratios(sizes, anchors) > 1 / max_ratio).float().mean().item()


def fitness(sizes: Tensor, anchors: Tensor, max_ratio: float = 4.0) -> float:
    """Mean fit of the boxes, where those that match no anchor count as 0; in 0-1."""
    ratios = best_ratios(sizes, anchors)
    return (ratios * (ratios > 1 / max_ratio)).mean().item()


def cluster_sizes(sizes: Tensor, count: int, rng: torch.Generator, rounds: int = 50) -> Tensor:
    """K-means of the logarithms of widths and heights, so that ratios are what counts.

    Args:
        sizes: (M, 2) > 0.
        count: clusters A.
        rng: source of chance, of the first centres (k-means++: far from each other).
        rounds: at most so many.

    Returns:
        (A, 2) centres; some coincide where there are fewer distinct sizes.
    """
    points = sizes.log()
    first = int(torch.randint(len(points), (1,), generator=rng))
    centres = points[first][None]
    while len(centres) < count:
        distance = torch.cdist(points, centres).amin(dim=1).square()
        # Where every point is a centre already, any will do.
        weights = distance if distance.sum() > 0 else torch.ones_like(distance)
        centres = torch.cat([centres, points[torch.multinomial(weights, 1, generator=rng)]])
    for _ in range(rounds):
        nearest = torch.cdist(points, centres).argmin(dim=1)  # (M,)
        members = torch.zeros(count, dtype=points.dtype).index_add_(
            0, nearest, torch.ones_like(points[:, 0])
        )
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        moved = torch.where(members[:, None] > 0, sums / members[:, None].clamp(min=1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres.exp()


def refine_anchors(
    sizes: Tensor,
    anchors: Tensor,
    max_ratio: float,
    rng: torch.Generator,
    *,
    generations: int = 1000,
    mutation: float = 0.9,
    spread: float = 0.1,
) -> Tensor:
    """Genetic search: keep a random change of the anchors whenever it raises the fitness.

    Args:
        sizes, anchors, max_ratio: see `fitness`.
        rng: source of chance.
        generations: changes that are tried.
        mutation: probability that a side takes part in a change.
        spread: standard deviation of the logarithm of its factor.
    """
    best = fitness(sizes, anchors, max_ratio)
    for _ in range(generations):
        chosen = torch.rand(anchors.shape, generator=rng, dtype=anchors.dtype) < mutation
        steps = torch.randn(anchors.shape, generator=rng, dtype=anchors.dtype) * spread
        changed = anchors * (steps * chosen).exp()
        value = fitness(sizes, changed, max_ratio)
        if value > best:
            anchors, best = changed, value
    return anchors


def fit_anchors(
    sizes: Tensor,
    count: int,
    max_ratio: float = 4.0,
    *,
    start: Tensor | None = None,
    seed: int = 0,
    generations: int = 1000,
    sample: int = 20_000,
) -> Tensor:
    """Anchors for boxes of these sizes.

    Args:
        sizes: (M, 2) widths and heights, > 0, M at least 1.
        count: anchors A.
        max_ratio: see `assign.assign`.
        start: (A, 2) anchors in use, which the search also begins from; the result is then never
            less fit.
        seed: of the search, whose result is the same for the same boxes.
        generations: see `refine_anchors`.
        sample: with more boxes than this the search looks at so many of them, drawn at random.

    Returns:
        (A, 2) anchors by rising area, in the unit and type of the sizes.

    Raises:
        ValueError: when there is no box, or a size is not positive and finite.
    """
    if len(sizes) == 0:
        raise ValueError("anchors need at least one box to fit")
    if not (sizes > 0).all() or not sizes.isfinite().all():
        raise ValueError("sizes of boxes must be positive and finite")
    rng = torch.Generator().manual_seed(seed)
    some = sizes[torch.randperm(len(sizes), generator=rng)[:sample]]
    candidates = [cluster_sizes(some, count, rng)]
    if start is not None:
        candidates.append(start)
    begin = max(candidates, key=lambda anchors: fitness(some, anchors, max_ratio))
    candidates.append(refine_anchors(some, begin, max_ratio, rng, generations=generations))
    best = max(candidates, key=lambda anchors: fitness(sizes, anchors, max_ratio))
    return best[best.prod(dim=1).argsort()]
