"""What this process is doing, for the processes that work with it (see `watch`)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# A stage that is expected to be slow may last so many times as long as others.
LONG = 12


@dataclass(frozen=True)
class Stage:
    """A part of the work.

    Attributes:
        name: for people.
        position: iteration and number of the stage in it. All processes pass the same positions,
            and who has the least one is waited for. None outside of iterations.
        patience: how many times the limit of `SOLVER.HANG_LIMIT` it may last.
        since: of `time.monotonic`.
        slowest: seconds of the slowest iteration so far.
    """

    name: str
    position: tuple[int, int] | None = None
    patience: float = math.inf
    since: float = 0.0
    slowest: float = 0.0


class Progress:
    """Notes the stage; another thread reads it as `now`, which is replaced as a whole.

    Attributes:
        always_slow: iterations may be slow at any time, as with torch.compile.
    """

    def __init__(self):
        self.now = Stage("start", since=time.monotonic())
        self.always_slow = False
        self.measured = 0
        self.iteration, self.number = 0, -1
        self.begun = math.inf
        self.slowest = 0.0

    def begin(self, iteration: int) -> None:
        """An iteration begins."""
        self.iteration, self.number = iteration, -1
        self.begun = time.monotonic()

    def stage(self, name: str) -> None:
        """The next stage of the iteration begins; the same ones in all processes."""
        self.number += 1
        slow = self.always_slow or self.measured == 0
        self.now = Stage(
            f"iteration {self.iteration}: {name}",
            (self.iteration, self.number),
            LONG if slow else 1,
            time.monotonic(),
            self.slowest,
        )

    def end(self) -> None:
        """The iteration is done but for its hooks."""
        if self.measured:  # the first one is no measure
            self.slowest = max(self.slowest, time.monotonic() - self.begun)
        self.measured += 1
        self.stage("hooks")

    def leave(self, name: str) -> None:
        """No iteration follows; what is done from now on may last."""
        self.now = Stage(name, since=time.monotonic())

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Work for which the other processes wait as long as it takes."""
        before = self.now
        self.leave(name)
        try:
            yield
        finally:
            self.now = Stage(
                before.name, before.position, before.patience, time.monotonic(), before.slowest
            )


# Of this process.
progress = Progress()
