"""A generated detection data set in the COCO format, to try the project without a download.

Four classes differ in shape and texture: ring, triangle, cross and striped box. Each has a range of
hues in which its first colour lies, which helps to tell them apart; but plain discs and boxes of
any colour, and lines, stand in the background without a label, so that shape has to be seen.
Rotation, aspect ratio and size are random; objects cover each other and are cut by the image
border; brightness, contrast, blur and noise vary.

Ground truth, as in COCO, describes what can be seen: the mask of an object is its pixels inside the
image that nothing drawn later covers. The box ``[x, y, w, h]`` is tight to it, in pixels with
``w = x_max + 1 - x_min``, the area is its number of pixels, and polygons run along its border.
Every object that is drawn is
annotated: a place is refused if it leaves any object less than half visible. Category ids have
gaps, so that a mapping of ids is needed.

Pictures are JPEG files of quality 95, which keeps the folder small.

    python -m yolor_d2.toy datasets/toy --train 400 --val 100 --seed 0

With ``--keypoints`` triangles and crosses have three keypoints: their tip, which wears the second
colour, and their left and right end, seen from the middle towards the tip; and they stand upright,
as most people do, turned by UPRIGHT to either side at most. Rings and boxes have none.

With ``--identities I`` objects are no longer of any colour: there are I individuals, each of one
class with two colours and a pattern of its own, who are seen again and again in both splits. Each
annotation then names its individual, 0 to I - 1, under "instance_id".
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator

logger = logging.getLogger(__name__)

VERSION = 1  # raise it when the pictures change, so that older folders are not reused
MIN_DIAMETER = 34.0  # pixels, of the circle around an object
MAX_DIAMETER_FRACTION = 0.75  # of the shorter image side; a box has 0.7 of it
MIN_VISIBLE_FRACTION = 0.5
MIN_VISIBLE_SIDE = 6  # pixels, of the box
EMPTY_EVERY = 12  # one image in twelve, 8 %, has no object
OBJECTS = (4, 10)  # fewest and most in any other image
CROWD_VAL_IMAGES = (1, 3)  # indices of the val images that hold an iscrowd region
FIRST_IMAGE_ID = {"train": 1, "val": 100001}
HUE_SPREAD = 30.0  # degrees, to both sides of a class's hue
SUPERSAMPLING = 3  # samples per pixel and axis at the edges of a shape
# Polygons lie within so many pixels of the border of a mask, which is looked at in steps of this
# fraction of a pixel.
OUTLINE_TOLERANCE, OUTLINE_STEPS = 0.8, 4

Array = np.ndarray
Size = tuple[int, int]  # (H, W) in pixels
Point = tuple[float, float]  # (x, y) in pixels
# A shape takes coordinates (u, v), scaled so that the unit circle surrounds it, and returns
# (inside, tone): inside is bool, tone in [0, 1] mixes the two colours of the object.
Shape = Callable[[Array, Array], tuple[Array, Array]]
BOX_HALF_SIDE = 0.7  # 0.7 * sqrt(2) < 1, the corners stay inside the unit circle


def _shade(u: Array) -> Array:
    return 0.25 + 0.25 * u  # a gentle gradient, at most half way to the second colour


def _inside_box(u: Array, v: Array) -> Array:
    return np.maximum(np.abs(u), np.abs(v)) <= BOX_HALF_SIDE


def _ring(u: Array, v: Array) -> tuple[Array, Array]:
    radius_squared = u * u + v * v
    return (radius_squared <= 1.0) & (radius_squared >= 0.55**2), _shade(u)


def _triangle(u: Array, v: Array) -> tuple[Array, Array]:
    return (v <= 0.5) & (np.sqrt(3.0) * np.abs(u) <= v + 1.0), _shade(u)


def _cross(u: Array, v: Array) -> tuple[Array, Array]:
    short, long = np.minimum(np.abs(u), np.abs(v)), np.maximum(np.abs(u), np.abs(v))
    return (short <= 0.27) & (long <= 0.96), _shade(u)


def _striped_box(u: Array, v: Array) -> tuple[Array, Array]:
    stripe = np.floor((u / BOX_HALF_SIDE + 1.0) * 2.5)  # five stripes
    return _inside_box(u, v), stripe % 2


def _disc(u: Array, v: Array) -> tuple[Array, Array]:
    return u * u + v * v <= 1.0, _shade(u)


def _box(u: Array, v: Array) -> tuple[Array, Array]:
    return _inside_box(u, v), _shade(u)


@dataclass(frozen=True)
class Category:
    """One class: its COCO id, name, shape, and the middle of its hues in degrees."""

    id: int
    name: str
    shape: Shape
    hue: float


# Keypoints of an object, and lines between them as COCO's skeletons have them, from 1.
KEYPOINT_NAMES = ("tip", "left_end", "right_end")
SKELETON = ((1, 2), (1, 3), (2, 3))
# Keypoints (u, v) of classes that have some, by name of the class, and the v below which such an
# object has its second colour.
KEYPOINTS: dict[str, tuple[Point, ...]] = {
    "triangle": ((0.0, -1.0), (-np.sqrt(0.75), 0.5), (np.sqrt(0.75), 0.5)),
    "cross": ((0.0, -0.96), (-0.96, 0.0), (0.96, 0.0)),
}
TIP = -0.3
UPRIGHT = np.deg2rad(40.0)
# Whether a keypoint is covered is seen at this part of the way to it from the middle: the outermost
# pixels of an end are hardly its own.
INNER = 0.9

CATEGORIES = (
    Category(2, "ring", _ring, 0.0),
    Category(5, "triangle", _triangle, 72.0),
    Category(7, "cross", _cross, 144.0),
    Category(11, "striped_box", _striped_box, 216.0),
)
DISTRACTORS: tuple[Shape, ...] = (_disc, _box)
# Bands from the first to the second colour across an individual; 0 is the class's own shading.
BANDS = (0, 2, 3, 5)


@dataclass(frozen=True)
class Individual:
    """One individual: its number, class, two BGR colours, and bands along one of its axes."""

    id: int
    category: Category
    first: Array
    second: Array
    bands: int
    axis: int

    def shape(self, u: Array, v: Array) -> tuple[Array, Array]:
        """The class's shape with this individual's pattern."""
        inside, tone = self.category.shape(u, v)
        if self.bands:
            tone = np.floor(((u, v)[self.axis] + 1.0) / 2.0 * self.bands * 2) % 2
        return inside, tone + np.zeros_like(u + v)


def with_tip(shape: Shape) -> Shape:
    """A shape whose tip has the second colour, so that it is not taken for another end."""

    def marked(u: Array, v: Array) -> tuple[Array, Array]:
        inside, tone = shape(u, v)
        return inside, np.where(v < TIP, np.float32(1.0), tone)

    return marked


@dataclass(frozen=True)
class ToyDataset:
    """Where a data set lies. ``classes`` are in the order of rising category id."""

    root: Path
    train_json: Path
    train_images: Path
    val_json: Path
    val_images: Path
    classes: tuple[str, ...]


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


@dataclass(frozen=True)
class Stamp:
    """A shape on the pixel grid: (S, S) float32 ``coverage`` and ``tone``, both in [0, 1]."""

    coverage: Array
    tone: Array
    centre: Point

    @property
    def full_area(self) -> int:
        """Number of pixels covered by half or more, inside the image or not."""
        return int((self.coverage >= 0.5).sum())

    def place(self, size: Size) -> tuple[Array, Array]:
        """Return coverage and tone on an image of ``size`` (H, W); what lies outside is cut."""
        side = self.coverage.shape[0]
        left, top = (int(np.floor(c)) - side // 2 for c in self.centre)
        y0, x0 = max(top, 0), max(left, 0)
        y1, x1 = min(top + side, size[0]), min(left + side, size[1])
        coverage, tone = np.zeros(size, np.float32), np.zeros(size, np.float32)
        if x0 < x1 and y0 < y1:
            source = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
            coverage[y0:y1, x0:x1], tone[y0:y1, x0:x1] = self.coverage[source], self.tone[source]
        return coverage, tone


def render_stamp(
    shape: Shape, diameter: float, aspect: float, angle: float, centre: Point
) -> Stamp:
    """Sample a shape on the pixel grid.

    Args:
        shape: what to draw.
        diameter: of the circle around it, in pixels.
        aspect: factor on its second axis before the rotation, in (0, 1].
        angle: rotation in radians.
        centre: (x, y) in pixels; may lie outside the image.
    """
    side = 2 * (int(np.ceil(diameter / 2)) + 1)  # room for the fraction of the centre
    samples = (np.arange(side * SUPERSAMPLING, dtype=np.float32) + 0.5) / SUPERSAMPLING - side // 2
    x, y = ((samples - c % 1.0) * np.float32(2.0 / diameter) for c in centre)
    x, y = x[None, :], y[:, None]
    u = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    v = (y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))) / np.float32(aspect)
    coverage, tone = (
        cv2.resize(a.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
        for a in shape(u, v)
    )
    return Stamp(coverage, np.clip(tone, 0.0, 1.0), centre)


def pose_points(
    points: Sequence[Point], diameter: float, aspect: float, angle: float, centre: Point
) -> Array:
    """(K, 2) places in pixels of points (u, v) of a shape, see `render_stamp`."""
    u, v = np.array(points).T
    v = v * aspect
    cosine, sine = np.cos(angle), np.sin(angle)
    turned = np.stack([u * cosine - v * sine, u * sine + v * cosine], axis=1)
    return np.array(centre) + diameter / 2 * turned


def tight_box(mask: Array) -> list[float]:
    """Return the box [x, y, w, h] of the true pixels of an (H, W) mask; zeros if there are none."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if columns.size == 0:
        return [0.0, 0.0, 0.0, 0.0]
    x0, y0, x1, y1 = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return [float(x0), float(y0), float(x1 - x0), float(y1 - y0)]


