"""From logits to boxes in input pixels (the paper's head; Scaled-YOLOv4 section 3)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from .boxes import cxcywh_to_xyxy


def decode_offsets(logits: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Centres relative to the cell and sizes, the part that decoding and the box loss share.

    Centres may leave their cell by half a cell, sizes reach four times the anchor.

    Args:
        logits: (..., 4) tx, ty, tw, th.
        anchors: (..., 2) widths and heights, broadcastable against tw, th; their unit is that of
            the sizes.

    Returns:
        (..., 2) centre offsets from the cell's top-left corner in cells, in (-0.5, 1.5), and (...,
        2) sizes.
    """
    scaled = 2 * logits.sigmoid()
    return scaled[..., :2] - 0.5, scaled[..., 2:].square() * anchors


def cell_grid(height: int, width: int, like: Tensor) -> Tensor:
    """(H, W, 2) column and row of every cell, in the dtype and on the device of `like`.

    One grid per size is kept, but for code that is traced, compiled or exported: there the size may
    be symbolic, and a tensor from outside would become part of the file.
    """
    if torch.compiler.is_compiling() or torch._C._is_tracing():
        return make_grid(height, width, like.dtype, like.device)
    return kept_grid(height, width, like.dtype, like.device)


@functools.lru_cache(maxsize=64)
def kept_grid(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`make_grid`; not to be changed in place."""
    # Tensors made in inference mode could not be used in training.
    with torch.inference_mode(False):
        return make_grid(height, width, dtype, device)


def make_grid(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """See `cell_grid`."""
    rows = torch.arange(height, device=device, dtype=dtype)
    columns = torch.arange(width, device=device, dtype=dtype)
    grid_y, grid_x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([grid_x, grid_y], dim=-1)


def decode_level(logits: Tensor, anchors: Tensor, stride: int) -> Tensor:
    """Turn the logits of one level into boxes and scores.

    Args:
        logits: (N, A, H, W, 5 + K); the last axis is tx, ty, tw, th, objectness, classes.
        anchors: (A, 2) widths and heights in input pixels.
        stride: input pixels per cell, > 0.

    Returns:
        (N, A * H * W, 5 + K) rows: box as xyxy in input pixels, not clipped to the image;
        objectness; class scores. float32 (or float64) even for half-precision logits.
    """
    n, a, h, w, outputs = logits.shape
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    offsets, sizes = decode_offsets(logits[..., :4], anchors.to(logits.dtype).view(a, 1, 1, 2))
    centres = (offsets + cell_grid(h, w, logits)) * stride
    boxes = cxcywh_to_xyxy(torch.cat([centres, sizes], dim=-1))
    return torch.cat([boxes, logits[..., 4:].sigmoid()], dim=-1).reshape(n, a * h * w, outputs)


def decode(levels: Sequence[Tensor], anchors: Tensor, strides: Sequence[int]) -> Tensor:
    """All levels, one after the other, fine to coarse.

    Args:
        levels: logits of each level, see `decode_level`.
        anchors: (L, A, 2) in input pixels.
        strides: L strides.

    Returns:
        (N, R, 5 + K) with R the sum of A * H * W over the levels, see `decode_level`.
    """
    return torch.cat(
        [decode_level(x, anchors[i], stride) for i, (x, stride) in enumerate(zip(levels, strides))],
        dim=1,
    )


def decode_passing(
    levels: Sequence[Tensor],
    image: int,
    anchors: Tensor,
    strides: Sequence[int],
    score_threshold: float,
) -> tuple[Tensor, Tensor]:
    """The rows of `decode` of one image that may be detections; nothing is made of the others.

    Args:
        levels: logits of each level, see `decode_level`.
        image: index in the batch.
        anchors: (L, A, 2) in input pixels.
        strides: L strides.
        score_threshold: objectness must exceed this, and so must its product with the best class
            score; in the product rounding is allowed for, so that a few rows too many may come.

    Returns:
        (R', 5 + K) rows, see `decode_level`, and (R',) int64, their places among all rows.
    """
    passing, numbers, start = [], [], 0
    least = score_threshold * (1 - 1e-5)
    for x, sizes, stride in zip(levels, anchors, strides):
        _, a, h, w, _ = x.shape
        x = x[image]
        objectness = x[..., 4]
        if x.dtype in (torch.float16, torch.bfloat16):
            objectness = objectness.float()
        objectness = objectness.sigmoid().flatten()
        # The order of rows: anchor, cell row, column.
        likely = objectness > score_threshold
        number = likely.nonzero()[:, 0]
        if 2 * len(number) > len(likely):
            # Looking at the classes of all rows costs less than copying most of them.
            best = objectness * x[..., 5:].amax(dim=3).flatten().to(objectness.dtype).sigmoid()
            number = (likely & ~(best < least)).nonzero()[:, 0]
        anchor, cell = number // (h * w), number % (h * w)
        logits = x[anchor, cell // w, cell % w]  # (R'', 5 + K)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        best = objectness[number] * logits[:, 5:].amax(dim=1).sigmoid()
        # Written so that rows with a class that is no number stay: `ops.nms` drops that class.
        kept = (~(best < least)).nonzero()[:, 0]
        number, anchor, cell, logits = number[kept], anchor[kept], cell[kept], logits[kept]
        offsets, extents = decode_offsets(logits[:, :4], sizes.to(logits.dtype)[anchor])
        centres = (offsets + cell_grid(h, w, logits).view(h * w, 2)[cell]) * stride
        rows = logits.sigmoid()
        rows[:, :4] = cxcywh_to_xyxy(torch.cat([centres, extents], dim=-1))
        passing.append(rows)
        numbers.append(number + start)
        start += a * h * w
    return torch.cat(passing), torch.cat(numbers)
