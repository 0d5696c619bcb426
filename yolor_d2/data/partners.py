"""Which images join another one in a mosaic, and their pixels while they are needed again.

A sample that shares nothing spends more than half of its time on decoding (mosaics of four at 640
pixels). So the samples of `POOL_BLOCK` positions in a row share a pool, of which each image is
decoded once at most.

The partners of any one sample are still independent and uniform over all images, as if they had
been drawn for it alone: the entries of a pool are drawn independently and uniformly, with
replacement, and a sample chooses among them by their places, without a look at what they hold. A
choice of distinct places from independent, identically distributed entries leaves them independent
and of the same distribution. The image that a sample is for has no part in either draw. Only
samples of one block are related to each other: they may show the same images.

Images of which objects are pasted are `PASTE_IMAGES` more entries, none of which is in the
sample's mosaics: those of the pool that these have left, and then those of a reserve.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

# Positions in a row that share a pool, from multiples of this on.
POOL_BLOCK = 8
# A pool never has fewer entries: with as many as one mosaic of four takes, all of a block would be
# of the same images.
LEAST_ENTRIES = 8
# Keeps these generators apart from those of samples, epochs and shapes, see `sampler.EPOCH_STREAM`.
POOL_STREAM = 3
# From so many entries come the objects that are pasted into one sample.
PASTE_IMAGES = 8
RESERVE_STREAM = 5


def pool_entries(
    seed: int, block: int, count: int, num_images: int, stream: int = POOL_STREAM
) -> np.ndarray:
    """(count,) image indices of the pool of one block; they depend on nothing but the arguments.

    Args:
        seed: of the run, >= 0.
        block: number of the block, position // `POOL_BLOCK`.
        count: entries of the pool.
        num_images: of the data set.
        stream: `POOL_STREAM`, or that of the reserve.
    """
    return np.random.default_rng([seed, block, stream]).integers(num_images, size=count)


class PartnerPool:
    """The pool of the block in which the last sample was, with the pixels that were read of it.

    Pixels of another block are dropped when a sample comes, so that at most as many images are
    kept as pool and reserve have entries. What a sample gets never depends on what is kept.

    Args:
        seed: of the run, >= 0.
        num_images: of the data set.
        most_partners: the largest number of entries that one sample may need.
    """

    def __init__(self, *, seed: int, num_images: int, most_partners: int):
        self.seed = seed
        self.num_images = num_images
        self.count = max(most_partners, LEAST_ENTRIES)
        self.block = -1
        self.entries = self.reserve = np.empty(0, dtype=np.int64)
        self.pixels: dict[int, np.ndarray] = {}  # by image

    def enter(self, position: int) -> None:
        """Go to the block of a position."""
        block = position // POOL_BLOCK
        if block != self.block:
            self.block = block
            self.entries = pool_entries(self.seed, block, self.count, self.num_images)
            self.reserve = np.empty(0, dtype=np.int64)
            self.pixels = {}

    def paste_images(self, left: Iterator[int]) -> np.ndarray:
        """(`PASTE_IMAGES`,) images of distinct entries, from which objects are pasted.

        Args:
            left: entries that the sample has not used, the rest of `partners`.
        """
        if not len(self.reserve):
            self.reserve = pool_entries(
                self.seed, self.block, PASTE_IMAGES, self.num_images, RESERVE_STREAM
            )
        chosen = itertools.islice(itertools.chain(left, self.reserve.tolist()), PASTE_IMAGES)
        return np.array(list(chosen), dtype=np.int64)

    def partners(self, rng: np.random.Generator) -> Iterator[int]:
        """Image indices of distinct entries of the block, in an order from one permutation."""
        return iter(self.entries[rng.permutation(self.count)].tolist())

    def get(self, index: int) -> np.ndarray | None:
        """Pixels of an image, not to be written to; None if they are not there."""
        return self.pixels.get(index)

    def put(self, index: int, pixels: np.ndarray) -> None:
        """Keep the pixels of an image if it belongs to the pool."""
        if index in self.entries or index in self.reserve:
            self.pixels[index] = pixels
