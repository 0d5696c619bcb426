"""Masks of detections as low-resolution maps inside their boxes, drawn when somebody asks for them.

All masks of an image at once may take gigabytes (300 objects of 4000 x 3000 pixels: 3.6 GB); what
is kept here are the maps that they are drawn from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class MaskPiece:
    """A part of the mask of an object. Numbers are pixels of the image, continuous xyxy.

    Attributes:
        logits: (h, w) float; a pixel is inside where they exceed 0 at its centre, interpolated.
        window: which rectangle of the image the map covers.
        box: nothing is inside beyond it.
    """

    logits: Tensor
    window: tuple[float, float, float, float]
    box: tuple[float, float, float, float]

    def region(self, size: tuple[int, int]) -> tuple[range, range]:
        """Rows and columns of an image of (H, W) pixels that lie in the box."""
        x1, y1, x2, y2 = self.box
        return pixels_between(y1, y2, size[0]), pixels_between(x1, x2, size[1])

    def draw(self, rows: range, columns: range) -> np.ndarray:
        """(columns, rows) bool: which of these pixels, column by column, are inside."""
        left, top, right, bottom = self.window
        # Column by column, as COCO's run lengths go, and whole rows of memory at a time.
        values = interpolate(self.logits.detach().cpu().float().numpy(), rows, top, bottom)
        return interpolate(np.ascontiguousarray(values.T), columns, left, right) > 0

    def move(self, factor: tuple[float, float], offset: tuple[float, float]) -> MaskPiece:
        """In an image whose x and y are multiplied by factors, and then shifted."""

        def mapped(box: tuple[float, ...]) -> tuple[float, float, float, float]:
            (fx, fy), (x, y) = factor, offset
            return box[0] * fx + x, box[1] * fy + y, box[2] * fx + x, box[3] * fy + y

        return replace(self, window=mapped(self.window), box=mapped(self.box))

    def flip(self, width: float) -> MaskPiece:
        """Mirrored left and right in an image of that width."""

        def mirrored(box: tuple[float, ...]) -> tuple[float, float, float, float]:
            return width - box[2], box[1], width - box[0], box[3]

        logits = self.logits.flip(1)
        return MaskPiece(logits, mirrored(self.window), mirrored(self.box))


# The parts of each object.
Pieces = Sequence[Sequence[MaskPiece]]


def pixels_between(low: float, high: float, limit: int) -> range:
    """Pixels of [0, limit) whose centres lie in [low, high)."""
    first, last = (min(max(math.ceil(x - 0.5), 0), limit) for x in (low, high))
    return range(first, max(first, last))


def interpolate(values: np.ndarray, pixels: range, low: float, high: float) -> np.ndarray:
    """Values at the centres of pixels, linear between those of the cells around them.

    Args:
        values: (h, w) float32, of h cells.
        pixels: R of the image.
        low, high: where the first cell begins and the last one ends, in pixels of the image.

    Returns:
        (R, w).
    """
    size = len(values)
    places = (np.arange(pixels.start, pixels.stop) + (0.5 - low)) * (size / (high - low)) - 0.5
    np.clip(places, 0, size - 1, out=places)
    before = np.minimum(places.astype(np.int64), max(size - 2, 0))
    steps = np.diff(values, axis=0) if size > 1 else np.zeros_like(values)
    result = steps.take(before, axis=0)
    result *= (places - before).astype(np.float32)[:, None]
    result += values.take(before, axis=0)
    return result


class BoxMasks:
    """The masks of D objects of one image, each drawn on access.

    `masks[i]` and iteration give (H, W) bool tensors; slices, index tensors and bool tensors give
    `BoxMasks`; `tensor` and numpy's `asarray` give all of them, (D, H, W). So Detectron2's
    evaluator, which looks at one after the other, and its Visualizer take them as `pred_masks`.

    They are drawn on the CPU, wherever the model is.

    Args:
        pieces: the parts of each object; a pixel is inside an object if it is inside any of them.
            Or what makes them when they are first needed, so that nobody waits for a GPU before.
        size: (H, W) of the image.
        count: number of objects, where the pieces are made later.
    """

    device = torch.device("cpu")

    def __init__(
        self, pieces: Pieces | Callable[[], Pieces], size: tuple[int, int], count: int = 0
    ):
        self.size = size
        self.make: Callable[[], Pieces] | None = None
        self.made: list[tuple[MaskPiece, ...]] = []
        if callable(pieces):
            self.make, self.count = pieces, count
        else:
            self.made = [tuple(x) for x in pieces]
            self.count = len(self.made)

    @property
    def pieces(self) -> list[tuple[MaskPiece, ...]]:
        """The parts of each object."""
        if self.make is not None:
            self.made, self.make = [tuple(x) for x in self.make()], None
        return self.made

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self), *self.size

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Tensor]:
        return (self.draw(i) for i in range(len(self)))

    def draw(self, index: int) -> Tensor:
        """(H, W) bool mask of one object."""
        mask = np.zeros(self.size, dtype=bool)
        self.draw_into(mask, index)
        return torch.from_numpy(mask)

    def draw_into(self, mask: np.ndarray, index: int) -> None:
        """Set the pixels of an (H, W) bool mask that are inside an object."""
        rows, columns, inside = self.draw_region(index)
        mask[rows.start : rows.stop, columns.start : columns.stop] |= inside.T

    def draw_region(self, index: int) -> tuple[range, range, np.ndarray]:
        """Rows and columns around an object, and (columns, rows) bool, which of their pixels are
        inside."""
        parts = self.pieces[index]
        regions = [piece.region(self.size) for piece in parts]
        kept = [i for i, region in enumerate(regions) if all(map(len, region))]
        if len(kept) == 1:
            region = regions[kept[0]]
            return *region, parts[kept[0]].draw(*region)
        rows, columns = (hull([regions[i][axis] for i in kept]) for axis in (0, 1))
        inside = np.zeros((len(columns), len(rows)), dtype=bool)
        for i in kept:
            down, across = regions[i]
            x, y = across.start - columns.start, down.start - rows.start
            inside[x : x + len(across), y : y + len(down)] |= parts[i].draw(down, across)
        return rows, columns, inside

    def __getitem__(self, item: int | slice | Tensor | np.ndarray | Sequence[int]) -> Any:
        if isinstance(item, (int, np.integer)):
            return self.draw(int(item))
        if isinstance(item, slice):
            return BoxMasks(self.pieces[item], self.size)
        places = np.arange(len(self))[torch.as_tensor(item).cpu().numpy()]
        return BoxMasks([self.pieces[i] for i in places.reshape(-1).tolist()], self.size)

    @property
    def tensor(self) -> Tensor:
        """(D, H, W) bool: all masks at once."""
        return torch.from_numpy(self.dense())

    def dense(self) -> np.ndarray:
        """See `tensor`."""
        masks = np.zeros(self.shape, dtype=bool)
        for i, mask in enumerate(masks):
            self.draw_into(mask, i)
        return masks

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        masks = self.dense()
        return masks if dtype is None else masks.astype(dtype)

    def rle(self) -> list[dict]:
        """COCO's compressed run lengths ("size", "counts" as text), one mask after the other."""
        return [encode_region(*self.draw_region(i), self.size) for i in range(len(self))]

    def to(self, *args: Any, **kwargs: Any) -> BoxMasks:
        """Itself, as masks are drawn on the CPU."""
        return self

    def map(self, function: Any, size: tuple[int, int] | None = None) -> BoxMasks:
        """With a function applied to every piece, in an image of that size; None: the same."""
        pieces = [[function(x) for x in parts] for parts in self.pieces]
        return BoxMasks(pieces, self.size if size is None else size)

    def move(
        self, factor: tuple[float, float], offset: tuple[float, float], size: tuple[int, int]
    ) -> BoxMasks:
        """In an image of another size, see `MaskPiece.move`."""
        return self.map(lambda x: x.move(factor, offset), size)

    def flip(self) -> BoxMasks:
        """Mirrored left and right."""
        return self.map(lambda x: x.flip(self.size[1]))

    def union(self, groups: Sequence[Sequence[int]]) -> BoxMasks:
        """An object for each group of objects, with all that is inside any of them."""
        return BoxMasks([[x for i in group for x in self.pieces[i]] for group in groups], self.size)

    @classmethod
    def cat(cls, masks: Sequence[BoxMasks]) -> BoxMasks:
        """One after the other, of one image."""
        return cls([parts for x in masks for parts in x.pieces], masks[0].size)

    def __repr__(self) -> str:
        return f"BoxMasks(num_objects={len(self)}, size={self.size})"


