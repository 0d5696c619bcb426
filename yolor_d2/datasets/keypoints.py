"""Keypoints of COCO files: read apart from the rest, and only if somebody needs them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..structures.keypoints import (
    FLIP_KEY,
    KeypointLayout,
    flip_fault,
    names_fault,
    pairs_by_names,
    read_points,
    skeleton_fault,
)
from .annotations import Annotations
from .coco_json import collector_paused, read_values
from .prepared_copies import prepared_arrays
from .source import AnnotationFileError

# What a prepared copy says it is; the number changes with its form.
FORMAT = "yolor_d2 keypoints 1"
# From the number of a pixel, which COCO's files have, to its centre.
PIXEL_CENTRE = 0.5

_numbers = msgspec.json.Decoder(list[float] | None)


def layout_of_categories(categories: Sequence[dict | None]) -> KeypointLayout | None:
    """Of the first category that has some; None if none has.

    Args:
        categories: of the file, or the keys "keypoints", "skeleton" and "flip_pairs" of each; None
            where it has no keypoints. Without "flip_pairs" left and right in the names decide.

    Raises:
        ValueError: when they are no names, pairs of numbers from 1, and pairs of names, or when
            another category has other names.
    """
    first = None
    for category in categories:
        if not category or not category.get("keypoints"):
            continue
        one = layout_of_category(*map(category.get, ("keypoints", "skeleton", FLIP_KEY)))
        first = first or one
        if first.names != one.names:
            raise ValueError(
                f"categories have different keypoints, {list(first.names)} and "
                f"{list(one.names)}: a data set has one list of them"
            )
    return first


def layout_of_category(
    keypoints: Any, skeleton: Any = None, flip_pairs: Any = None
) -> KeypointLayout:
    """Of one category, see `layout_of_categories`."""
    fault = names_fault(keypoints) or skeleton_fault(skeleton or [], len(keypoints))
    fault = fault or flip_fault(flip_pairs or [], keypoints)
    if fault:
        raise ValueError(f"a category makes no sense: {fault}")
    lines = [(keypoints[a - 1], keypoints[b - 1]) for a, b in skeleton or []]
    pairs = pairs_by_names(keypoints) if flip_pairs is None else [(a, b) for a, b in flip_pairs]
    return KeypointLayout(tuple(keypoints), tuple(lines), tuple(pairs))


def read_numbers(raw: msgspec.Raw) -> object:
    """The value of "keypoints"."""
    if not len(memoryview(raw)):
        return None
    try:
        return _numbers.decode(raw)
    except msgspec.ValidationError:
        return msgspec.json.decode(raw)


def read_layout(path: str | Path, annotations: Annotations) -> KeypointLayout | None:
    """What the keypoints of a COCO file are; None if it has none.

    Raises:
        AnnotationFileError: when its categories do not say it as they should.
    """
    try:
        return layout_of_categories(annotations.category_keypoints)
    except ValueError as error:
        raise AnnotationFileError(f"{str(path)!r}: {error}") from error


def read_keypoints(path: str | Path, annotations: Annotations) -> np.ndarray:
    """Keypoints of all objects of a COCO file, in the order of what else has been read of it.

    Objects without any, and crowds, have zeros. Of a large file a prepared copy is kept.

    Returns:
        (M, K, 3) float32, see `keypoints`; K is 0 if no category has any.

    Raises:
        AnnotationFileError: when an object's make no sense, naming it, or those of its categories.
    """
    path = Path(path)
    layout = read_layout(path, annotations)
    count = 0 if layout is None else len(layout.names)
    if not count:
        return np.zeros((len(annotations.ids), 0, 3), dtype=np.float32)

    def make() -> dict[str, np.ndarray]:
        numbers, given = [], []
        with collector_paused():
            for number, values in read_values(path, "keypoints", read_numbers):
                if not values:
                    continue
                try:
                    given.append(read_points(values, count))
                except ValueError as error:
                    raise AnnotationFileError(
                        f"{str(path)!r}: annotation {number} has {error}"
                    ) from error
                numbers.append(number)
        return {"keypoints": arrange(np.array(numbers, dtype=np.int64), given)}

    def arrange(numbers: np.ndarray, given: list[np.ndarray]) -> np.ndarray:
        keypoints = np.zeros((len(annotations.ids), count, 3), dtype=np.float32)
        if not given:
            return keypoints
        order = np.argsort(annotations.ids, kind="stable")
        places = np.searchsorted(annotations.ids[order], numbers).clip(max=len(order) - 1)
        rows = order[places]
        known = annotations.ids[rows] == numbers  # the others are of no image
        points = np.stack(list(itertools.compress(given, known))) if known.any() else keypoints[:0]
        points[..., :2] += PIXEL_CENTRE * (points[..., 2:] > 0)
        keypoints[rows[known]] = points
        return keypoints

    return prepared_arrays(path, "keypoints", FORMAT, annotations.ids, make)["keypoints"]
