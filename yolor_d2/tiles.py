"""Large images in tiles: where they lie, and what becomes of objects that their borders cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .d2.structures import Boxes, Instances
from .ops.masks import BoxMasks

# Left, top, right, bottom in pixels of the whole image.
Window = tuple[int, int, int, int]

# A box that ends within so many pixels of a tile's border is cut there.
AT_BORDER = 1
# Two pieces are one object if the intersection of their masks is such a fraction of their union,
# where both tiles look; their boxes are asked first, as that is quicker.
SAME_MASK, SAME_BOX = 0.5, 0.3


def tile_windows(height: int, width: int, tile: int, overlap: int) -> list[Window]:
    """Left, top, right, bottom of tiles that cover an image; the last ones end at its border.

    Raises:
        ValueError: when the overlap is not in [0, tile).
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"the overlap of tiles is {overlap}, expected 0 to below the tile, {tile}")

    def starts(size: int) -> list[int]:
        last = max(size - tile, 0)
        return [*range(0, last, tile - overlap), last]

    return [
        (left, top, min(left + tile, width), min(top + tile, height))
        for top in starts(height)
        for left in starts(width)
    ]


def describe_views(windows: Sequence[Window], tile: int, whole: bool) -> str:
    """What is looked at of an image, in words."""
    if len(windows) == 1:
        return "not larger than a tile, looked at as a whole"
    rest = "and the whole image" if whole else "not the whole image"
    return f"{len(windows)} tiles of {tile} pixels are looked at, {rest}"


def move_instances(
    instances: Instances, offset: tuple[int, int], size: tuple[int, int]
) -> Instances:
    """Detections of a part of an image in pixels of the whole one.

    Args:
        found: in pixels of the part.
        offset: (left, top) of the part.
        size: (H, W) of the whole image.
    """
    moved = Instances(size)
    for name, value in instances.get_fields().items():
        moved.set(name, move_field(name, value, offset, size))
    return moved


def move_field(name: str, value: Any, offset: tuple[int, int], size: tuple[int, int]) -> Any:
    """One field, see `move_instances`; one that has no places stays unchanged."""
    if isinstance(value, Boxes):
        return Boxes(value.tensor + value.tensor.new_tensor([*offset, *offset]))
    if isinstance(value, BoxMasks):
        return value.move((1, 1), offset, size)
    if name == "pred_keypoints":
        return value + value.new_tensor([*offset, 0])
    return value


