"""Moving all of a sample by one matrix: scale, shift, rotation, shear, perspective.

A sample is put together on a canvas and mapped to the network's input. Only the part of the canvas
that is seen there is ever made: images outside it are not even read. Coordinates are continuous,
as in `augment`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ...structures.keypoints import cut_keypoints, join_keypoints, map_keypoints
from ...structures.polygons import Polygons, join_polygons
from . import image as augment
from .image import FILL, Sample, by_channels, clip_boxes, paste

# A box stays after a warp if its sides, in pixels, exceed this ...
MIN_SIDE = 2.0
# ... this fraction of its area is still inside ...
MIN_VISIBLE = 0.1
# ... and it is less elongated than this.
MAX_ASPECT = 20.0

# Below this scale a warp takes less time than a resize, which needs all that the output covers.
MIN_RESIZE_SCALE = 0.5


@dataclass(frozen=True)
class Warp:
    """A map from the canvas to the output.

    Attributes:
        matrix: (3, 3), of homogeneous coordinates.
        scale: linear scale, to which the area that is left of a box is compared.
    """

    matrix: np.ndarray
    scale: float = 1.0


@dataclass(frozen=True)
class Tile:
    """An image on the canvas that is read when it is seen.

    Attributes:
        left, top: place of its corner, in whole pixels of the canvas; may lie outside.
        height, width: its size in pixels.
        read: returns the image with its ground truth.
    """

    left: int
    top: int
    height: int
    width: int
    read: Callable[[], Sample]


@dataclass(frozen=True)
class Window:
    """A rectangle of whole pixels on the canvas; it may reach beyond it."""

    x1: int
    y1: int
    x2: int
    y2: int

    def cut(self, other: Window) -> Window:
        """What both have in common; `empty` if that is nothing."""
        return Window(
            max(self.x1, other.x1),
            max(self.y1, other.y1),
            min(self.x2, other.x2),
            min(self.y2, other.y2),
        )

    @property
    def empty(self) -> bool:
        return self.x1 >= self.x2 or self.y1 >= self.y2


def translation(x: float, y: float) -> np.ndarray:
    """(3, 3) matrix of a shift."""
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])


def spread(rng: np.random.Generator, limit: float, count: int) -> np.ndarray:
    """Numbers in [-limit, limit]. At 0 none is drawn, so that what is off changes no other draw."""
    return rng.uniform(-limit, limit, size=count) if limit else np.zeros(count)


def random_warp(
    rng: np.random.Generator,
    canvas_size: tuple[float, float],
    out_size: tuple[int, int],
    *,
    scale: float,
    translate: float,
    degrees: float = 0.0,
    shear: float = 0.0,
    perspective: float = 0.0,
    zoom: float = 1.0,
) -> Warp:
    """Turn the canvas about its centre, which then moves to a random place near that of the output.

    Args:
        rng: source of chance.
        canvas_size, out_size: (H, W) in pixels.
        scale: the factor comes from [1 - scale, 1 + scale].
        translate: the centre lands within this fraction of `out_size` around the middle.
        degrees: the angle of the rotation comes from [-degrees, degrees].
        shear: so does that of the shear, for either axis.
        perspective: a pixel at (x, y) from the centre comes nearer by the factor
            1 / (1 + p x + q y), with p and q from [-perspective, perspective].
        zoom: multiplies the factor.
    """
    factor = zoom * rng.uniform(1 - scale, 1 + scale)
    centre = rng.uniform(0.5 - translate, 0.5 + translate, size=2) * out_size[::-1]
    (angle,) = np.deg2rad(spread(rng, degrees, 1))
    slopes = np.tan(np.deg2rad(spread(rng, shear, 2)))
    tilts = spread(rng, perspective, 2)

    tilted = np.array([[1.0, 0, 0], [0, 1, 0], [*tilts, 1]])
    cosine, sine = factor * math.cos(angle), factor * math.sin(angle)
    turned = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    sheared = np.array([[1.0, slopes[0], 0], [slopes[1], 1, 0], [0, 0, 1]])
    to_centre = translation(-canvas_size[1] / 2, -canvas_size[0] / 2)
    matrix = translation(*centre) @ sheared @ turned @ tilted @ to_centre
    if is_scaling(matrix):
        # In whole pixels of the canvas, so that it can be resized, which is faster than a warp.
        matrix[:2, 2] = -factor * np.rint(matrix[:2, 2] / -factor)
    return Warp(matrix, factor)


def is_scaling(matrix: np.ndarray) -> bool:
    """Whether a matrix scales and shifts, but does not turn, shear or tilt."""
    factor = matrix[0, 0]
    return factor > 0 and np.array_equal(matrix[:, :2], [[factor, 0], [0, factor], [0, 0]])


def map_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(..., 2) points through a (3, 3) matrix."""
    mapped = points @ matrix[:, :2].T + matrix[:, 2]
    return mapped[..., :2] / mapped[..., 2:]


