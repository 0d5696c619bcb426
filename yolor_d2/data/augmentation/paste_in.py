"""Pasting objects that are cut out of other images along their polygons, as YOLOv7 does.

The authors' procedure: objects are collected from mosaics of four images, a random half of each,
until there are enough. Then places of falling size are tried; where one covers little of every
object that is there, a collected object is scaled to fit into it. What is collected is known from
polygons alone, so only images of objects that are really pasted are read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from ...structures.keypoints import cut_keypoints, map_keypoints
from ...structures.polygons import Polygons
from .image import Sample, by_channels

# Objects that are collected at least, ...
ENOUGH = 30
# ... of each mosaic this share, rounded, ...
FRACTION = 0.5
# ... from at most so many mosaics: where images have few objects, some more would not help.
MOST_ROUNDS = 30
# Largest sides of the places that are tried, as fractions of the image's.
PLACES = (0.75,) * 2 + (0.5,) * 4 + (0.25,) * 4 + (0.125,) * 4 + (0.0625,) * 6
# Probability that a try is left out.
SKIPPED = 0.2
# A place covers less than this fraction of the area of every box ...
MOST_COVERED = 0.3
# ... and its sides, in pixels, exceed this.
LEAST_PLACE = 20
# Sides and pixels of what is pasted exceed these. The authors count pixels once for each of three
# channels, to more than 60.
LEAST_SIDE, LEAST_PIXELS = 10, 20


@dataclass(frozen=True)
class Cutouts:
    """K objects that can be cut out.

    Attributes:
        images: (K,) int64 numbers of their images.
        rows: (K,) int64 numbers of the objects in the data set.
        windows: (K, 4) int64 xyxy, the pixels of the image that hold them.
    """

    images: np.ndarray
    rows: np.ndarray
    windows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: np.ndarray) -> Cutouts:
        return Cutouts(self.images[chosen], self.rows[chosen], self.windows[chosen])

    @classmethod
    def join(cls, parts: list[Cutouts]) -> Cutouts:
        arrays = zip(*((x.images, x.rows, x.windows) for x in parts))
        return cls(*(np.concatenate(x) for x in arrays))


@dataclass(frozen=True)
class CutObject:
    """One object that can be cut out.

    Attributes:
        label: its class.
        identity: its individual, see `Sample`.
        outline: its polygons alone, in pixels of its image.
        read: returns that image.
        keypoints: (1, K, 3) of it, see `Sample`; None where nobody needs them.
    """

    label: int
    identity: int
    outline: Polygons
    read: Callable[[], np.ndarray]
    keypoints: np.ndarray | None = None


def seen_windows(
    bounds: np.ndarray, image_size: np.ndarray, corner: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """What of the objects of an image a square canvas shows.

    Args:
        bounds: (M, 4) xyxy around the objects in pixels of the image; NaN for those without
            polygons.
        image_size: (2,) height and width in pixels.
        corner: (2,) left and top of the image on the canvas, in whole pixels.
        side: of the canvas in pixels.

    Returns:
        (M,) bool, which are seen, and (K, 4) int64 windows of those in whole pixels of the image.
    """
    low = np.maximum(-corner, 0)
    high = np.minimum(image_size[::-1], side - corner)
    corners = np.floor(bounds[:, :2]).clip(low, high), np.ceil(bounds[:, 2:]).clip(low, high)
    seen = (corners[0] < corners[1]).all(axis=1)  # not where they are NaN
    return seen, np.concatenate([x[seen] for x in corners], axis=1).astype(np.int64)


def collect(mosaic: Callable[[], Cutouts], rng: np.random.Generator) -> Cutouts:
    """Objects to paste, about `ENOUGH`; none where the first mosaic has none.

    Args:
        mosaic: returns what can be cut out of a random mosaic.
        rng: source of chance.
    """
    parts, count = [], 0
    for _ in range(MOST_ROUNDS):
        cutouts = mosaic()
        chosen = rng.permutation(len(cutouts))[: round(FRACTION * len(cutouts))]
        parts.append(cutouts.take(chosen))
        count += len(chosen)
        if count == 0 or count >= ENOUGH:
            break
    return Cutouts.join(parts)


def random_place(
    rng: np.random.Generator, fraction: float, height: int, width: int
) -> tuple[int, int, int, int]:
    """xyxy of a random rectangle in an image, with sides up to a fraction of the image's."""
    place_height, place_width = (
        int(rng.integers(1, max(int(side * fraction), 1), endpoint=True))
        for side in (height, width)
    )
    x, y = (int(rng.integers(0, side, endpoint=True)) for side in (width, height))
    x, y = max(x - place_width // 2, 0), max(y - place_height // 2, 0)
    return x, y, min(x + place_width, width), min(y + place_height, height)


def covered(boxes: np.ndarray, place: tuple[int, int, int, int]) -> np.ndarray:
    """(M,) fraction of the area of each box that a rectangle covers."""
    low = np.maximum(boxes[:, :2], place[:2])
    high = np.minimum(boxes[:, 2:], place[2:])
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return (high - low).clip(0).prod(axis=1) / np.maximum(areas, 1e-9)


def fit(
    window: np.ndarray, place: tuple[int, int, int, int], outline: Polygons
) -> tuple[np.ndarray, Polygons] | None:
    """An object's pixels when it is scaled to fit into a place, by one factor for both sides.

    Args:
        window: (4,) xyxy pixels of its image that hold it.
        place: xyxy of the place.
        outline: its polygons in its image.

    Returns:
        (h, w) bool pixels from the corner of the place, and its polygons, in pixels of these; None
        where too little of it would be seen.
    """
    x1, y1, x2, y2 = place
    sides = window[2:] - window[:2]
    factor = min((x2 - x1) / sides[0], (y2 - y1) / sides[1])
    # What fits exactly must not lose a pixel to rounding.
    width, height = np.floor(sides * factor + 1e-6).astype(int).tolist()
    if min(width, height) <= LEAST_SIDE:
        return None
    scaled = outline.map(lambda points: (points - window[:2]) * ((width, height) / sides))
    mask = scaled.mask(0, height, width)
    if mask.sum() <= LEAST_PIXELS:
        return None
    return mask, scaled


def fit_points(keypoints: np.ndarray, window: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(1, K, 3) keypoints of an object in pixels of its window, scaled to (width, height)."""
    factors = size / (window[2:] - window[:2])
    moved = map_keypoints(keypoints, lambda points: (points - window[:2]) * factors)
    return cut_keypoints(moved, *size)


def paste_object(
    canvas: np.ndarray, image: np.ndarray, window: np.ndarray, mask: np.ndarray, left: int, top: int
) -> None:
    """Copy the masked pixels of an image's window, scaled to the size of the mask."""
    height, width = mask.shape
    x1, y1, x2, y2 = window.tolist()
    # As images are resized when they are read.
    interpolation = cv2.INTER_AREA if height < y2 - y1 else cv2.INTER_LINEAR
    pixels = by_channels(
        image[y1:y2, x1:x2],
        lambda x: cv2.resize(x, (width, height), interpolation=interpolation),
    )
    np.copyto(canvas[top : top + height, left : left + width], pixels, where=mask[:, :, None])


def paste_in(
    sample: Sample,
    cutouts: Cutouts,
    get: Callable[[int, int], CutObject],
    rng: np.random.Generator,
) -> Sample:
    """Paste objects where they cover little of others.

    Args:
        sample: it stays unchanged.
        cutouts: what may be pasted, see `collect`.
        get: returns an object, by number of the image and number in the data set.
        rng: source of chance.
    """
    if not len(cutouts):
        return sample
    height, width = sample.image.shape[:2]
    image, boxes = sample.image.copy(), sample.boxes
    pasted, outlines, keypoints = [], [], []
    for fraction in PLACES:
        if rng.random() < SKIPPED:
            continue
        place = random_place(rng, fraction, height, width)
        x1, y1, x2, y2 = place
        if min(x2 - x1, y2 - y1) <= LEAST_PLACE or (covered(boxes, place) >= MOST_COVERED).any():
            continue
        i = int(rng.integers(len(cutouts)))
        window = cutouts.windows[i]
        cutout = get(int(cutouts.images[i]), int(cutouts.rows[i]))
        fitted = fit(window, place, cutout.outline)
        if fitted is None:
            continue
        mask, outline = fitted
        new_height, new_width = mask.shape
        paste_object(image, cutout.read(), window, mask, x1, y1)
        boxes = np.concatenate([boxes, [[x1, y1, x1 + new_width, y1 + new_height]]])
        pasted.append(cutout)
        if sample.polygons is not None:
            outline = outline.cut(new_width, new_height)
            outlines.append(outline.map(functools.partial(np.add, (x1, y1))))
        if sample.keypoints is not None and cutout.keypoints is not None:
            size = new_width, new_height
            points = fit_points(cutout.keypoints, window, size)
            keypoints.append(map_keypoints(points, functools.partial(np.add, (x1, y1))))
    if not pasted:
        return sample
    labels = np.array([x.label for x in pasted], dtype=np.int64)
    identities = np.array([x.identity for x in pasted], dtype=np.int64)
    return replace(
        sample,
        image=image,
        boxes=boxes,
        labels=np.concatenate([sample.labels, labels]),
        identities=np.concatenate([sample.identities, identities]),
        polygons=(None if sample.polygons is None else Polygons.join([sample.polygons, *outlines])),
        keypoints=(
            None
            if sample.keypoints is None
            else np.concatenate([sample.keypoints, *keypoints], dtype=np.float32)
        ),
    )
