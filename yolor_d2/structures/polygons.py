"""Outlines of objects: the polygons of a whole data set, or of one sample, in flat arrays."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .run_lengths import polygons_of

# Coordinates of a polygon of three points, the fewest that enclose anything.
LEAST_COORDINATES = 6
# Polygons that are copied at a time, so that their indices take little memory.
CHUNK = 2**16
# What is said of them in a message.
MALFORMED = (
    "%s without polygons, as 'segmentation' is neither polygons nor run lengths of the image's size"
)


@dataclass(frozen=True)
class Polygons:
    """Polygons of M objects. An object has several where something divides it, or none.

    Coordinates are continuous, as in `augment`. A point is inside an object if it is inside any of
    its polygons. Arrays of all objects, instead of an object each, are what forked processes share.

    Attributes:
        points: (P, 2) float32 x and y in pixels, polygon after polygon, at least three each.
        ends: (G,) int64, where the points of each polygon end.
        parts: (M,) int64, where the polygons of each object end.
    """

    points: np.ndarray
    ends: np.ndarray
    parts: np.ndarray

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> list[np.ndarray]:
        """The polygons of one object, (n, 2) each."""
        one = self.rows(index, index + 1)
        return [part for part in np.split(one.points, one.ends[:-1]) if len(part)]

    def as_lists(self) -> list[list[np.ndarray]]:
        """The polygons of each object as x1, y1, x2, y2, ..., float64, as Detectron2 has them."""
        values = self.points.astype(np.float64).ravel()
        ends = (2 * self.ends).tolist()
        parts = [values[start:end] for start, end in zip([0, *ends], ends)]
        places = self.parts.tolist()
        return [parts[start:end] for start, end in zip([0, *places], places)]

    @classmethod
    def empty(cls, count: int) -> Polygons:
        """Objects without polygons."""
        parts = np.zeros(count, dtype=np.int64)
        return cls(np.zeros((0, 2), dtype=np.float32), np.zeros(0, dtype=np.int64), parts)

    @classmethod
    def join(cls, parts: Sequence[Polygons]) -> Polygons:
        """All objects of several."""
        if len(parts) == 1:
            return parts[0]
        points = np.concatenate([x.points for x in parts])
        return cls(points, join_ends([x.ends for x in parts]), join_ends([x.parts for x in parts]))

    def rows(self, start: int, stop: int) -> Polygons:
        """The objects from `start` to before `stop`, without a copy of their points."""
        first, last = start_of(self.parts, start), start_of(self.parts, stop)
        begin, end = start_of(self.ends, first), start_of(self.ends, last)
        return Polygons(
            self.points[begin:end], self.ends[first:last] - begin, self.parts[start:stop] - first
        )

    def take(self, objects: np.ndarray) -> Polygons:
        """Some objects, in the order given.

        Args:
            objects: their places, or (M,) bool.
        """
        chosen, parts = gather(self.parts, np.arange(len(self))[objects])
        counts = np.diff(self.ends, prepend=0)[chosen]
        ends = np.cumsum(counts, dtype=np.int64)
        points = np.empty((counts.sum(), 2), dtype=np.float32)
        for i in range(0, len(chosen), CHUNK):
            rows, _ = gather(self.ends, chosen[i : i + CHUNK])
            begin = start_of(ends, i)
            points[begin : begin + len(rows)] = self.points[rows]
        return Polygons(points, ends, parts)

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> Polygons:
        """The same with other points; `function` takes and gives (P, 2)."""
        return Polygons(function(self.points).astype(np.float32), self.ends, self.parts)

    @property
    def counts(self) -> np.ndarray:
        """(M,) int64 polygons of each object."""
        return np.diff(self.parts, prepend=0)

    def bounds(self) -> np.ndarray:
        """(M, 4) float64 xyxy around each object; NaN around one that has no polygon."""
        bounds = np.full((len(self), 4), np.nan)
        known = self.counts > 0
        if known.any():
            low, high = self.extremes()
            starts = (self.parts - self.counts)[known]
            bounds[known, :2] = np.minimum.reduceat(low, starts)
            bounds[known, 2:] = np.maximum.reduceat(high, starts)
        return bounds

    def extremes(self) -> tuple[np.ndarray, np.ndarray]:
        """(G, 2) least and greatest x and y of each polygon, of which there must be some."""
        starts = self.ends - np.diff(self.ends, prepend=0)
        return np.minimum.reduceat(self.points, starts), np.maximum.reduceat(self.points, starts)

    def cut(self, width: np.ndarray | float, height: np.ndarray | float) -> Polygons:
        """What is inside images; a polygon of which nothing is left is left out.

        Where a border divides a polygon, the pieces stay one, joined along the border.

        Args:
            width, height: of the image of each object, (M,), or of one image, in pixels.
        """
        if not len(self.ends):
            return self
        sides = np.broadcast_to(np.stack([width, height], axis=-1), (len(self), 2))
        limits = np.repeat(sides, self.counts, axis=0).astype(np.float32)
        low, high = self.extremes()
        beyond = np.flatnonzero(((low < 0) | (high > limits)).any(axis=1))
        if not len(beyond):
            return self
        rows, ends = gather(self.ends, beyond)
        points, left, limits = self.points[rows], beyond, limits[beyond]
        for axis in (0, 1):
            for is_far in (False, True):
                if not len(ends):
                    break
                far = np.repeat(limits[:, axis], np.diff(ends, prepend=0))
                distances = far - points[:, axis] if is_far else points[:, axis]
                points, ends = cut_half_plane(points, ends, distances)
                kept = np.diff(ends, prepend=0) > 0
                ends, left, limits = ends[kept], left[kept], limits[kept]
        # Points on a border are rounded.
        points = points.clip(0, np.repeat(limits, np.diff(ends, prepend=0), axis=0))
        # In the places of those that were cut.
        places = np.arange(len(self.ends))
        places[left] = len(places) + np.arange(len(left))
        kept = np.ones(len(self.ends), dtype=bool)
        kept[beyond] = False
        kept[left] = True
        rows, new_ends = gather(join_ends([self.ends, ends]), places[kept])
        parts = np.concatenate([[0], np.cumsum(kept)])[self.parts]
        return Polygons(np.concatenate([self.points, points])[rows], new_ends, parts)

    def mask(self, index: int, height: int, width: int) -> np.ndarray:
        """(height, width) bool pixels of one object, as COCO's own tools have them."""
        # It imports what few need, evaluation and all.
        from faster_coco_eval.core import mask as coco_mask

        outlines = [part.ravel().astype(np.float64).tolist() for part in self[index]]
        if not outlines:
            return np.zeros((height, width), dtype=bool)
        encoded = coco_mask.frPyObjects(outlines, height, width)
        return coco_mask.decode(coco_mask.merge(encoded)).astype(bool)


