"""Pictures of the toy data: objects, crowds and distractors drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.random import Generator

from .masks import tight_box
from .shapes import (
    CATEGORIES,
    DISTRACTORS,
    KEYPOINTS,
    Array,
    Category,
    Individual,
    Point,
    Size,
    Stamp,
    pose_points,
    render_stamp,
    with_tip,
)

MIN_DIAMETER = 34.0  # pixels, of the circle around an object
MAX_DIAMETER_FRACTION = 0.75  # of the shorter image side; a box has 0.7 of it
MIN_VISIBLE_FRACTION = 0.5
MIN_VISIBLE_SIDE = 6  # pixels, of the box
HUE_SPREAD = 30.0  # degrees, to both sides of a class's hue
UPRIGHT = np.deg2rad(40.0)
# Whether a keypoint is covered is seen at this part of the way to it from the middle: the outermost
# pixels of an end are hardly its own.
INNER = 0.9

# Bands from the first to the second colour across an individual; 0 is the class's own shading.
BANDS = (0, 2, 3, 5)


@dataclass
class SceneObject:
    """An annotated object: visible pixels, (H, W) bool, and full area, hidden pixels included."""

    category: Category
    mask: Array
    full_area: int
    is_crowd: bool = False
    individual: int | None = None
    keypoints: Array | None = None  # (K, 3) x, y, visibility; x and y continuous
    inner: Array | None = None  # (K, 2) whole pixels (x, y) that tell whether they are covered

    def set_keypoints(self, pose: tuple[float, float, float], centre: Point) -> None:
        """Place the keypoints of its class, if it has some.

        Args:
            pose: diameter, aspect and angle, see `render_stamp`.
            centre: (x, y) in pixels.
        """
        if self.category.name not in KEYPOINTS:
            return
        points = pose_points(KEYPOINTS[self.category.name], *pose, centre)
        height, width = self.mask.shape
        inside = ((points >= 0) & (points <= (width, height))).all(axis=1)
        self.keypoints = np.concatenate([points, np.full((len(points), 1), 2.0)], axis=1)
        self.keypoints[~inside] = 0
        pixels = np.floor(np.array(centre) + INNER * (points - centre)).astype(int)
        self.inner = pixels.clip(0, (width - 1, height - 1))

    def hide_keypoints(self, mask: Array) -> None:
        """Mark those as hidden that something covers."""
        if self.keypoints is not None and self.inner is not None:
            x, y = self.inner.T
            self.keypoints[mask[y, x] & (self.keypoints[:, 2] > 0), 2] = 1

    def remains_visible(self, mask: Array) -> bool:
        """Say whether the object is still recognisable when only ``mask`` is left of it."""
        if mask.sum() < MIN_VISIBLE_FRACTION * self.full_area:
            return False
        return min(tight_box(mask)[2:]) >= MIN_VISIBLE_SIDE


@dataclass
class Scene:
    """A picture in the making: ``canvas`` is (H, W, 3) float32 BGR, 0 to 255."""

    canvas: Array
    objects: list[SceneObject] = field(default_factory=list)

    @property
    def size(self) -> Size:
        """(H, W) in pixels."""
        return self.canvas.shape[0], self.canvas.shape[1]


def _random_colours(rng: Generator, count: int, hue: float | None) -> Array:
    """Draw (count, 3) BGR colours: any, or strong ones within `HUE_SPREAD` of a hue in degrees."""
    if hue is None:
        return rng.uniform(0.0, 255.0, (count, 3))
    hues = (hue + rng.uniform(-HUE_SPREAD, HUE_SPREAD, count)) % 360.0
    hsv = np.stack([hues, rng.uniform(0.5, 1.0, count), rng.uniform(0.35, 1.0, count)], axis=-1)
    return cv2.cvtColor(hsv[None].astype(np.float32), cv2.COLOR_HSV2BGR)[0] * 255.0


def _distant_colour(rng: Generator, *others: Array, hue: float | None = None) -> Array:
    """Draw a BGR colour 150 or more away from the others, or the farthest of eight candidates."""
    candidates = _random_colours(rng, 8, hue)
    distances = np.min([np.linalg.norm(candidates - other, axis=1) for other in others], axis=0)
    far = np.flatnonzero(distances >= 150.0)
    return candidates[far[0] if far.size else distances.argmax()]


def _paint(
    rng: Generator, canvas: Array, coverage: Array, tone: Array, hue: float | None = None
) -> None:
    """Blend a shape into the canvas with two colours that stand out from what lies below.

    The first has the given hue, the second any; None leaves the choice to chance for both.
    """
    below = canvas[coverage >= 0.5].mean(axis=0)
    first = _distant_colour(rng, below, hue=hue)
    _blend(canvas, coverage, tone, first, _distant_colour(rng, below, first))


def _blend(canvas: Array, coverage: Array, tone: Array, first: Array, second: Array) -> None:
    """Blend a shape into the canvas with two BGR colours."""
    x0, y0, w, h = (int(c) for c in tight_box(coverage > 0.0))
    window = np.s_[y0 : y0 + h, x0 : x0 + w]
    alpha, mix = coverage[window][..., None], tone[window][..., None]
    paint = (first + (second - first) * mix).astype(np.float32)
    canvas[window] += alpha * (paint - canvas[window])


def _random_pose(rng: Generator, size: Size) -> tuple[float, float, float]:
    """Draw diameter (pixels), aspect and angle for an image of ``size``."""
    ratio = MAX_DIAMETER_FRACTION * min(size) / MIN_DIAMETER
    diameter = MIN_DIAMETER * ratio ** rng.random()
    return diameter, rng.uniform(0.65, 1.0), rng.uniform(0.0, 2.0 * np.pi)


def _random_centre(rng: Generator, size: Size) -> Point:
    return rng.uniform(0.0, size[1]), rng.uniform(0.0, size[0])


def _smooth_noise(rng: Generator, size: Size, cells: int, amplitude: float) -> Array:
    """Return (H, W, 3) float32 noise with about ``cells`` bumps a side and the given amplitude."""
    grid = rng.uniform(-amplitude, amplitude, (cells, cells, 3)).astype(np.float32)
    return cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC)


def _make_background(rng: Generator, size: Size) -> Array:
    """Return an (H, W, 3) float32 picture of blobs, grain, lines and unlabelled distractors."""
    base = rng.uniform(70.0, 185.0) + rng.uniform(-18.0, 18.0, 3)  # a grey with a tint
    canvas = np.full((*size, 3), base, np.float32)
    canvas += _smooth_noise(rng, size, 2, rng.uniform(0.0, 20.0))
    canvas += _smooth_noise(rng, size, int(rng.integers(4, 10)), rng.uniform(2.0, 14.0))
    canvas += _smooth_noise(rng, size, int(rng.integers(40, 90)), rng.uniform(0.0, 10.0))
    for _ in range(rng.integers(0, 5)):
        start, end = (tuple(int(c) for c in rng.uniform(0, size[::-1])) for _ in range(2))
        cv2.line(canvas, start, end, rng.uniform(0.0, 255.0, 3).tolist(), int(rng.integers(1, 4)))
    for _ in range(rng.integers(0, 2)):
        shape = DISTRACTORS[rng.integers(len(DISTRACTORS))]
        stamp = render_stamp(shape, *_random_pose(rng, size), _random_centre(rng, size))
        coverage, tone = stamp.place(size)
        if (coverage >= 0.5).any():
            _paint(rng, canvas, coverage, tone)
    return canvas


def _near_existing(rng: Generator, scene: Scene) -> Point:
    """Return a centre (x, y) at the rim of an object, so that the next one covers part of it."""
    x, y, w, h = tight_box(scene.objects[rng.integers(len(scene.objects))].mask)
    direction = rng.uniform(0.0, 2.0 * np.pi)
    return x + w / 2 * (1.0 + np.cos(direction)), y + h / 2 * (1.0 + np.sin(direction))


def add_object(
    rng: Generator,
    scene: Scene,
    category: Category,
    stamp: Stamp,
    individual: Individual | None = None,
    pose: tuple[float, float, float] | None = None,
) -> bool:
    """Draw an object unless it or one below it would be hardly visible; say whether it is drawn.

    It has keypoints if its pose is given.
    """
    coverage, tone = stamp.place(scene.size)
    mask = coverage >= 0.5
    new = SceneObject(category, mask, stamp.full_area)
    if individual is not None:
        new.individual = individual.id
    remaining = [other.mask & ~mask for other in scene.objects]
    if not new.remains_visible(mask):
        return False
    if not all(o.remains_visible(m) for o, m in zip(scene.objects, remaining, strict=True)):
        return False
    for other, other_mask in zip(scene.objects, remaining, strict=True):
        other.mask = other_mask
        other.hide_keypoints(mask)
    if pose is not None:
        new.set_keypoints(pose, stamp.centre)
    if individual is None:
        _paint(rng, scene.canvas, coverage, tone, category.hue)
    else:
        _blend(scene.canvas, coverage, tone, individual.first, individual.second)
    scene.objects.append(new)
    return True


def _add_crowd(rng: Generator, scene: Scene) -> None:
    """Draw a dense group of small objects of one class, annotated as one iscrowd region."""
    category = CATEGORIES[rng.integers(len(CATEGORIES))]
    rows, columns = 3, 5
    pitch = 11.0  # pixels from one to the next, about as much as their diameter
    free = np.array(scene.size[::-1]) - (columns * pitch, rows * pitch)
    corner = rng.random(2) * free
    mask = np.zeros(scene.size, bool)
    for row, column in np.ndindex(rows, columns):
        x, y = corner + (np.array([column, row]) + rng.uniform(0.3, 0.7, 2)) * pitch
        pose = rng.uniform(10.0, 14.0), 0.9, rng.uniform(0.0, 2.0 * np.pi)
        coverage, tone = render_stamp(category.shape, *pose, (x, y)).place(scene.size)
        _paint(rng, scene.canvas, coverage, tone, category.hue)
        mask |= coverage >= 0.5
    scene.objects.append(SceneObject(category, mask, int(mask.sum()), is_crowd=True))


def _degrade(rng: Generator, canvas: Array) -> Array:
    """Vary contrast, brightness, sharpness and noise; return an (H, W, 3) uint8 picture."""
    canvas = (canvas - 127.5) * rng.uniform(0.7, 1.1) + 127.5 + rng.uniform(-30.0, 30.0)
    if rng.random() < 0.5:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 1.0))
    canvas = canvas + rng.standard_normal(canvas.shape, np.float32) * rng.uniform(0.0, 8.0)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def make_individuals(seed: int, count: int) -> list[Individual]:
    """The individuals of a data set: classes take turns, looks are drawn once for all pictures.

    Hues of a class's individuals are spread evenly over its range, so that no two look the same.
    """
    rng = np.random.default_rng([seed, count])
    individuals = []
    for number in range(count):
        category = CATEGORIES[number % len(CATEGORIES)]
        place, members = number // len(CATEGORIES), -(-count // len(CATEGORIES))
        hue = category.hue + HUE_SPREAD * (2.0 * (place + 0.5) / members - 1.0)
        hsv = np.array([[[hue % 360.0, rng.uniform(0.7, 1.0), rng.uniform(0.6, 1.0)]]], np.float32)
        first = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0] * 255.0
        second = _distant_colour(rng, first)
        bands, axis = BANDS[rng.integers(len(BANDS))], int(rng.integers(2))
        individuals.append(Individual(number, category, first, second, bands, axis))
    return individuals


def make_scene(
    rng: Generator,
    image_size: Size,
    *,
    num_objects: int,
    with_crowd: bool = False,
    individuals: Sequence[Individual] = (),
    keypoints: bool = False,
) -> tuple[Array, list[SceneObject]]:
    """Draw one picture.

    Args:
        rng: source of all that is random.
        image_size: (H, W); sides are 75 % to 100 % of it, and half of the pictures are turned.
        num_objects: wanted number; fewer if no place is found in ten attempts each.
        with_crowd: adds an iscrowd region.
        individuals: the objects are some of these; without them they look like none other.
        keypoints: whether objects have some, and marked tips.

    Returns:
        (H, W, 3) uint8 BGR picture and its objects, in the order drawn.
    """
    size = tuple(round(side * rng.uniform(0.75, 1.0)) for side in image_size)
    size = size[::-1] if rng.random() < 0.5 else size
    scene = Scene(_make_background(rng, size))
    if with_crowd:
        _add_crowd(rng, scene)
    # An individual is in a picture once, as far as there are enough of them.
    cast = rng.permutation(len(individuals)) if individuals else []
    for index in range(num_objects):
        individual = individuals[cast[index % len(cast)]] if individuals else None
        if individual is not None:
            category, shape = individual.category, individual.shape
        else:
            category = CATEGORIES[rng.integers(len(CATEGORIES))]
            shape = category.shape
        if keypoints and category.name in KEYPOINTS:
            shape = with_tip(shape)
        pose = _random_pose(rng, size)
        if keypoints and category.name in KEYPOINTS:
            pose = (*pose[:2], (pose[2] / np.pi - 1) * UPRIGHT)
        for _ in range(10):
            overlap = scene.objects and rng.random() < 0.1
            centre = _near_existing(rng, scene) if overlap else _random_centre(rng, size)
            stamp = render_stamp(shape, *pose, centre)
            if add_object(rng, scene, category, stamp, individual, pose if keypoints else None):
                break
    return _degrade(rng, scene.canvas), scene.objects
