"""Precision, recall and F1 over the score threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Curve:
    """How well detections do above every score.

    Attributes:
        scores: (N,) falling; entry i is about the detections from the first to the i-th.
        precision: (N,) fraction of them that is correct.
        recall: (N,) fraction of the objects that they find; NaN without objects.
    """

    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    @property
    def f1(self) -> np.ndarray:
        """(N,) harmonic mean of precision and recall; 0 where nothing is correct."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / np.where(total > 0, total, 1)

    def at(self, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Precision, recall and F1 of the detections whose score exceeds each threshold.

        Precision is NaN where there is none.
        """
        # scores are falling: how many exceed the threshold
        numbers = np.searchsorted(-self.scores, -thresholds, side="left")
        places = numbers - 1
        some = numbers > 0
        if not len(self.scores):
            zero = np.zeros(len(thresholds))
            return np.full(len(thresholds), np.nan), zero, zero
        precision = np.where(some, self.precision[places], np.nan)
        return (
            precision,
            np.where(some, self.recall[places], 0.0),
            np.where(some, self.f1[places], 0.0),
        )

    def best_threshold(self) -> float | None:
        """The score above which F1 is greatest: half-way to the next lower one, so that rounding
        does not matter; None if no detection is correct."""
        f1 = np.nan_to_num(self.f1)
        # Of equal scores all count or none.
        last = np.append(self.scores[1:] < self.scores[:-1], True) if len(f1) else np.empty(0, bool)
        f1 = np.where(last, f1, 0.0)
        if not len(f1) or f1.max() <= 0:
            return None
        place = int(f1.argmax())
        lower = self.scores[place + 1] if place + 1 < len(self.scores) else 0.0
        return float((self.scores[place] + lower) / 2)


def curve_of(scores: np.ndarray, correct: np.ndarray, num_objects: int) -> Curve:
    """The curve of detections that count, in any order; see `average_precision`."""
    order = np.argsort(-scores, kind="mergesort")
    hits = np.cumsum(correct[order])
    return Curve(
        scores=scores[order],
        precision=hits / (np.arange(len(hits)) + 1),
        recall=hits / num_objects if num_objects else np.full(len(hits), np.nan),
    )
