"""Masks of detections as low-resolution maps inside their boxes, drawn when somebody asks for them.

All masks of an image at once may take gigabytes (300 objects of 4000 x 3000 pixels: 3.6 GB); what
is kept here are the maps that they are drawn from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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

    def draw(self, mask: Tensor) -> None:
        """Set the pixels of the (H, W) bool mask that are inside."""
        x1, y1, x2, y2 = self.box
        columns = pixels_between(x1, x2, mask.shape[1])
        rows = pixels_between(y1, y2, mask.shape[0])
        if not len(rows) or not len(columns):
            return
        left, top, right, bottom = self.window
        values = interpolate(self.logits, 0, rows, top, bottom)
        values = interpolate(values, 1, columns, left, right)
        mask[rows.start : rows.stop, columns.start : columns.stop] |= values > 0

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


def pixels_between(low: float, high: float, limit: int) -> range:
    """Pixels of [0, limit) whose centres lie in [low, high)."""
    first, last = (min(max(math.ceil(x - 0.5), 0), limit) for x in (low, high))
    return range(first, max(first, last))


def interpolate(values: Tensor, dim: int, pixels: range, low: float, high: float) -> Tensor:
    """Values along one dimension at the centres of pixels, linear between those of its cells.

    Args:
        values: (h, w).
        dim: 0 or 1.
        pixels: of the image.
        low, high: where the first cell begins and the last one ends, in pixels of the image.
    """
    size, device = values.shape[dim], values.device
    centres = torch.arange(pixels.start, pixels.stop, device=device, dtype=values.dtype) + 0.5
    places = ((centres - low) * (size / (high - low)) - 0.5).clamp(0, size - 1)
    before = places.floor().long().clamp(max=max(size - 2, 0))
    after = (before + 1).clamp(max=size - 1)
    share = (places - before).view(-1, 1) if dim == 0 else places - before
    return torch.lerp(values.index_select(dim, before), values.index_select(dim, after), share)


class BoxMasks:
    """The masks of D objects of one image, each drawn when it is asked for.

    `masks[i]` and iteration give (H, W) bool tensors; slices, index tensors and bool tensors give
    `BoxMasks`; `tensor` and numpy's `asarray` give all of them, (D, H, W). So Detectron2's
    evaluator, which looks at one after the other, and its Visualizer take them as `pred_masks`.

    Args:
        pieces: the parts of each object; a pixel is inside an object if it is inside any of them.
        size: (H, W) of the image.
    """

    def __init__(self, pieces: Sequence[Sequence[MaskPiece]], size: tuple[int, int]):
        self.pieces = [tuple(x) for x in pieces]
        self.size = size

    @property
    def device(self) -> torch.device:
        first = next((piece for parts in self.pieces for piece in parts), None)
        return torch.device("cpu") if first is None else first.logits.device

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self), *self.size

    def __len__(self) -> int:
        return len(self.pieces)

    def __iter__(self) -> Iterator[Tensor]:
        return (self.draw(i) for i in range(len(self)))

    def draw(self, index: int) -> Tensor:
        """(H, W) bool mask of one object."""
        parts = self.pieces[index]
        mask = torch.zeros(self.size, dtype=torch.bool, device=self.device)
        for piece in parts:
            piece.draw(mask)
        return mask

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
        masks = torch.zeros(self.shape, dtype=torch.bool, device=self.device)
        for mask, parts in zip(masks, self.pieces):
            for piece in parts:
                piece.draw(mask)
        return masks

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        masks = self.tensor.cpu().numpy()
        return masks if dtype is None else masks.astype(dtype)

    def rle(self) -> list[dict]:
        """COCO's compressed run lengths ("size", "counts" as text), one mask after the other."""
        return [encode_mask(mask.cpu().numpy()) for mask in self]

    def to(self, *args: Any, **kwargs: Any) -> BoxMasks:
        """With its maps on another device."""
        return self.map(lambda x: replace(x, logits=x.logits.to(*args, **kwargs)))

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


def encode_mask(mask: np.ndarray) -> dict:
    """COCO's compressed run lengths of an (H, W) bool mask, "size" and "counts" as text."""
    # It imports what few need, evaluation and all.
    from faster_coco_eval.core import mask as coco_mask

    counts = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return {
        "size": list(mask.shape),
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }
