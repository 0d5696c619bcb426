"""Classes and individuals of the toy data, and how their shapes are sampled on the pixel grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

SUPERSAMPLING = 3  # samples per pixel and axis at the edges of a shape

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

CATEGORIES = (
    Category(2, "ring", _ring, 0.0),
    Category(5, "triangle", _triangle, 72.0),
    Category(7, "cross", _cross, 144.0),
    Category(11, "striped_box", _striped_box, 216.0),
)
DISTRACTORS: tuple[Shape, ...] = (_disc, _box)


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
