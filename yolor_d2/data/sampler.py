"""The order of the training samples."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

# Keeps the generators of epochs apart from those of samples, which are seeded by (seed, position).
EPOCH_STREAM = 1


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The permutation of one epoch; it depends on nothing but its arguments."""
    return np.random.default_rng([seed, epoch, EPOCH_STREAM]).permutation(size)


class PositionSampler(Sampler[tuple[int, int]]):
    """Endless stream of (position, index).

    The position counts the samples of the whole run over all processes; everything random about a
    sample is derived from it. So the data depend neither on the number of workers nor on how often
    a run was interrupted: to resume, start at the position of the next batch.

    Args:
        size: images in the data set.
        seed: seed of the order, >= 0.
        start: first position.
        rank: index of this process.
        world_size: number of processes; they take turns.
    """

    def __init__(self, size: int, *, seed: int, start: int = 0, rank: int = 0, world_size: int = 1):
        self.size = size
        self.seed = seed
        self.start = start
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, order = -1, np.empty(0)
        for position in itertools.count(self.start + self.rank, self.world_size):
            if position // self.size != epoch:
                epoch = position // self.size
                order = epoch_order(self.seed, epoch, self.size)
            yield position, int(order[position % self.size])
