"""Where an image lies on the grey canvas that the network is given.

The authors' test command centres images and leaves a margin on all sides, so that an object at the
border of an image has something beside it, as in the mosaics of training; their rectangles in
training are centred without one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

# Places of an image on its canvas, see `Padding`.
PLACES = ("centre", "corner", "reference")


class Placement(NamedTuple):
    """One image on the canvas of its batch. All numbers are pixels of the network's input.

    Attributes:
        size: (H, W) of the image.
        offset: (top, left) of its upper left pixel.
        origin: (y, x) that is subtracted from boxes. It is `offset`, but for rounding in the
            reference's own mapping.
        scale: (y, x) factors on boxes after that; 1 but in the reference's own mapping.
    """

    size: tuple[int, int]
    offset: tuple[int, int]
    origin: tuple[float, float]
    scale: tuple[float, float] = (1.0, 1.0)

    @property
    def window(self) -> tuple[int, int, int, int]:
        """xyxy of the image on the canvas."""
        (height, width), (top, left) = self.size, self.offset
        return left, top, left + width, top + height

    def from_canvas(self, boxes: Tensor) -> Tensor:
        """(R, 4) xyxy on the canvas to pixels of the image, not clipped to it."""
        if self.origin == (0, 0) and self.scale == (1, 1):
            return boxes
        # By numbers and columns: a tensor of the four would have to be copied to a GPU.
        (y, x), (scale_y, scale_x) = self.origin, self.scale
        moved = boxes.clone()
        moved[:, 0::2].sub_(x).mul_(scale_x)
        moved[:, 1::2].sub_(y).mul_(scale_y)
        return moved

    def to_canvas(self, boxes: Tensor) -> Tensor:
        """(M, 4) xyxy in pixels of the image to those of the canvas."""
        if self.offset == (0, 0):
            return boxes
        moved = boxes.clone()
        moved[:, 0::2].add_(self.offset[1])
        moved[:, 1::2].add_(self.offset[0])
        return moved


class ImageView(NamedTuple):
    """Where an image lies on the canvas, and in what size its detections are wanted.

    Attributes:
        origin: (x, y) on the canvas of the image's corner, see `Placement.origin`.
        factor: (x, y) wanted pixels for a pixel of the canvas.
        size: wanted (H, W).
    """

    origin: tuple[float, float]
    factor: tuple[float, float]
    size: tuple[int, int]

    @classmethod
    def of(cls, placement: Placement, size: tuple[int, int]) -> ImageView:
        """For an image that lies there."""
        ratios = [wanted / side for wanted, side in zip(size, placement.size)]
        x, y = (scale * ratio for scale, ratio in zip(placement.scale[::-1], ratios[::-1]))
        top, left = placement.origin
        return cls((left, top), (x, y), size)

    def to_image(self, points: Tensor) -> Tensor:
        """(..., 2) points of the canvas in the wanted size; they may lie outside."""
        # By numbers and columns: a tensor of the four would have to be copied to a GPU.
        columns = zip(points.unbind(dim=-1), self.origin, self.factor)
        return torch.stack([(x - origin) * factor for x, origin, factor in columns], dim=-1)

    def to_canvas(self, points: Tensor) -> Tensor:
        """The other way."""
        columns = zip(points.unbind(dim=-1), self.origin, self.factor)
        return torch.stack([x / factor + origin for x, origin, factor in columns], dim=-1)


@dataclass(frozen=True)
class Padding:
    """The rule by which images are placed.

    Attributes:
        place: "centre"; "corner" puts images into the upper left corner, without a margin;
            "reference" is "centre" with the rounding of the authors' test command, which goes by
            the sides of the file: the canvas is that of the unrounded sides, and boxes are mapped
            back by the unrounded border and by the scale of the height alone.
        margin: added to each side of a centred image, in strides, before the sides are rounded up
            to whole strides: at 0.5, that of the test command, a quarter of a stride or more lies
            on every side of the image. 0 just holds it.

    Raises:
        ValueError: when the place is unknown or the margin negative, naming the key.
    """

    place: str = "centre"
    margin: float = 0.5

    def __post_init__(self):
        if self.place not in PLACES:
            raise ValueError(
                f"MODEL.YOLOR.PADDING.PLACE is {self.place!r}, expected one of {list(PLACES)}"
            )
        if not 0 <= self.margin < math.inf:
            raise ValueError(
                f"MODEL.YOLOR.PADDING.MARGIN is {self.margin}, expected a number of at least 0"
            )

    def for_training(self) -> Padding:
        """The same place without a margin: squares, mosaics and rectangles fill their canvas."""
        return Padding("corner" if self.place == "corner" else "centre", margin=0.0)

    def canvas_size(
        self, size: tuple[int, int], stride: int, original: tuple[int, int] | None = None
    ) -> tuple[int, int]:
        """(H, W) of the canvas of one image, in multiples of the stride.

        The canvas of a batch is as high and as wide as the largest ones of its images.

        Args:
            size: (H, W) of the image as it goes into the network.
            stride: the greatest of the network.
            original: (H, W) of the file, by which "reference" goes.
        """
        sides: Sequence[float] = size
        if self.place == "reference" and original is not None:
            longer = max(size) / max(original)
            # Never below what there is, whatever an input says of its file.
            sides = [max(side * longer, least) for side, least in zip(original, size)]
        margin = 0.0 if self.place == "corner" else self.margin
        height, width = (max(math.ceil(side / stride + margin), 1) * stride for side in sides)
        return height, width

    def put(
        self,
        size: tuple[int, int],
        canvas: tuple[int, int],
        original: tuple[int, int] | None = None,
    ) -> Placement:
        """The place of one image on a canvas of (H, W) pixels; arguments as in `canvas_size`.

        Of an odd border the larger half lies on the right and below.
        """
        if self.place == "corner":
            return Placement(size, (0, 0), (0, 0))
        border = canvas[0] - size[0], canvas[1] - size[1]
        top, left = border[0] // 2, border[1] // 2
        if self.place == "centre" or original is None:
            return Placement(size, (top, left), (top, left))
        # What follows multiplies by original / size on each axis; the test command divides both by
        # the scale of the height.
        x = original[0] / size[0] * size[1] / original[1]
        return Placement(size, (top, left), (border[0] / 2, border[1] / 2), (1.0, x))
