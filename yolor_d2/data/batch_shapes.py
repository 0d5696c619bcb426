"""Size of the training images of each batch, a function of the sample's position alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .sampler import RectangularOrder

# Keeps these generators apart from those of samples and epochs, see `sampler.EPOCH_STREAM`.
SHAPE_STREAM = 2


class Frame(NamedTuple):
    """What the network is given.

    Attributes:
        height, width: in pixels.
        zoom: pixels of the frame per pixel of the images as they are read.
    """

    height: int
    width: int
    zoom: float


@dataclass(frozen=True)
class BatchShapes:
    """The frame of every batch.

    Attributes:
        size: length in pixels of the longer side of the images as they are read.
        batch_size: images per batch, over all processes.
        seed: of the sizes, >= 0.
        stride: frames that vary have sides that are multiples of this.
        steps: (end, share) pairs, ends rising. The regular longer side of the batches before `end`
            is this fraction of `size`, to the nearest multiple of the stride; after all of them it
            is `size`.
        multi_scale: the longer side of a batch is drawn from [1 - x, 1 + x] times its regular one.
        order: with it frames are rectangles that just hold the images of their batch; without it
            squares.

    Raises:
        ValueError: when there is no multiple of the stride in the range of the sizes.
    """

    size: int
    batch_size: int = 1
    seed: int = 0
    stride: int = 1
    steps: tuple[tuple[int, float], ...] = ()
    multi_scale: float = 0.0
    order: RectangularOrder | None = None

    def __post_init__(self):
        low, high = self.size_range(self.size)  # those of `steps` are multiples themselves
        if self.multi_scale and low > high:
            raise ValueError(
                f"INPUT.MULTI_SCALE is {self.multi_scale}, but no size within it around "
                f"{self.size} pixels is a multiple of the stride, {self.stride}"
            )

    def scaled_size(self, fraction: float) -> int:
        """That fraction of the longer side in whole strides, at least one."""
        return max(round(self.size * fraction / self.stride), 1) * self.stride

    def regular_size(self, batch: int) -> int:
        """Longer side of a batch without `multi_scale`."""
        for end, fraction in self.steps:
            if batch < end:
                return self.scaled_size(fraction)
        return self.size

    def size_range(self, size: int) -> tuple[int, int]:
        """Least and greatest longer side around a regular one, in strides."""
        low, high = (size * (1 + sign * self.multi_scale) / self.stride for sign in (-1, 1))
        return max(math.ceil(low), 1), math.floor(high)

    def zoom(self, batch: int) -> float:
        """Longer side of a batch over `size`."""
        regular = self.regular_size(batch)
        if not self.multi_scale:
            return regular / self.size
        rng = np.random.default_rng([self.seed, batch, SHAPE_STREAM])
        low, high = self.size_range(regular)
        return int(rng.integers(low, high, endpoint=True)) * self.stride / self.size

    def frame(self, position: int) -> Frame:
        """The frame of a sample, that of all samples of its batch."""
        zoom = self.zoom(position // self.batch_size)
        if self.order is None:
            side = round(self.size * zoom)
            return Frame(side, side, zoom)
        longest = self.order.batch_sizes(position).max(axis=0) * zoom
        # The margin keeps rounding errors of the zoom from adding a stride.
        height, width = (math.ceil(x / self.stride - 1e-6) * self.stride for x in longest)
        return Frame(height, width, zoom)
