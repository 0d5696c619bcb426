"""Checks of keypoints, whole arrays at a time, and of their names."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np

from ..datasets.source import Source
from ..files.values import shorten
from ..structures.keypoints import FLIP_KEY, VISIBILITIES, flip_fault, names_fault, skeleton_fault
from ..wording import counted
from .boxes import TOLERANCE

# Numbers of a point: x, y, visibility.
PER_POINT = 3
# How far a point may be beyond the box of its object: pixels, or a fraction of the longer side.
# Boxes are drawn around the visible part of an object, points are where a joint is.
BEYOND_PIXELS, BEYOND_FRACTION = 2.0, 0.1


def is_beyond(x: float, y: float, size: tuple[int, int]) -> bool:
    """Whether a point, in numbers of pixels from 0, is outside an image of (height, width)."""
    height, width = size
    return max(-x, -y, x - (width - 1), y - (height - 1)) > TOLERANCE


def check_keypoint_names(source: Source) -> dict[int, list[str] | None]:
    """Report names of points and skeletons that make no sense, or are others than those of the
    first category that has some.

    Returns:
        By id of the category the names of its points, none for most; None where they are malformed.
    """
    by_category: dict[int, list[str] | None] = {}
    first: tuple[str, list[str]] | None = None
    for number, place in source.categories.items():
        entry = source.data["categories"][place]
        names = entry.get("keypoints") or []
        faults = {"keypoint_names_malformed": names_fault(names)}
        by_category[number] = None if faults["keypoint_names_malformed"] else names
        if by_category[number]:
            faults["skeleton_malformed"] = skeleton_fault(entry.get("skeleton") or [], len(names))
            faults["flip_pairs_malformed"] = flip_fault(entry.get(FLIP_KEY) or [], names)
            first = first or (entry["name"], names)
            if names != first[1]:
                faults["keypoint_names_differ"] = (
                    f"{entry['name']!r} has the points {shorten(names)}, {first[0]!r} "
                    f"{shorten(first[1])}"
                )
        for kind, fault in faults.items():
            if fault:
                source.report(kind, fault, "categories", place)
    return by_category


@dataclass(frozen=True)
class Points:
    """Points of all objects that have some.

    Attributes:
        values: (P, 3) float64 x, y, visibility.
        counts: (O,) points of each object.
        rows: (O,) the objects, as in `Source.annotations`.
        names: of each object's points; none where the category has none.
    """

    values: np.ndarray
    counts: np.ndarray
    rows: np.ndarray
    names: list[list[str]]

    @property
    def owners(self) -> np.ndarray:
        """(P,) place of the object of each point in `rows`."""
        return np.repeat(np.arange(len(self.rows)), self.counts)


def read_points(source: Source, names: dict[int, list[str] | None]) -> Points:
    """Points of all objects; lists that are none are reported."""
    values, counts, rows, known = array("d"), array("q"), array("q"), []
    for row, (place, entry) in enumerate(source.objects()):
        given = entry.get("keypoints")
        if not given:  # missing, or no points
            continue
        named = names[entry["category_id"]]
        fault = add_points(values, given, named)
        if fault:
            source.report("keypoints_malformed", fault, "annotations", place)
            continue
        if named == [] and any(given[2::PER_POINT]):  # others have zeros
            name = source.data["categories"][source.categories[entry["category_id"]]]["name"]
            message = f"has {counted(len(given) // PER_POINT, 'point')}, but {name!r} names none"
            source.report("keypoints_without_names", message, "annotations", place)
        counts.append(len(given) // PER_POINT)
        rows.append(row)
        known.append(named or [])
    table = np.array(values, dtype=np.float64).reshape(-1, PER_POINT)
    return Points(table, np.array(counts, dtype=np.int64), np.array(rows, dtype=np.int64), known)


def add_points(values: array, given: object, names: list[str] | None) -> str:
    """Append x, y, visibility of an object's points; or say what is wrong with them."""
    if not isinstance(given, list) or len(given) % PER_POINT:
        text = f"of {len(given)} numbers" if isinstance(given, list) else shorten(given)
        return f"'keypoints' is {text}, expected x, y and visibility of each point"
    if names and len(given) != PER_POINT * len(names):
        return (
            f"'keypoints' has {len(given)} numbers, expected {PER_POINT * len(names)} for the "
            f"{counted(len(names), 'point')} of its category"
        )
    before = len(values)
    try:
        values.extend(given)
        fault = not np.isfinite(values[before:]).all()
    except (TypeError, OverflowError):
        fault = True
    if fault:
        del values[before:]
        return f"'keypoints' is {shorten(given)}, expected finite numbers"
    return ""


