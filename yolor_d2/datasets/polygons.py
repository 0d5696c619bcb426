"""Polygons of COCO files: read apart from the rest, and only if somebody needs them.

They are nine tenths of a large file, whose reader in `annotations` skips them.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from ..structures.polygons import MALFORMED, PolygonList, Polygons
from ..wording import counted
from .annotations import Annotations
from .coco_json import collector_paused, read_values
from .prepared_copies import prepared_arrays

logger = logging.getLogger(__name__)

# What a prepared copy says it is; the number changes with its form.
FORMAT = "yolor_d2 polygons 2"

_outlines = msgspec.json.Decoder(list[list[float]])


def read_outlines(raw: msgspec.Raw) -> object:
    """The value of "segmentation": lists of numbers, or run lengths."""
    text = memoryview(raw)
    if not len(text):
        return None
    try:
        return _outlines.decode(raw)
    except msgspec.ValidationError:
        return msgspec.json.decode(raw)


def decode(
    path: Path, size_of: Callable[[int], tuple[int, int] | None]
) -> tuple[list[int], PolygonList]:
    """Ids of the objects that are no crowds, and their polygons in the same order.

    Args:
        path: of the file.
        size_of: height and width of the image of an object by its id, if they are known.
    """
    polygons, ids = PolygonList(), []
    for number, shape in read_values(path, "segmentation", read_outlines):
        ids.append(number)
        polygons.add(shape, size_of(number) if isinstance(shape, dict) else None)
    return ids, polygons


def sizes_by_object(annotations: Annotations) -> Callable[[int], tuple[int, int] | None]:
    """See `decode`; what it takes is made for the first object that somebody asks about."""

    @functools.cache
    def table() -> dict[int, tuple[int, int]]:
        sizes = annotations.sizes[annotations.image_rows].tolist()
        known = zip(annotations.ids.tolist(), sizes)
        return {number: (height, width) for number, (height, width) in known if height > 0 < width}

    return lambda number: table().get(number)


def arrange(polygons: Polygons, ids: list[int], wanted: np.ndarray) -> Polygons:
    """Polygons in the order of other ids; objects without any where an id is not known.

    Args:
        polygons: of the objects `ids`.
        ids: no two are the same.
        wanted: (M,) int64.
    """
    known = np.array(ids, dtype=np.int64)
    order = np.argsort(known, kind="stable")
    places = np.searchsorted(known[order], wanted).clip(max=max(len(known) - 1, 0))
    if not len(known):
        return Polygons.empty(len(wanted))
    matched = known[order][places] == wanted
    # One more object, which has none.
    more = Polygons(polygons.points, polygons.ends, np.append(polygons.parts, len(polygons.ends)))
    return more.take(np.where(matched, order[places], len(known)))


def read_polygons(path: str | Path, annotations: Annotations) -> Polygons:
    """Polygons of all objects of a COCO file, in the order of what else has been read of it.

    Crowds have none. Of a large file a prepared copy is kept.
    """
    path = Path(path)

    def make() -> dict[str, np.ndarray]:
        with collector_paused():
            ids, listed = decode(path, sizes_by_object(annotations))
        polygons = listed.finish()
        if listed.malformed:
            logger.warning(
                f"%s: {MALFORMED} (yolor-d2 check names them)",
                *(path, counted(listed.malformed, "object")),
            )
        return vars(arrange(polygons, ids, annotations.ids))

    return Polygons(**prepared_arrays(path, "polygons", FORMAT, annotations.ids, make))
