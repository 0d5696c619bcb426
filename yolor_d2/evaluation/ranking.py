"""Metrics of ranked lists and of scores: average precision, its chance level, ROC."""

from __future__ import annotations

import numpy as np


def average_precision(scores: np.ndarray, relevant: np.ndarray) -> float:
    """Area under the curve of precision over recall, without interpolation.

    Equal scores are taken as one step, so that the order of the input does not matter.

    Args:
        scores: (N,) the higher, the sooner in the list.
        relevant: (N,) bool.

    Returns:
        The mean, over relevant entries, of the precision of the list down to all entries of the
        same score; NaN when none is relevant.
    """
    if not relevant.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = relevant[order].cumsum()
    ordered = scores[order]
    last = np.append(ordered[1:] != ordered[:-1], True)  # of each group of equal scores
    precision = hits[last] / (last.nonzero()[0] + 1)
    return float((np.diff(hits[last], prepend=0) * precision).sum() / hits[-1])


def chance_average_precision(count: int, relevant: int) -> float:
    """Expected average precision of a list in random order.

    Entry k of the list is relevant with probability R / N; given that, the entries before it hold
    (k - 1) (R - 1) / (N - 1) relevant ones on average. Summed over k that is
    (H + (N - H) (R - 1) / (N - 1)) / N, where H = 1 + 1/2 + ... + 1/N.

    Args:
        count: N entries.
        relevant: R of them are relevant.

    Returns:
        In (0, 1]; NaN when none is relevant.
    """
    if relevant == 0:
        return float("nan")
    if count == 1:
        return 1.0
    harmonic = (1 / np.arange(1, count + 1)).sum()
    return float((harmonic + (count - harmonic) * (relevant - 1) / (count - 1)) / count)


def roc(same: np.ndarray, different: np.ndarray, false_rate: float) -> tuple[float, float]:
    """Area under the ROC curve, and the fraction of true pairs found at a fraction of false ones.

    Args:
        same: (B,) numbers of pairs of one individual by rising score.
        different: (B,) the same of pairs of two individuals; both are histograms of the same bins.
        false_rate: fraction of the pairs of two individuals that may be accepted, in (0, 1).

    Returns:
        Area in 0-1, where pairs in one bin count half, and the greatest fraction of `same` at a
        threshold that accepts no more than `false_rate` of `different`; NaN when there are no pairs
        of one of the kinds.
    """
    if same.sum() == 0 or different.sum() == 0:
        return float("nan"), float("nan")
    below = different.cumsum() - different
    area = (same * (below + different / 2)).sum() / (same.sum() * different.sum())
    # Accepted by a threshold at the lower edge of each bin, and by none.
    true = np.append(same[::-1].cumsum()[::-1], 0) / same.sum()
    false = np.append(different[::-1].cumsum()[::-1], 0) / different.sum()
    return float(area), float(true[false <= false_rate].max())


def group_by_label(labels: np.ndarray, num_classes: int) -> list[np.ndarray]:
    """Places of each class, in their order."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.searchsorted(labels[order], np.arange(1, num_classes)))[:num_classes]