def check_keypoints(source: Source) -> int:
    """Report names and points that cannot be meant.

    Returns:
        Objects with labelled points, no crowds.
    """
    names = check_keypoint_names(source)
    points = read_points(source, names)
    x, y, visibility = points.values.T
    owners = points.owners
    odd = ~np.isin(visibility, VISIBILITIES)
    labelled = visibility > 0
    height, width = source.object_sizes()[points.rows[owners]].T
    # Numbers of pixels: the last one is width - 1.
    beyond = np.maximum.reduce([-x, -y, x - (width - 1), y - (height - 1)])
    report_points(source, points, odd, "keypoint_visibility", "has the visibility {:g}", 2)
    outside = labelled & (beyond > TOLERANCE)
    report_points(source, points, outside, "keypoint_outside", "at ({:g}, {:g}) is outside", 0)
    box = source.boxes[points.rows[owners]]
    with np.errstate(over="ignore", invalid="ignore"):
        far = np.stack([box[:, 0] - x, box[:, 1] - y, x - box[:, 0] - box[:, 2]], axis=1)
        far = np.maximum(far.max(axis=1), y - box[:, 1] - box[:, 3])
        reach = np.maximum(BEYOND_PIXELS, BEYOND_FRACTION * box[:, 2:].max(axis=1))
        away = labelled & ~outside & (far > reach)
    words = "at ({:g}, {:g}) is outside of the box"
    report_points(source, points, away, "keypoint_outside_box", words, 0)
    labels = np.bincount(owners[labelled], minlength=len(points.rows))
    check_counts(source, dict(zip(points.rows.tolist(), labels.tolist())))
    crowd = source.crowd_objects()[points.rows]
    count = int(np.count_nonzero((labels > 0) & ~crowd))
    if "keypoints" in source.needed and len(source.annotations):
        if not any(names.values()):
            message = "no category names its points, expected 'keypoints' in 'categories'"
            source.report("no_keypoints", message)
        elif not count:
            source.report("no_keypoints", "no object has labelled points, expected 'keypoints'")
    return count


def report_points(
    source: Source, points: Points, wrong: np.ndarray, kind: str, words: str, first: int
) -> None:
    """Report objects with points that are wrong, naming the first.

    Args:
        source: gets the findings.
        points: of its objects.
        wrong: (P,) bool.
        kind: of the findings.
        words: what the points do, with places for their values.
        first: of these values.
    """
    owners = points.owners
    counts = np.bincount(owners[wrong], minlength=len(points.rows))
    starts = np.cumsum(points.counts) - points.counts
    for owner in np.flatnonzero(counts).tolist():
        start = int(starts[owner])
        number = int(np.flatnonzero(wrong[start : start + points.counts[owner]])[0])
        named = points.names[owner]
        name = repr(named[number]) if named else str(number + 1)
        values = points.values[start + number, first:]
        more = f" ({counts[owner]} such points)" if counts[owner] > 1 else ""
        place = source.annotations[points.rows[owner]]
        message = f"point {name} {words.format(*values)}{more}"
        if kind == "keypoint_visibility":
            message += ", expected 0 (not labelled), 1 (hidden) or 2 (visible)"
        source.report(kind, message, "annotations", place, index=number)


def check_counts(source: Source, labels: dict[int, int]) -> None:
    """Report objects whose "num_keypoints" is not the number of their labelled points.

    Args:
        source: gets the findings.
        labels: labelled points by object, of those that have points.
    """
    malformed = {x.place for x in source.findings if x.kind == "keypoints_malformed"}
    for row, (place, entry) in enumerate(source.objects()):
        said = entry.get("num_keypoints")
        expected = labels.get(row, 0)
        if place in malformed or (row not in labels and not said):
            continue
        if type(said) not in (int, float) or said != expected:
            text = "missing" if said is None else shorten(said)
            message = f"'num_keypoints' is {text}, expected {expected} labelled points"
            source.report("num_keypoints_differs", message, "annotations", place)
