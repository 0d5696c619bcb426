"""Keypoints: named points of an object, of which one side's may be the mirror images of the
other's.

Everywhere (M, K, 3) float32: x and y, continuous as in `augment`, and visibility, 0 where a point
is not labelled, 1 where it is hidden, 2 where it is seen. A point of visibility 0 lies at (0, 0).
"""

from __future__ import annotations

import colorsys
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..files.values import is_whole, shorten

# What a visibility may be: not labelled, hidden, visible.
VISIBILITIES = (0, 1, 2)
# Key of a category, beside COCO's "keypoints" and "skeleton": pairs of names of points that a
# mirrored image exchanges. An empty list says that there are none.
FLIP_KEY = "flip_pairs"

# The visibility of points that are labelled and seen, the greatest there is.
SEEN = 2
# A side in a name: a word of its own, as in "left_eye", "eye_l" or "L-ear", or a part of one, as in
# "leftEye" or "eyeLeft".
SIDES = (
    re.compile(r"(?<![a-z0-9])(left|right|l|r)(?![a-z0-9])", re.IGNORECASE),
    re.compile(r"^(left|right)(?=[A-Z])|(?<=[a-z0-9])(Left|Right)$"),
)
OPPOSITES = {"left": "right", "right": "left", "l": "r", "r": "l"}


# ---- What a mirror exchanges


def opposite(name: str) -> str:
    """The name with its side exchanged; the same where it names none."""

    def exchange(match: re.Match) -> str:
        word = match[0]
        other = OPPOSITES[word.lower()]
        return other.upper() if word.isupper() else other.title() if word.istitle() else other

    for side in SIDES:
        name, count = side.subn(exchange, name)
        if count:
            break
    return name


def pairs_by_names(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ by their side alone, in the order of the first of each."""
    places = {name: i for i, name in enumerate(names)}
    pairs = [(name, opposite(name)) for name in names]
    return [(a, b) for a, b in pairs if places[a] < places.get(b, -1)]


def flip_order(names: Sequence[str], pairs: Sequence[Sequence[str]]) -> np.ndarray:
    """(K,) int64: what lies at place k of a mirrored object was at this place before.

    Args:
        names: K names.
        pairs: of names that a mirror exchanges.

    Raises:
        ValueError: when a pair has a name that there is not, or two pairs have the same one.
    """
    order, places = np.arange(len(names)), {name: i for i, name in enumerate(names)}
    seen = [name for pair in pairs for name in pair]
    unknown = sorted({name for name in seen if name not in places})
    if unknown:
        raise ValueError(f"keypoint_flip_map names {unknown}, keypoint_names has {list(names)}")
    if len(set(seen)) < len(seen) or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"keypoint_flip_map is {list(pairs)}, expected pairs, no name twice")
    for first, second in pairs:
        order[places[first]], order[places[second]] = places[second], places[first]
    return order


# ---- What the points of a data set are


@dataclass(frozen=True)
class KeypointLayout:
    """The points of a data set.

    Attributes:
        names: K names.
        connections: pairs of names between which a line is drawn.
        pairs: of names that a mirror exchanges.
    """

    names: tuple[str, ...]
    connections: tuple[tuple[str, str], ...]
    pairs: tuple[tuple[str, str], ...]

    @property
    def rules(self) -> list[tuple[str, str, tuple[int, int, int]]]:
        """The connections as Detectron2's metadata have them, each with a colour (RGB, 0-255)."""
        count = max(len(self.connections), 1)
        colours = [colorsys.hsv_to_rgb(i / count, 0.9, 1.0) for i in range(count)]
        colours = [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in colours]
        return [(*pair, colour) for pair, colour in zip(self.connections, colours)]


_PERSON = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow"),
    *("left_wrist", "right_wrist", "left_hip", "right_hip"),
    *("left_knee", "right_knee", "left_ankle", "right_ankle"),
)
# COCO's "person": what 17 points without names are taken for.
COCO_PERSON = KeypointLayout(
    _PERSON,
    (
        *(("left_ankle", "left_knee"), ("left_knee", "left_hip")),
        *(("right_ankle", "right_knee"), ("right_knee", "right_hip")),
        *(("left_hip", "right_hip"), ("left_shoulder", "left_hip")),
        *(("right_shoulder", "right_hip"), ("left_shoulder", "right_shoulder")),
        *(("left_shoulder", "left_elbow"), ("right_shoulder", "right_elbow")),
        *(("left_elbow", "left_wrist"), ("right_elbow", "right_wrist")),
        *(("left_eye", "right_eye"), ("nose", "left_eye"), ("nose", "right_eye")),
        *(("left_eye", "left_ear"), ("right_eye", "right_ear")),
        *(("left_ear", "left_shoulder"), ("right_ear", "right_shoulder")),
    ),
    tuple(pairs_by_names(_PERSON)),
)


