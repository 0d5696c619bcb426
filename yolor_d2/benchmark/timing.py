"""How the benchmarks take time: variants in turn in one process, medians of their rounds.

On a machine that does other work too, wall time says little. So ratios are those of CPU time, which
such work changes much less, and on a GPU those of wall time. A ratio is the median of the ratios of
single rounds: a slow moment then slows both of what is compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch


class Clock:
    """Wall and CPU time of calls, work on a GPU included."""

    def __init__(self, device: torch.device):
        self.device = device

    def __call__(
        self, function: Callable, *args: object, **kwargs: object
    ) -> tuple[object, float, float]:
        """The function's result, its seconds and its CPU seconds."""
        self.wait()
        wall, cpu = time.perf_counter(), time.process_time()
        result = function(*args, **kwargs)
        self.wait()
        return result, time.perf_counter() - wall, time.process_time() - cpu

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass
class Samples:
    """Times of one thing, one number a round.

    Attributes:
        device: what it ran on.
        wall: seconds.
        cpu: CPU seconds of all threads.
    """

    device: torch.device
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, wall: float, cpu: float) -> None:
        self.wall.append(wall)
        self.cpu.append(cpu)

    @property
    def counted(self) -> list[float]:
        """The times that ratios are made of."""
        return self.cpu if self.device.type == "cpu" else self.wall

    def ratio(self, base: Samples) -> float:
        """Time in multiples of that of another, measured in the same rounds."""
        return statistics.median(a / b for a, b in zip(self.counted, base.counted, strict=True))

    def columns(self, per: int = 1, unit: str = "") -> dict[str, float]:
        """Medians in milliseconds, divided by a number of `unit`."""
        suffix = f" / {unit}" if unit else ""
        return {
            f"ms{suffix}": 1000 * statistics.median(self.wall) / per,
            f"CPU ms{suffix}": 1000 * statistics.median(self.cpu) / per,
        }


def alternate(
    functions: Mapping[str, Callable[[], object]], *, rounds: int, clock: Clock
) -> dict[str, Samples]:
    """Time every function once in each round; a first round warms up and is not counted."""
    samples = {name: Samples(clock.device) for name in functions}
    for index in range(rounds + 1):
        for name, function in functions.items():
            _, wall, cpu = clock(function)
            if index > 0:
                samples[name].add(wall, cpu)
    return samples


class Stages:
    """Where the time of a path goes, by methods that are wrapped; the time of a wrapped method that
    another one calls counts for the inner one alone.

    Args:
        clock: takes the time.
        names: stages in the order of the report.
    """

    def __init__(self, clock: Clock, names: list[str]):
        self.clock = clock
        self.samples = {name: Samples(clock.device) for name in names}
        self.spent = {name: [0.0, 0.0] for name in names}
        self.within = [[0.0, 0.0]]  # wall and CPU time of the inner calls, for each open call

    def wrap(self, owner: object, method: str, stage: str) -> None:
        """Count all further calls of a method of an object for a stage."""
        setattr(owner, method, self.timed(getattr(owner, method), stage))

    def timed(self, function: Callable, stage: str) -> Callable:
        """The function, its calls counted for a stage."""

        def call(*args: object, **kwargs: object) -> object:
            self.within.append([0.0, 0.0])
            result, *seconds = self.clock(function, *args, **kwargs)
            inner = self.within.pop()
            for i, value in enumerate(seconds):
                self.spent[stage][i] += value - inner[i]
                self.within[-1][i] += value
            return result

        return call

    def end_round(self, *, counted: bool = True) -> None:
        """Note what each stage took since the last round, unless that was to warm up."""
        for name, spent in self.spent.items():
            if counted:
                self.samples[name].add(*spent)
            spent[:] = 0.0, 0.0

    def rows(self, per: int, unit: str) -> list[dict]:
        """A row of the report for each stage, with its fraction of the sum of all."""
        sums = {name: statistics.median(x.counted) for name, x in self.samples.items()}
        total = sum(sums.values()) or 1.0
        return [
            {"stage": name, **x.columns(per, unit), "% of all": 100 * sums[name] / total}
            for name, x in self.samples.items()
        ]


def prepare(args: argparse.Namespace, *positive: str) -> None:
    """Check rounds, threads and other numbers; set threads and seed.

    Args:
        args: of the command line.
        *positive: names of numbers, or lists of them, of at least 1.

    Raises:
        ValueError: when a number is out of range.
    """
    for name in ("rounds", "threads", *positive):
        value = getattr(args, name)
        values = value if isinstance(value, list) else [value]
        if any(x is not None and x < 1 for x in values):
            raise ValueError(f"--{name.replace('_', '-')} is {value}, expected at least 1")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