def join_polygons(parts: Sequence[tuple[Polygons | None, int]]) -> Polygons | None:
    """Polygons of several groups of objects; None if no group has any.

    Args:
        parts: of each group polygons, if it has some, and the number of objects.
    """
    if all(polygons is None for polygons, _ in parts):
        return None
    return Polygons.join([Polygons.empty(count) if x is None else x for x, count in parts])


def start_of(ends: np.ndarray, index: int) -> int:
    """Where an entry begins of which `ends` says where it ends."""
    return int(ends[index - 1]) if index else 0


def join_ends(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Ends of entries that come one after the other, from those of each list alone."""
    return np.cumsum(np.concatenate([np.diff(x, prepend=0) for x in parts]), dtype=np.int64)


def gather(ends: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of some entries of varying length.

    Args:
        ends: (N,) where the rows of each entry end.
        chosen: (K,) entries.

    Returns:
        The rows of the chosen entries, one entry after the other, and (K,) where each ends there.
    """
    counts = np.diff(ends, prepend=0)[chosen]
    new_ends = np.cumsum(counts, dtype=np.int64)
    rows = np.arange(counts.sum()) + np.repeat(ends[chosen] - new_ends, counts)
    return rows, new_ends


def cut_half_plane(
    points: np.ndarray, ends: np.ndarray, distances: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The part of polygons on one side of a line (Sutherland and Hodgman, 1974).

    Args:
        points: (P, 2), of polygons that have some.
        ends: (G,) where the points of each polygon end.
        distances: (P,) of the points from the line, not below 0 on the side that stays.

    Returns:
        Points and ends of what is left, nothing of a polygon that lies on the other side.
    """
    following = np.arange(1, len(points) + 1)
    following[ends - 1] = ends - np.diff(ends, prepend=0)
    inside = distances >= 0
    crossing = np.flatnonzero(inside != inside[following])
    counts = inside.astype(np.int64)
    counts[crossing] += 1
    starts = np.cumsum(counts) - counts
    clipped = np.empty((counts.sum(), 2), dtype=np.float32)
    clipped[starts[inside]] = points[inside]
    near, far = distances[crossing], distances[following[crossing]]
    fraction = (near / (near - far))[:, None]
    met = points[crossing] + fraction * (points[following[crossing]] - points[crossing])
    clipped[starts[crossing] + inside[crossing]] = met
    return clipped, np.cumsum(counts, dtype=np.int64)[ends - 1]


class PolygonList:
    """Polygons in the making, an object at a time.

    Attributes:
        malformed: objects whose outline is neither polygons nor run lengths of their image's size.
    """

    def __init__(self):
        self.coordinates = array("f")
        self.ends = array("q")
        self.parts = array("q")
        self.malformed = 0

    def add(self, shape: object, size: tuple[int, int] | None = None) -> None:
        """Append an object.

        Args:
            shape: its "segmentation" in COCO's form, lists of x1, y1, x2, y2, ... or run lengths.
                Lists of fewer than three points are left out; None gives no polygon.
            size: height and width of its image, which run lengths have to have; None takes any.
        """
        if isinstance(shape, list | tuple):
            before = len(self.ends)
            for outline in shape:
                self._add_outline(outline)
            self.malformed += bool(shape) and len(self.ends) == before
        elif isinstance(shape, dict):
            try:
                outlines = polygons_of(shape, size)
            except ValueError:
                self.malformed += 1
            else:
                for outline in outlines:
                    self._add_outline(outline.ravel())
        else:
            self.malformed += shape is not None
        self.parts.append(len(self.ends))

    def _add_outline(self, outline: object) -> None:
        usable = isinstance(outline, list | tuple | np.ndarray)
        if not usable or len(outline) < LEAST_COORDINATES or len(outline) % 2:
            return
        before = len(self.coordinates)
        try:
            self.coordinates.extend(outline)
        except (TypeError, OverflowError):  # some are no numbers
            del self.coordinates[before:]
            return
        self.ends.append(len(self.coordinates) // 2)

    def finish(self) -> Polygons:
        """All of them, without polygons that have a point nowhere, which count as malformed."""
        points = np.frombuffer(self.coordinates, dtype=np.float32).reshape(-1, 2)
        ends = np.array(self.ends, dtype=np.int64)
        polygons = Polygons(points, ends, np.array(self.parts, dtype=np.int64))
        finite = np.isfinite(points).all(axis=1)
        if finite.all():
            return polygons
        known = np.logical_and.reduceat(finite, ends - np.diff(ends, prepend=0))
        rows, new_ends = gather(ends, np.flatnonzero(known))
        parts = np.concatenate([[0], np.cumsum(known)])[polygons.parts]
        self.malformed += int((np.diff(parts, prepend=0) < polygons.counts).sum())
        return Polygons(points[rows], new_ends, parts)


def next_points(ends: np.ndarray) -> np.ndarray:
    """(P,) by point the one after it on its polygon, the first one after the last."""
    following = np.arange(1, ends[-1] + 1)
    following[ends - 1] = ends - np.diff(ends, prepend=0)
    return following


def signed_areas(points: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(G,) areas of polygons, negative of those that turn the other way.

    Args:
        points: (P, 2) float64, of at least one polygon.
        ends: (G,) where the points of each polygon end.
    """
    counts = np.diff(ends, prepend=0)
    starts = ends - counts
    # From the first point, as the difference of large products is rounded.
    x, y = (points - np.repeat(points[starts], counts, axis=0)).T
    following = next_points(ends)
    return np.add.reduceat(x * y[following] - x[following] * y, starts) / 2