def trace(mask: Array) -> list[list[float]]:
    """Return polygons [x1, y1, x2, y2, ...] in pixels around the true pixels of an (H, W) mask.

    A hole becomes part of the polygon around it, by a way to it and back.
    """
    x0, y0, w, h = (int(c) for c in tight_box(mask))
    window = mask[y0 : y0 + h, x0 : x0 + w].astype(np.uint8)
    fine = window.repeat(OUTLINE_STEPS, axis=0).repeat(OUTLINE_STEPS, axis=1)
    outlines, tree = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    tolerance = OUTLINE_TOLERANCE * OUTLINE_STEPS
    outlines = [cv2.approxPolyDP(x, tolerance, True)[:, 0] for x in outlines]
    # OpenCV's contours go through the centres of the pixels at the border.
    outlines = [(x + 0.5) / OUTLINE_STEPS + (x0, y0) for x in outlines]
    polygons = []
    for outline, (_, _, hole, parent) in zip(outlines, tree[0] if len(outlines) else []):
        if parent >= 0 or len(outline) < 3:
            continue
        while hole >= 0:
            if len(outlines[hole]) >= 3:
                outline = _join_hole(outline, outlines[hole])
            hole = tree[0][hole][0]
        polygons.append(outline.round(2).ravel().tolist())
    return polygons


