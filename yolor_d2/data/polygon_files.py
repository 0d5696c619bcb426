"""Polygons of COCO files: read apart from the rest, and only if somebody needs them.

They are nine tenths of a large file, whose reader in `annotations` skips them.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..wording import counted
from .annotations import SMALL_FILE, Annotations, collector_paused, copy_path, keep_copy
from .check.source import read_coco
from .polygons import PolygonList, Polygons

logger = logging.getLogger(__name__)

# What a prepared copy says it is; the number changes with its form.
FORMAT = "yolor_d2 polygons 1"


class _Object(msgspec.Struct, gc=False):
    id: int
    iscrowd: Any = 0
    # Not yet read: as lists of numbers, all of them would take gigabytes at once.
    segmentation: msgspec.Raw = msgspec.Raw(b"")


class _File(msgspec.Struct):
    annotations: list[_Object] = []


_outlines = msgspec.json.Decoder(list[list[float]])


def read_outlines(raw: msgspec.Raw) -> object:
    """The value of "segmentation", only as far as it matters here: None for run lengths."""
    text = memoryview(raw)
    if not len(text) or text[0] in b"{n":
        return None
    try:
        return _outlines.decode(raw)
    except msgspec.ValidationError:
        return msgspec.json.decode(raw)


def decode(path: Path) -> tuple[list[int], PolygonList]:
    """Ids of the objects that are no crowds, and their polygons in the same order."""
    found, ids = PolygonList(), []

    def add(entries: Iterable[tuple[int, Any, object]]) -> None:
        for number, is_crowd, shape in entries:
            if not is_crowd:
                ids.append(number)
                found.add(shape)

    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            objects = msgspec.json.decode(content, type=_File).annotations
        except msgspec.DecodeError:
            objects = None
        else:
            add((x.id, x.iscrowd, read_outlines(x.segmentation)) for x in objects)
            objects = ()  # they are views of the file, which is closed now
    if objects is None:
        # It has numbers that JSON does not know, as Python writes them.
        entries = read_coco(path, annotated=False)["annotations"]
        add((x["id"], x.get("iscrowd"), x.get("segmentation")) for x in entries)
    return ids, found


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
    found = known[order][places] == wanted
    # One more object, which has none.
    more = Polygons(polygons.points, polygons.ends, np.append(polygons.parts, len(polygons.ends)))
    return more.take(np.where(found, order[places], len(known)))


def read_polygons(path: str | Path, annotations: Annotations) -> Polygons:
    """Polygons of all objects of a COCO file, in the order of what else has been read of it.

    Crowds, and objects that have run lengths, have none. Of a large file a prepared copy is kept.
    """
    path = Path(path)
    copy = copy_path(path, "polygons.") if path.stat().st_size > SMALL_FILE else None
    found = None if copy is None else read_copy(copy, annotations.ids)
    if found is not None:
        logger.info("Polygons of %s: from the prepared copy %s", path, copy)
        return found
    with collector_paused():
        ids, listed = decode(path)
    polygons = listed.finish()
    if listed.malformed:
        logger.warning(
            "%s: %s without polygons, as 'segmentation' is neither polygons nor run lengths "
            "(yolor-d2 check names them)",
            *(path, counted(listed.malformed, "object")),
        )
    found = arrange(polygons, ids, annotations.ids)
    if copy is not None:
        arrays = {name: np.ascontiguousarray(x) for name, x in vars(found).items()}
        content = save({**arrays, "ids": annotations.ids}, metadata={"format": FORMAT})
        keep_copy(content, copy, f"Polygons of {path}")
    return found


def read_copy(path: Path, ids: np.ndarray) -> Polygons | None:
    """What a prepared copy holds; None when it is not there, damaged, or of other objects."""
    try:
        with safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get("format") != FORMAT:
                return None
            if not np.array_equal(file.get_tensor("ids"), ids):
                return None
            return Polygons(*(file.get_tensor(name) for name in ("points", "ends", "parts")))
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        logger.warning("The prepared copy %s cannot be used and is made again: %s", path, error)
        return None