def hull(ranges: Sequence[range]) -> range:
    """The least range around some; an empty one around none."""
    return range(
        min((x.start for x in ranges), default=0), max((x.stop for x in ranges), default=0)
    )


def encode_mask(mask: np.ndarray) -> dict:
    """COCO's compressed run lengths of an (H, W) bool mask, "size" and "counts" as text."""
    height, width = mask.shape
    return encode_region(range(height), range(width), mask.T, (height, width))


def encode_region(rows: range, columns: range, inside: np.ndarray, size: tuple[int, int]) -> dict:
    """COCO's compressed run lengths of a mask of which a part is known.

    Args:
        rows, columns: of the part; nothing is inside beyond it.
        inside: (columns, rows) bool.
        size: (H, W) of the whole mask.

    Returns:
        "size" and "counts", as text.
    """
    # It imports what few need, evaluation and all.
    from faster_coco_eval.core import mask as coco_mask

    height, width = size
    # Every column begins and ends outside, so that beginnings and ends of runs take turns.
    framed = np.zeros((len(columns), len(rows) + 2), dtype=bool)
    framed[:, 1:-1] = inside
    changes = np.flatnonzero(framed[:, 1:] != framed[:, :-1])
    column, row = np.divmod(changes, len(rows) + 1)
    places = (column + columns.start) * height + row + rows.start
    # A run that ends with its column may go on in the next one.
    apart = np.ones(len(places), dtype=bool)
    meets = places[1:-1:2] == places[2::2]
    apart[1:-1:2], apart[2::2] = ~meets, ~meets
    lengths = np.diff(places[apart], prepend=0, append=height * width)
    if len(lengths) > 1 and lengths[-1] == 0:
        lengths = lengths[:-1]
    plain = {"size": [height, width], "counts": lengths.tolist()}
    counts = coco_mask.frPyObjects(plain, height, width)["counts"]  # pyright: ignore
    return {
        "size": [height, width],
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }
