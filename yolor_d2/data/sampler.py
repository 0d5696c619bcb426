"""The order of the training samples."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler

# Keeps the generators of epochs apart from those of samples, which are seeded by (seed, position).
EPOCH_STREAM = 1


def epoch_order(seed: int, epoch: int, size: int, weights: np.ndarray | None = None) -> np.ndarray:
    """The permutation of one epoch; it depends on nothing but its arguments.

    With weights, which are probabilities of the images, as many images are drawn with replacement.
    """
    rng = np.random.default_rng([seed, epoch, EPOCH_STREAM])
    return rng.permutation(size) if weights is None else rng.choice(size, size, p=weights)


class RectangularOrder:
    """Epochs of whole batches, each of images of like aspect ratio, in random order.

    Every image comes once in an epoch; so many come a second time that the last batch is full.

    Args:
        sizes: (N, 2) heights and widths of the images.
        batch_size: images per batch, over all processes.
        seed: seed of the order, >= 0.
    """

    def __init__(self, sizes: np.ndarray, *, batch_size: int, seed: int):
        self.sizes = sizes
        self.batch_size = batch_size
        self.seed = seed
        self.size = -(-len(sizes) // batch_size) * batch_size  # positions in an epoch
        self.cached: tuple[int, np.ndarray] = (-1, np.empty(0))  # the last epoch and its indices

    def epoch(self, epoch: int) -> np.ndarray:
        """(size,) indices of the images of one epoch, batch after batch."""
        if epoch != self.cached[0]:
            rng = np.random.default_rng([self.seed, epoch, EPOCH_STREAM])
            order = np.resize(rng.permutation(len(self.sizes)), self.size)  # repeats from the start
            # Images of one ratio stay in the random order, so batches differ between epochs.
            ratios = self.sizes[order, 0] / self.sizes[order, 1]
            batches = order[ratios.argsort(kind="stable")].reshape(-1, self.batch_size)
            self.cached = epoch, rng.permutation(batches).ravel()
        return self.cached[1]

    def batch_sizes(self, position: int) -> np.ndarray:
        """(batch_size, 2) heights and widths of the images in the batch of a position."""
        epoch, place = divmod(position, self.size)
        start = place - place % self.batch_size
        return self.sizes[self.epoch(epoch)[start : start + self.batch_size]]


class PositionSampler(Sampler[tuple[int, int]]):
    """Endless stream of (position, index).

    The position counts the samples of the whole run over all processes; everything random about a
    sample is derived from it. So the data depend neither on the number of workers nor on how often
    a run was interrupted: to resume, start at the position of the next batch.

    Args:
        size: images in the data set.
        seed: seed of the order, >= 0.
        start: first position, that of a batch.
        rank: index of this process.
        world_size: number of processes. Of each batch every process takes a part of its own, whose
            positions follow each other, as those of a block of `partners` share images.
        batch_size: images per batch, over all processes; one process alone need not say.
        order: `size` indices for each epoch; None takes every image once, see `epoch_order`.

    Raises:
        ValueError: when the processes cannot share a batch evenly.
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int = 1,
        order: Callable[[int], np.ndarray] | None = None,
    ):
        if batch_size % world_size:
            raise ValueError(
                f"SOLVER.IMS_PER_BATCH is {batch_size}, but {world_size} processes share a batch: "
                f"expected a multiple of the number of processes, {world_size}"
            )
        self.size = size
        self.seed = seed
        self.start = start
        self.rank = rank
        self.world_size = world_size
        self.batch_size = batch_size
        self.order = order or functools.partial(epoch_order, seed, size=size)

    def positions(self) -> Iterator[int]:
        """Those of this process, endlessly."""
        part = self.batch_size // self.world_size
        for first in itertools.count(self.start + self.rank * part, self.batch_size):
            yield from range(first, first + part)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, order = -1, np.empty(0)
        for position in self.positions():
            if position // self.size != epoch:
                epoch = position // self.size
                order = self.order(epoch)
            yield position, int(order[position % self.size])