def warp_boxes(boxes: np.ndarray, warp: Warp, out_size: tuple[int, int]) -> np.ndarray:
    """(M, 4) bounding boxes of the mapped corners, cut at the border of the output."""
    corners = map_points(boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2), warp.matrix)
    return clip_boxes(np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1), *out_size)


def warp_polygons(
    polygons: Polygons, canvas_size: tuple[int, int], warp: Warp, out_size: tuple[int, int]
) -> Polygons:
    """What the output shows of polygons on the canvas."""
    (canvas_height, canvas_width), (height, width) = canvas_size, out_size
    # First on the canvas: what lies outside may lie behind the observer.
    polygons = polygons.cut(canvas_width, canvas_height)
    return polygons.map(lambda points: map_points(points, warp.matrix)).cut(width, height)


def warp_keypoints(
    keypoints: np.ndarray, canvas_size: tuple[int, int], warp: Warp, out_size: tuple[int, int]
) -> np.ndarray:
    """(M, K, 3) what the output shows of keypoints on the canvas."""
    # First on the canvas, as polygons.
    keypoints = cut_keypoints(keypoints, *canvas_size[::-1])
    keypoints = map_keypoints(keypoints, lambda points: map_points(points, warp.matrix))
    return cut_keypoints(keypoints, *out_size[::-1])