def _join_hole(outline: Array, hole: Array) -> Array:
    """Return one polygon from an (N, 2) polygon and an (M, 2) hole, joined where they are near."""
    distances = ((outline[:, None] - hole[None]) ** 2).sum(axis=2)
    i, j = np.unravel_index(distances.argmin(), distances.shape)
    return np.concatenate([outline[: i + 1], hole[j:], hole[: j + 1], outline[i:]])


def encode_rle(mask: Array) -> dict[str, list[int]]:
    """Encode an (H, W) mask as COCO's uncompressed run lengths: column by column, zeros first."""
    # A zero in front, so that the first run is one of zeros; edges count without it.
    pixels = np.concatenate([[False], mask.ravel(order="F")])
    edges = np.flatnonzero(pixels[1:] != pixels[:-1])
    counts = np.diff(np.concatenate([[0], edges, [mask.size]]))
    return {"size": list(mask.shape), "counts": counts.tolist()}


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


def _annotation(
    annotation_id: int, image_id: int, scene_object: SceneObject, keypoints: bool
) -> dict:
    annotation = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": scene_object.category.id,
        "bbox": tight_box(scene_object.mask),
        "area": float(scene_object.mask.sum()),
        "iscrowd": int(scene_object.is_crowd),
    }
    if scene_object.individual is not None:
        annotation["instance_id"] = scene_object.individual
    if keypoints:
        # COCO's own tools expect them of every object.
        points = scene_object.keypoints
        points = np.zeros((len(KEYPOINT_NAMES), 3)) if points is None else points.copy()
        known = points[:, 2] > 0
        points[known, :2] -= 0.5  # numbers of pixels, as COCO has them
        annotation["keypoints"] = points.round(2).ravel().tolist()
        annotation["num_keypoints"] = int(known.sum())
    if scene_object.is_crowd:
        annotation["segmentation"] = encode_rle(scene_object.mask)
    elif polygons := trace(scene_object.mask):
        annotation["segmentation"] = polygons
    return annotation