def cut_by(boxes: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """(M, 4) bool: whether boxes end at the left, upper, right or lower border of a tile that is
    not the image's.

    Args:
        boxes: (M, 4) xyxy in pixels of the whole image.
        window: the tile.
        size: (H, W) of the whole image.
    """
    left, top, right, bottom = window
    near = [
        boxes[:, 0] < left + AT_BORDER,
        boxes[:, 1] < top + AT_BORDER,
        boxes[:, 2] > right - AT_BORDER,
        boxes[:, 3] > bottom - AT_BORDER,
    ]
    inner = boxes.new_tensor([left > 0, top > 0, right < size[1], bottom < size[0]]).bool()
    return torch.stack(near, dim=1) & inner


def take_from_tile(
    instances: Instances, window: Window, size: tuple[int, int], overlap: int
) -> Instances:
    """Detections of a tile in pixels of the whole image, without objects that its border cuts.

    Args:
        found: in pixels of the tile.
        window: see `tile_windows`.
        size: (H, W) of the whole image.
        overlap: see `tile_windows`.
    """
    moved = move_instances(instances, window[:2], size)
    boxes = moved.pred_boxes.tensor
    extent = boxes[:, 2:] - boxes[:, :2]
    cut = cut_by(boxes, window, size) & (extent <= overlap).repeat(1, 2)
    return moved[~cut.any(dim=1)]


# ---- Pieces of one object


def join_pieces(parts: Sequence[Instances], windows: Sequence[Window]) -> Instances:
    """All detections of the tiles, where pieces of one object have become one.

    Two tiles have each a piece of an object if they have found the same class, the border of one of
    them cuts it, and their masks agree where both tiles look. The object has a box around its
    pieces, all that is in any of their masks, of each keypoint the one with the best score, and all
    else of the piece with the best score. Without masks pieces stay what they are.

    Args:
        found: of each tile, in pixels of the whole image, at least one.
        windows: the tiles.
    """
    together = Instances.cat(parts)
    if not together.has("pred_masks"):
        return together
    groups = group_pieces(together, parts, windows)
    if len(groups) == len(together):
        return together
    scores = together.scores.tolist()
    leads = [max(group, key=lambda i: (scores[i], -i)) for group in groups]
    joined = together[torch.tensor(leads, device=together.scores.device)]
    masks: BoxMasks = together.pred_masks
    joined.pred_masks = masks.union(groups)
    boxes = joined.pred_boxes.tensor
    for place, group in enumerate(groups):
        if len(group) > 1:
            pieces = together.pred_boxes.tensor[group]
            boxes[place, :2] = pieces[:, :2].amin(dim=0)
            boxes[place, 2:] = pieces[:, 2:].amax(dim=0)
            if joined.has("pred_keypoints"):
                points = together.pred_keypoints[group]  # (P, K, 3)
                best = points[:, :, 2].argmax(dim=0)
                numbers = torch.arange(points.shape[1], device=points.device)
                joined.pred_keypoints[place] = points[best, numbers]
    return joined


def group_pieces(
    together: Instances, parts: Sequence[Instances], windows: Sequence[Window]
) -> list[list[int]]:
    """Numbers of the detections that are one object, in the order of their first ones; see
    `join_pieces`."""
    lead = list(range(len(together)))

    def lead_of(i: int) -> int:
        while lead[i] != i:
            i = lead[i]
        return i

    boxes, labels = together.pred_boxes.tensor, together.pred_classes
    ends = torch.tensor([len(x) for x in parts]).cumsum(0).tolist()
    numbers = [torch.arange(end - len(x), end) for end, x in zip(ends, parts)]
    cut = [
        cut_by(boxes[rows], window, together.image_size).any(dim=1)
        for rows, window in zip(numbers, windows)
    ]
    for a in range(len(windows)):
        for b in range(a + 1, len(windows)):
            shared = shared_part(windows[a], windows[b])
            if shared is None:
                continue
            rows = numbers[a], numbers[b]
            near = overlaps_inside(boxes[rows[0]], boxes[rows[1]], shared) >= SAME_BOX
            near &= labels[rows[0]][:, None] == labels[rows[1]]
            near &= cut[a][:, None] | cut[b]
            for i, j in near.nonzero().tolist():
                one, other = int(rows[0][i]), int(rows[1][j])
                if masks_agree(together.pred_masks[[one, other]], shared):
                    first, second = sorted((lead_of(one), lead_of(other)))
                    lead[second] = first
    groups: dict[int, list[int]] = {}
    for i in range(len(lead)):
        groups.setdefault(lead_of(i), []).append(i)
    return list(groups.values())


def shared_part(first: Window, second: Window) -> Window | None:
    """What two tiles share; None if that is nothing."""
    left, top = max(first[0], second[0]), max(first[1], second[1])
    right, bottom = min(first[2], second[2]), min(first[3], second[3])
    return (left, top, right, bottom) if right > left and bottom > top else None


def overlaps_inside(first: Tensor, second: Tensor, window: Window) -> Tensor:
    """(M, N) intersection over union of what boxes (M, 4) and (N, 4) have inside a window; 0 where
    they have nothing."""
    low, high = first.new_tensor(window).view(2, 2)
    corners = [torch.minimum(x.view(-1, 2, 2).maximum(low), high) for x in (first, second)]
    areas = [(x[:, 1] - x[:, 0]).prod(dim=1) for x in corners]
    one, other = corners[0][:, None], corners[1]
    sides = torch.minimum(one[:, :, 1], other[:, 1]) - torch.maximum(one[:, :, 0], other[:, 0])
    shared = sides.clamp(min=0).prod(dim=2)
    return shared / (areas[0][:, None] + areas[1] - shared).clamp(min=1e-6)


def masks_agree(masks: BoxMasks, window: Window) -> bool:
    """Whether two masks are nearly the same inside a window."""
    left, top, right, bottom = window
    one, other = masks.move((1, 1), (-left, -top), (bottom - top, right - left))
    shared, either = int((one & other).sum()), int((one | other).sum())
    return shared > 0 and shared >= SAME_MASK * either