def boxes_around(
    boxes: np.ndarray, had: np.ndarray, outlines: Polygons
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of what is left of objects.

    Args:
        boxes: (M, 4) xyxy of those of which nothing else is known.
        had: (M,) bool, which of them had polygons before they were cut.
        outlines: what is left of these.

    Returns:
        (M, 4) xyxy, and (M,) bool, False for objects of which too little is left, see `MIN_SIDE`.
    """
    bounds = outlines.bounds()
    known = outlines.counts > 0
    boxes = np.where(known[:, None], bounds, boxes)
    left = np.where(had, known, True)
    return boxes, left & ((boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) > MIN_SIDE)


def usable(before: np.ndarray, after: np.ndarray, scale: float) -> np.ndarray:
    """Which boxes are still worth training on.

    Args:
        before: (M, 4) xyxy on the canvas.
        after: the same in the output, cut at its border.
        scale: linear scale from one to the other.

    Returns:
        (M,) bool; False for boxes that are now too small, mostly outside or too elongated, see
        `MIN_SIDE`, `MIN_VISIBLE` and `MAX_ASPECT`.
    """
    sides = after[:, 2:] - after[:, :2]
    full_area = (before[:, 2:] - before[:, :2]).prod(axis=1) * scale**2
    return (
        (sides.min(axis=1) > MIN_SIDE)
        & (sides.prod(axis=1) > MIN_VISIBLE * full_area)
        & (sides.max(axis=1) < MAX_ASPECT * np.maximum(sides.min(axis=1), MIN_SIDE))
    )


def whole_pixel_origin(matrix: np.ndarray) -> tuple[int, int] | None:
    """The pixel (x, y) of the canvas whose corner a scaling maps to that of the output, if any."""
    if not is_scaling(matrix):
        return None
    origin = matrix[:2, 2] / -matrix[0, 0]
    nearest = np.rint(origin)
    if np.abs(origin - nearest).max() > 1e-6:
        return None
    return int(nearest[0]), int(nearest[1])


def seen_window(matrix: np.ndarray, canvas: Window, out_size: tuple[int, int]) -> Window:
    """The part of the canvas that the output shows, with a border for the interpolation."""
    height, width = out_size
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=float)
    inverse = np.linalg.inv(matrix)
    if (corners @ inverse[2, :2] + inverse[2, 2] <= 0).any():
        return canvas  # the output looks beyond the horizon
    mapped = map_points(corners, inverse)
    low, high = np.floor(mapped.min(axis=0)) - 2, np.ceil(mapped.max(axis=0)) + 2
    # Before the numbers become integers, as a point near the horizon is far away.
    low = low.clip((canvas.x1, canvas.y1), (canvas.x2, canvas.y2))
    high = high.clip((canvas.x1, canvas.y1), (canvas.x2, canvas.y2))
    return Window(*map(int, (*low, *high)))


def warp_image(image: np.ndarray, matrix: np.ndarray, out_size: tuple[int, int]) -> np.ndarray:
    """Map an image with bilinear interpolation; what comes from outside it is grey."""
    # cv2 counts from the centre of the first pixel, half a pixel later than our coordinates.
    matrix = translation(-0.5, -0.5) @ matrix @ translation(0.5, 0.5)
    size, fill = out_size[::-1], (FILL,) * 4
    if np.array_equal(matrix[2], [0, 0, 1]):
        return by_channels(image, lambda x: cv2.warpAffine(x, matrix[:2], size, borderValue=fill))
    return by_channels(image, lambda x: cv2.warpPerspective(x, matrix, size, borderValue=fill))


def render(
    tiles: Sequence[Tile],
    canvas_size: tuple[int, int],
    warp: Warp,
    out_size: tuple[int, int],
    channels: int = 3,
    box_from_mask: bool = False,
) -> Sample:
    """The view of a canvas with images through a warp, and the boxes that are worth training on.

    Args:
        tiles: images on a grey canvas; later ones cover earlier ones.
        canvas_size: (H, W); what lies outside is cut off.
        warp: from the canvas to the output.
        out_size: (H, W) of the output.
        channels: of the images.
        box_from_mask: whether the boxes of objects that have polygons enclose the visible part of
            these.

    Returns:
        Sample of (H, W) pixels. Its boxes are bounding boxes of mapped corners, cut at the border;
        see `usable` for those that are left out. Polygons are mapped and cut point by point, and so
        are keypoints; those outside are no longer labelled.
    """
    canvas = Window(0, 0, canvas_size[1], canvas_size[0])
    origin = whole_pixel_origin(warp.matrix)
    if origin is not None and warp.matrix[0, 0] >= MIN_RESIZE_SCALE:
        x, y = origin
        sides = (math.ceil(side / warp.matrix[0, 0]) + 1 for side in out_size[::-1])
        window = Window(x, y, *(start + side for start, side in zip(origin, sides)))
    else:
        origin = None
        window = seen_window(warp.matrix, canvas, out_size)

    image = np.full((window.y2 - window.y1, window.x2 - window.x1, channels), FILL, dtype=np.uint8)
    boxes, labels = [np.zeros((0, 4))], [np.zeros(0, dtype=np.int64)]
    identities = [np.zeros(0, dtype=np.int64)]
    polygons: list[tuple[Polygons | None, int]] = [(None, 0)]
    keypoints: list[tuple[np.ndarray | None, int]] = [(None, 0)]
    shown = window.cut(canvas)
    # The pixels of the canvas alone: nothing is drawn outside it.
    drawn = image[
        shown.y1 - window.y1 : shown.y2 - window.y1, shown.x1 - window.x1 : shown.x2 - window.x1
    ]
    for tile in tiles:
        area = Window(tile.left, tile.top, tile.left + tile.width, tile.top + tile.height)
        if shown.cut(area).empty:
            continue
        sample = tile.read()
        paste(drawn, sample.image, tile.left - shown.x1, tile.top - shown.y1)
        boxes.append(sample.boxes + [tile.left, tile.top, tile.left, tile.top])
        labels.append(sample.labels)
        identities.append(sample.identities)
        moved = augment.map_points(sample, functools.partial(np.add, (tile.left, tile.top)))
        polygons.append((moved["polygons"], len(sample.labels)))
        keypoints.append((moved["keypoints"], len(sample.labels)))

    if origin is not None:
        factor = warp.matrix[0, 0]
        image = by_channels(image, lambda x: cv2.resize(x, None, fx=factor, fy=factor))
        image = image[: out_size[0], : out_size[1]]
    elif window.empty:
        image = np.full((*out_size, channels), FILL, dtype=np.uint8)
    else:
        image = warp_image(image, warp.matrix @ translation(window.x1, window.y1), out_size)
    before = clip_boxes(np.concatenate(boxes), *canvas_size)
    after = warp_boxes(before, warp, out_size)
    keep = usable(before, after, warp.scale)
    sample = Sample(
        image, after[keep], np.concatenate(labels)[keep], np.concatenate(identities)[keep]
    )
    points = join_keypoints(keypoints)
    if points is not None:
        sample.keypoints = warp_keypoints(points[keep], canvas_size, warp, out_size)
    outlines = join_polygons(polygons)
    if outlines is not None:
        outlines = outlines.take(keep)
        had = outlines.counts > 0
        sample.polygons = warp_polygons(outlines, canvas_size, warp, out_size)
        if box_from_mask:
            sample.boxes, left = boxes_around(sample.boxes, had, sample.polygons)
            sample = sample.take(left)
    return sample
