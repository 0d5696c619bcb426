"""Reading COCO JSON: content as arrays, or an error that names the entry.

What is not needed never becomes an object; polygons, which few runs need, are read by
`datasets.polygons`, and keypoints by `datasets.keypoints`.
"""

from __future__ import annotations

import gc
import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..files.values import LARGEST_NUMBER, shorten
from .annotations import IDENTITY_KEY, NO_IDENTITY, Annotations, Strings, is_identity
from .source import AnnotationFileError, read_coco


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str
    height: int | float | None = None
    width: int | float | None = None


class _Object(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    id: int
    bbox: tuple[float, float, float, float] | None = None
    area: float | None = None
    iscrowd: int | float | bool | None = 0
    ignore: Any = 0
    instance_id: Any = NO_IDENTITY


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str
    keypoints: Any = None
    skeleton: Any = None
    flip_pairs: Any = None


class _File(msgspec.Struct):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Object] = []


@contextmanager
def collector_paused() -> Iterator[None]:
    """Inside this context Python looks for no cycles.

    Hundreds of thousands of small records, which are in none, would make it look through all
    objects of the process again and again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def decode(path: Path) -> _File:
    """The parts of a large COCO file that are needed.

    Raises:
        AnnotationFileError: when it is not in COCO format, naming file and place.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            parsed = msgspec.json.decode(content, type=_File)
        except msgspec.DecodeError:
            parsed = None
    if parsed is not None and parsed.images and parsed.categories:
        return parsed
    # What is wrong is said by Python's reader, which also takes numbers that JSON does not know.
    return convert(read_coco(path, annotated=False), path)


def read_values(
    path: Path, key: str, read: Callable[[msgspec.Raw], object]
) -> Iterator[tuple[int, object]]:
    """Ids of the objects of a COCO file that are no crowds, and one value of each, one at a time:
    all of them together would take gigabytes.

    Args:
        path: the file.
        key: of the value.
        read: makes the value from its JSON, which is empty where an object has none.
    """
    parts = [("id", int), ("iscrowd", Any, 0), (key, msgspec.Raw, msgspec.Raw(b""))]
    entry = msgspec.defstruct("_Entry", parts, gc=False)
    form = msgspec.defstruct("_Entries", [("annotations", list[entry], [])])
    with open(path, "rb") as file:
        # Closed with the last of the objects, which share its memory.
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        objects = msgspec.json.decode(content, type=form).annotations
    except msgspec.DecodeError:
        # It has numbers that JSON does not know, as Python writes them.
        for one in read_coco(path, annotated=False)["annotations"]:
            if not one.get("iscrowd"):
                yield one["id"], one.get(key)
        return
    for one in objects:
        if not one.iscrowd:
            yield one.id, read(getattr(one, key))


def convert(content: dict, path: Path) -> _File:
    """The same from what Python's reader has made of a file."""
    try:
        return msgspec.convert(content, type=_File)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        where = f"{place.rstrip('`')}: " if place else ""
        raise AnnotationFileError(f"{str(path)!r}: {where}{reason}") from error


def column(values: list, path: Path, what: str) -> np.ndarray:
    """(N,) int64 of whole numbers."""
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError as error:
        wrong = next(x for x in values if not -LARGEST_NUMBER <= x < LARGEST_NUMBER)
        raise AnnotationFileError(
            f"{str(path)!r}: {what} is {shorten(wrong)}, expected a whole number below 2**63"
        ) from error


def to_side(value: float | None) -> int:
    """A height or width in pixels; -1 where it is none."""
    usable = value is not None and 0 < value < LARGEST_NUMBER and value == int(value)
    return int(value) if usable else -1  # pyright: ignore[reportArgumentType]


def check_objects(objects: Sequence[_Object], path: Path, categories: set[int]) -> None:
    """Raise an AnnotationFileError for the first object that cannot be meant."""

    def refuse(entry: _Object, reason: str) -> None:
        raise AnnotationFileError(f"{str(path)!r}: annotation {entry.id} {reason}")

    for entry in objects:
        if entry.category_id not in categories:
            refuse(entry, f"is of category {entry.category_id}, which the file has not")
        if entry.ignore:
            refuse(entry, f"has 'ignore' {shorten(entry.ignore)}, expected 'iscrowd'")
        if entry.bbox is None and not entry.iscrowd:
            refuse(entry, "has no 'bbox'")
        identity = entry.instance_id
        if identity is not NO_IDENTITY and not entry.iscrowd and not is_identity(identity):
            refuse(
                entry,
                f"has {IDENTITY_KEY!r} {shorten(identity)}, expected a whole number from 0, or -1 "
                "for an unknown individual",
            )


def to_arrays(content: _File, path: Path) -> Annotations:
    """Arrays of a file's content.

    Objects of images that the file has not are left out, and of images of one id the last one
    counts, as pycocotools does it.

    Raises:
        AnnotationFileError: when an entry cannot be meant, naming file and id.
    """
    names = {category.id: category.name for category in content.categories}
    if len(names) < len(content.categories):
        raise AnnotationFileError(f"{str(path)!r}: ids of categories are not unique")
    check_objects(content.annotations, path, names.keys())  # pyright: ignore[reportArgumentType]
    category_ids = column(sorted(names), path, "the id of a category")

    by_id = {image.id: image for image in content.images}
    images = [by_id[number] for number in sorted(by_id)]
    image_ids = column([image.id for image in images], path, "the id of an image")

    objects = content.annotations
    ids = column([x.id for x in objects], path, "the id of an annotation")
    if len(np.unique(ids)) < len(ids):
        raise AnnotationFileError(f"{str(path)!r}: ids of annotations are not unique")
    owners = column([x.image_id for x in objects], path, "'image_id'")
    places = np.searchsorted(image_ids, owners).clip(max=max(len(images) - 1, 0))
    known = np.flatnonzero(image_ids[places] == owners) if len(images) else np.zeros(0, np.int64)
    order = known[np.argsort(places[known], kind="stable")]
    missing = (math.nan,) * 4
    labels = column([x.category_id for x in objects], path, "'category_id'")
    identities = [NO_IDENTITY if x.iscrowd else x.instance_id for x in objects]
    return Annotations(
        image_ids=image_ids,
        sizes=np.array(
            [(to_side(x.height), to_side(x.width)) for x in images], dtype=np.int64
        ).reshape(-1, 2),
        file_names=Strings.pack([x.file_name for x in images]),
        starts=np.searchsorted(places[order], np.arange(len(images) + 1)).astype(np.int64),
        ids=ids[order],
        boxes=np.array([x.bbox or missing for x in objects]).reshape(-1, 4)[order],
        labels=np.searchsorted(category_ids, labels[order]),
        areas=np.array([math.nan if x.area is None else x.area for x in objects])[order],
        crowd=np.array([bool(x.iscrowd) for x in objects], dtype=bool)[order],
        identities=np.array(identities, dtype=np.int64)[order],
        category_ids=category_ids,
        category_names=[names[number] for number in category_ids.tolist()],
        category_keypoints=[
            {key: getattr(x, key) for key in ("keypoints", "skeleton", "flip_pairs")}
            if x.keypoints
            else None
            for x in sorted(content.categories, key=lambda x: x.id)
        ],
    )