# ---- Reading


def read_points(values: Any, count: int | None) -> np.ndarray:
    """(K, 3) float32 keypoints of one object.

    Args:
        values: x, y, visibility, x, y, ... in one list.
        count: K; None for any.

    Raises:
        ValueError: when they are no such numbers.
    """
    try:
        points = np.array(values, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise ValueError("'keypoints' that are no list of numbers") from error
    if len(points) % 3 or (count is not None and len(points) != 3 * count):
        expected = "three for each point" if count is None else f"{3 * count}, three for each"
        raise ValueError(f"{len(points)} numbers in 'keypoints', expected {expected}")
    points = points.reshape(-1, 3)
    if not np.isfinite(points).all():
        raise ValueError("'keypoints' that are not finite")
    if not np.isin(points[:, 2], (0, 1, SEEN)).all():
        wrong = points[~np.isin(points[:, 2], (0, 1, SEEN)), 2][0]
        raise ValueError(f"a keypoint of visibility {wrong:g}, expected 0, 1 or 2")
    points[points[:, 2] == 0] = 0
    return points.astype(np.float32)


# ---- Moving


def map_keypoints(
    keypoints: np.ndarray, function: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """The same with labelled points elsewhere; `function` takes and gives (P, 2)."""
    known = keypoints[..., 2] > 0
    moved = keypoints.copy()
    moved[known, :2] = function(keypoints[known][:, :2])
    return moved


def cut_keypoints(
    keypoints: np.ndarray, width: np.ndarray | float, height: np.ndarray | float
) -> np.ndarray:
    """The same, where points outside images are not labelled.

    Args:
        keypoints: (M, K, 3).
        width, height: of the image of each object, (M,), or of one image, in pixels.
    """
    sides = np.stack([width, height], axis=-1).astype(np.float32)
    sides = sides.reshape(-1, 1, 2)  # (M or 1, 1, 2)
    points = keypoints[..., :2]
    inside = ((points >= 0) & (points <= sides)).all(axis=-1)
    return np.where(inside[..., None], keypoints, np.float32(0))


def join_keypoints(parts: Sequence[tuple[np.ndarray | None, int]]) -> np.ndarray | None:
    """Keypoints of several groups of objects; None if no group has any.

    Args:
        parts: of each group keypoints, if it has some, and the number of objects; those that have
            some have the same number of them.
    """
    known = [keypoints for keypoints, _ in parts if keypoints is not None]
    if not known:
        return None
    shape = max(x.shape[1] for x in known), 3
    return np.concatenate(
        [
            np.zeros((count, *shape), np.float32) if x is None or not x.shape[1] else x
            for x, count in parts
        ]
    )


def names_fault(names: object) -> str:
    """What is wrong with the names of a category's points; "" if nothing."""
    if not isinstance(names, list) or not all(isinstance(x, str) and x for x in names):
        return f"'keypoints' is {shorten(names)}, expected a list of names"
    twice = [name for name, count in Counter(names).items() if count > 1]
    return f"'keypoints' has {shorten(twice[0])} twice" if twice else ""


def is_edge(edge: object, count: int) -> bool:
    """Whether this is a pair of numbers of points, from 1."""
    return (
        isinstance(edge, list)
        and len(edge) == 2
        and all(is_whole(x) and 1 <= x <= count for x in edge)
    )


def skeleton_fault(skeleton: object, count: int) -> str:
    """What is wrong with the skeleton of a category of so many points; "" if nothing."""
    if not isinstance(skeleton, list):
        return f"'skeleton' is {shorten(skeleton)}, expected pairs of numbers of points"
    wrong = [edge for edge in skeleton if not is_edge(edge, count)]
    if not wrong:
        return ""
    more = f" ({len(wrong)} such pairs)" if len(wrong) > 1 else ""
    return f"'skeleton' has {shorten(wrong[0])}, expected two numbers of points, 1 to {count}{more}"


def flip_fault(pairs: object, names: list[str]) -> str:
    """What is wrong with the pairs that a mirrored image exchanges; "" if nothing."""
    if not isinstance(pairs, list):
        return f"{FLIP_KEY!r} is {shorten(pairs)}, expected pairs of names of points"
    seen: list[str] = []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or not all(x in names for x in pair):
            return f"{FLIP_KEY!r} has {shorten(pair)}, expected two names of 'keypoints'"
        seen += pair
    twice = [name for name, count in Counter(seen).items() if count > 1]
    return f"{FLIP_KEY!r} has {shorten(twice[0])} twice" if twice else ""