def _category(category: Category, keypoints: bool) -> dict:
    entry = {"id": category.id, "name": category.name, "supercategory": "shape"}
    if keypoints and category.name in KEYPOINTS:
        entry["keypoints"] = list(KEYPOINT_NAMES)
        entry["skeleton"] = [list(line) for line in SKELETON]
    return entry


def _write_safely(path: Path, content: bytes) -> None:
    """Write under another name, then rename: whoever reads the file finds all of it or nothing."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _write_split(json_path: Path, folder: Path, split: str, num_images: int, info: dict) -> None:
    """Write the pictures of one split, then its JSON file."""
    parameters = info["parameters"]
    folder.mkdir(parents=True, exist_ok=True)
    individuals = make_individuals(parameters["seed"], parameters.get("identities", 0))
    images, annotations = [], []
    keypoints = parameters.get("keypoints", False)
    for index in range(num_images):
        # A generator for each image: image i is the same however many there are.
        rng = np.random.default_rng([parameters["seed"], FIRST_IMAGE_ID[split], index])
        is_empty = index % EMPTY_EVERY == EMPTY_EVERY // 2
        low, high = parameters.get("objects", OBJECTS)
        num_objects = 0 if is_empty else int(rng.integers(low, high + 1))
        with_crowd = split == "val" and index in CROWD_VAL_IMAGES
        picture, objects = make_scene(
            rng,
            parameters["image_size"],
            num_objects=num_objects,
            with_crowd=with_crowd,
            individuals=individuals,
            keypoints=keypoints,
        )
        image_id = FIRST_IMAGE_ID[split] + index
        file_name = f"{image_id:06d}.jpg"
        _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])
        _write_safely(folder / file_name, encoded.tobytes())
        height, width = picture.shape[:2]
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        for scene_object in objects:
            number = len(annotations) + 1
            annotations.append(_annotation(number, image_id, scene_object, keypoints))
    content = {
        "info": info,
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [_category(c, keypoints) for c in CATEGORIES],
    }
    _write_safely(json_path, json.dumps(content).encode())


def _is_complete(json_path: Path, folder: Path, info: dict) -> bool:
    """Say whether a split is complete.

    Raises:
        FileExistsError: the JSON file is another data set, which must not be overwritten unasked.
    """
    if not json_path.exists():
        return False
    try:
        content = json.loads(json_path.read_bytes())
    except ValueError:
        logger.warning("%s is not valid JSON; the data set is written anew", json_path)
        return False
    written = content.get("info") if isinstance(content, dict) else None
    if written != info:
        raise FileExistsError(
            f"{json_path} holds another data set: its info is {written}, wanted is {info}; "
            "choose another folder or force"
        )
    return all((folder / image["file_name"]).is_file() for image in content["images"])


def write_toy_dataset(
    root: str | Path,
    *,
    num_train: int = 400,
    num_val: int = 100,
    image_size: Size = (256, 320),
    seed: int = 0,
    identities: int = 0,
    keypoints: bool = False,
    objects: tuple[int, int] = OBJECTS,
    force: bool = False,
) -> ToyDataset:
    """Write the data set, or find it already written.

    A complete data set of the same parameters is kept as it is, an incomplete one is written anew.

    Args:
        root: folder that receives instances_train.json, instances_val.json, train/ and val/.
        num_train: number of training images, at least 1.
        num_val: number of validation images, at least 1.
        image_size: largest (H, W) in pixels, at least 96 each; see ``make_scene``.
        seed: equal seeds give equal bytes, >= 0.
        identities: individuals that are seen again and again, see the module; 0 for none.
        keypoints: whether triangles and crosses have keypoints, see the module.
        objects: fewest and most objects of an image that is not empty, at least 1. With few of
            them, images differ in which classes they show.
        force: write even if a data set is there, also one of other parameters.

    Raises:
        ValueError: a number is out of range.
        FileExistsError: ``root`` holds a data set of other parameters and ``force`` is False.
    """
    if min(num_train, num_val) < 1 or seed < 0 or len(image_size) != 2 or min(image_size) < 96:
        raise ValueError(
            "need num_train >= 1, num_val >= 1, seed >= 0 and image_size of two sides >= 96; "
            f"got {num_train=}, {num_val=}, {seed=}, {image_size=}"
        )
    if identities < 0 or len(objects) != 2 or not 1 <= objects[0] <= objects[1]:
        raise ValueError(
            "need identities >= 0 and objects of two numbers, 1 <= fewest <= most; "
            f"got {identities=}, {objects=}"
        )
    root = Path(root)
    classes = tuple(category.name for category in CATEGORIES)
    toy = ToyDataset(
        root,
        root / "instances_train.json",
        root / "train",
        root / "instances_val.json",
        root / "val",
        classes,
    )
    parameters = {
        "num_train": num_train,
        "num_val": num_val,
        "image_size": list(image_size),
        "seed": seed,
    }
    if identities:
        parameters["identities"] = identities
    if keypoints:
        parameters["keypoints"] = True
    if tuple(objects) != OBJECTS:
        parameters["objects"] = list(objects)
    info = {
        "description": "yolor_d2 toy data set",
        "version": str(VERSION),
        "parameters": parameters,
    }
    splits = [
        (toy.train_json, toy.train_images, "train", num_train),
        (toy.val_json, toy.val_images, "val", num_val),
    ]
    if not force and all([_is_complete(path, folder, info) for path, folder, _, _ in splits]):
        return toy
    for json_path, _, _, _ in splits:
        json_path.unlink(missing_ok=True)  # never an old list beside new pictures
    for json_path, folder, split, num_images in splits:
        _write_split(json_path, folder, split, num_images, info)
    return toy


def main(arguments: list[str] | None = None) -> None:
    """Write a toy data set from the command line."""
    parser = argparse.ArgumentParser(
        description="Write a generated detection data set in the COCO format."
    )
    parser.add_argument("out", type=Path, help="folder of the data set")
    parser.add_argument("--train", type=int, default=400, help="number of training images")
    parser.add_argument("--val", type=int, default=100, help="number of validation images")
    parser.add_argument("--seed", type=int, default=0, help="equal seeds give equal data sets")
    parser.add_argument(
        "--identities", type=int, default=0, help="individuals that recur, with their instance_id"
    )
    parser.add_argument(
        "--keypoints", action="store_true", help="three keypoints of triangles and crosses"
    )
    parser.add_argument(
        "--objects",
        type=int,
        nargs=2,
        default=OBJECTS,
        metavar=("FEWEST", "MOST"),
        help="objects of an image",
    )
    parser.add_argument("--force", action="store_true", help="overwrite a data set that is there")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    toy = write_toy_dataset(
        options.out,
        num_train=options.train,
        num_val=options.val,
        seed=options.seed,
        identities=options.identities,
        keypoints=options.keypoints,
        objects=tuple(options.objects),
        force=options.force,
    )
    logger.info(
        "%s: %d train and %d val images, classes %s",
        toy.root,
        options.train,
        options.val,
        toy.classes,
    )
