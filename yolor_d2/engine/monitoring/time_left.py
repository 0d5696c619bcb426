"""How long a training still takes, by what it has taken so far."""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# Iterations over which their time is averaged.
WINDOW = 1000
# The first iterations, in which caches are filled and workers start, are no measure.
WARM_UP = 3


@dataclass(frozen=True)
class TimeLeft:
    """An estimate.

    Attributes:
        seconds: of what has been measured.
        unmeasured: evaluations that come on top, none of which has been measured yet.
    """

    seconds: float
    unmeasured: int = 0


class TrainingClock:
    """Measures iterations, and apart from them evaluations and checkpoints.

    Args:
        max_iter: iterations of the whole run.
        eval_period: iterations between evaluations, 0 for one at the end alone; None for none.
        checkpoint_period: iterations between checkpoints.
        now: seconds of a clock.
    """

    def __init__(
        self,
        max_iter: int,
        eval_period: int | None,
        checkpoint_period: int,
        now: Callable[[], float] = time.monotonic,
    ):
        self.max_iter = max_iter
        self.eval_period = eval_period
        self.checkpoint_period = checkpoint_period
        self.now = now
        self.seen = 0
        # Iterations done, and seconds without what is measured apart.
        self.ticks: deque[tuple[int, float]] = deque(maxlen=WINDOW)
        # Durations in seconds, by name.
        self.apart: defaultdict[str, list[float]] = defaultdict(list)
        self.seconds_apart = 0.0
        self.depth = 0

    def tick(self, done: int) -> None:
        """So many iterations of the run are done."""
        self.seen += 1
        if self.seen > WARM_UP:
            self.ticks.append((done, self.now() - self.seconds_apart))

    @contextmanager
    def measuring(self, name: str) -> Iterator[None]:
        """What is inside is no part of an iteration."""
        begin, self.depth = self.now(), self.depth + 1
        try:
            yield
        finally:
            self.depth -= 1
            if self.depth == 0:  # else it is part of the work around it
                spent = self.now() - begin
                self.apart[name].append(spent)
                self.seconds_apart += spent

    @property
    def seconds_per_iteration(self) -> float | None:
        """None before it has been measured."""
        if len(self.ticks) < 2:
            return None
        (first, begin), (last, end) = self.ticks[0], self.ticks[-1]
        return (end - begin) / (last - first)

    def mean(self, name: str) -> float | None:
        spent = self.apart[name]
        return sum(spent) / len(spent) if spent else None

    def evaluations_left(self, done: int) -> int:
        if self.eval_period is None:
            return 0
        if self.eval_period <= 0:
            return 1
        # The one at the end takes place whether the period ends there or not.
        return math.ceil(self.max_iter / self.eval_period) - done // self.eval_period

    def checkpoints_left(self, done: int) -> int:
        return math.ceil(self.max_iter / self.checkpoint_period) - done // self.checkpoint_period

    def left(self, done: int) -> TimeLeft | None:
        """What is left after so many iterations; None before any has been measured."""
        each = self.seconds_per_iteration
        if each is None:
            return None
        evaluation, evaluations = self.mean("evaluation"), self.evaluations_left(done)
        seconds = each * (self.max_iter - done)
        seconds += (self.mean("checkpoint") or 0.0) * self.checkpoints_left(done)
        if evaluation is None:
            return TimeLeft(seconds, evaluations)
        return TimeLeft(seconds + evaluation * evaluations)
