"""Annotations as arrays: what a COCO file says, read once and shared by all that need it.

Of a large file a prepared copy is kept, in which processes and later runs find the arrays again by
the content of the file. What is not needed never becomes an object; polygons, which few runs need,
are read by `polygon_files`, and keypoints by `keypoint_files`.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import math
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..files.values import LARGEST_NUMBER, shorten
from ..files.writing import atomic_write
from .source import AnnotationFileError, read_coco

# In place of a number for objects of which it is not known which individual they are.
NO_IDENTITY = -1

logger = logging.getLogger(__name__)

# Of larger files, in bytes, prepared copies are kept; smaller ones are read in a second.
SMALL_FILE = 64 * 2**20
# What a prepared copy says it is; the number changes with its form.
FORMAT = "yolor_d2 annotations 2"
# Key of an annotation, also in COCO files, that says which individual an object is: a whole number
# from 0, the same wherever that individual is seen. Without it, or at -1, that is not known.
IDENTITY_KEY = "instance_id"


class Strings(Sequence[str]):
    """Texts in one array of bytes, which forked processes share however often they are read.

    Args:
        data: (B,) uint8, UTF-8 of all texts.
        ends: (N,) int64, where each ends.
    """

    def __init__(self, data: np.ndarray, ends: np.ndarray):
        self.data, self.ends = data, ends

    @classmethod
    def pack(cls, texts: Sequence[str]) -> Strings:
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        ends = np.cumsum([len(x) for x in encoded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        start = self.ends[index - 1] if index else 0
        return self.data[start : self.ends[index]].tobytes().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        content, start = self.data.tobytes(), 0
        for end in self.ends.tolist():
            yield content[start:end].decode("utf-8", "surrogatepass")
            start = end


@dataclass(frozen=True)
class Annotations:
    """A data set of N images, M objects and K categories.

    Images come in the order of their ids, the objects of an image in that of the file.

    Attributes:
        image_ids: (N,) int64, rising.
        sizes: (N, 2) int64 heights and widths in pixels; -1 where the file does not say.
        file_names: N names as the file has them.
        starts: (N + 1,) int64; the objects of image i are the rows starts[i] to starts[i + 1].
        ids: (M,) int64 ids of the annotations.
        boxes: (M, 4) float64 x, y, width, height in pixels, as the file has them; NaN where it has
            none.
        labels: (M,) int64 places of the categories in `category_ids`.
        areas: (M,) float64 in pixels; NaN where the file does not say.
        crowd: (M,) bool, regions of many objects.
        identities: (M,) int64, which individual an object is; -1 where that is not known.
        category_ids: (K,) int64, rising.
        category_names: K names.
        category_keypoints: K values, "keypoints", "skeleton" and "flip_pairs" as the file has them,
            not looked at; None where it has no keypoints.
    """

    image_ids: np.ndarray
    sizes: np.ndarray
    file_names: Sequence[str]
    starts: np.ndarray
    ids: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    identities: np.ndarray
    category_ids: np.ndarray
    category_names: Sequence[str]
    category_keypoints: Sequence[dict | None] = ()

    @property
    def image_rows(self) -> np.ndarray:
        """(M,) int64 place of the image of each object."""
        return np.repeat(np.arange(len(self.image_ids)), np.diff(self.starts))

    def as_coco(self, places: Sequence[int]) -> dict:
        """Some images with their objects, and all categories, as content of a COCO file."""
        rows = [row for i in places for row in range(self.starts[i], self.starts[i + 1])]
        owners = [int(self.image_ids[i]) for i in places]
        counts = [int(self.starts[i + 1] - self.starts[i]) for i in places]
        image_of = [owner for owner, count in zip(owners, counts) for _ in range(count)]
        columns = (self.ids, self.labels, self.boxes, self.areas, self.crowd)
        ids, labels, boxes, areas, crowd = (x[rows].tolist() for x in columns)
        categories = self.category_ids.tolist()
        return {
            "images": [
                {"id": owner, "file_name": self.file_names[i], "height": height, "width": width}
                for owner, i, (height, width) in zip(owners, places, self.sizes[places].tolist())
            ],
            "annotations": [
                {
                    "id": ids[i],
                    "image_id": image_of[i],
                    "category_id": categories[labels[i]],
                    "bbox": boxes[i],
                    "area": areas[i],
                    "iscrowd": int(crowd[i]),
                }
                for i in range(len(rows))
            ],
            "categories": [
                {"id": number, "name": name}
                for number, name in zip(categories, self.category_names)
            ],
        }


# ---- Reading COCO files


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
        # Closed with the last of its views, which the objects are.
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


def is_identity(value: object) -> bool:
    """Whether a value of an annotation can say which individual it is."""
    return type(value) is int and NO_IDENTITY <= value < LARGEST_NUMBER


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


# ---- Prepared copies


_copies: Path | None = None


def keep_copies_in(folder: Path | None) -> None:
    """Where this process looks for prepared copies and leaves them; None for nowhere."""
    global _copies
    _copies = folder


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def copy_path(path: Path, kind: str = "") -> Path | None:
    """Where a prepared copy of a file is looked for, by its content; None for nowhere."""
    return None if _copies is None else _copies / f"{hash_file(path)}.{kind}safetensors"


def keep_copy(content: bytes, path: Path, what: str) -> None:
    """Write a prepared copy, whole or not at all, also while others write the same; say so if
    that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, shared=True) as file:
            file.write(content)
        logger.info("%s: prepared copy in %s", what, path)
    except OSError as error:  # the next process reads the file once more
        logger.warning("%s: no prepared copy can be kept: %s", what, error)


def prepared_arrays(
    path: Path,
    kind: str,
    form: str,
    ids: np.ndarray,
    make: Callable[[], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Arrays of a COCO file's objects that are kept apart from the rest, from the prepared copy of
    a large file if there is one.

    Args:
        path: of the file.
        kind: what the arrays are.
        form: what a copy says it is.
        ids: (M,) of the objects, in the order wanted.
        make: reads the arrays from the file.
    """
    if path.stat().st_size <= SMALL_FILE or _copies is None:
        return make()
    copy, title = copy_path(path, f"{kind}."), kind.capitalize()
    assert copy is not None
    values = read_arrays(copy, form, ids)
    if values is not None:
        logger.info("%s of %s: from the prepared copy %s", title, path, copy)
        return values
    values = make()
    arrays = {name: np.ascontiguousarray(x) for name, x in values.items()}
    content = save({**arrays, "ids": ids}, metadata={"format": form})
    keep_copy(content, copy, f"{title} of {path}")
    return values


def read_arrays(path: Path, form: str, ids: np.ndarray) -> dict[str, np.ndarray] | None:
    """What a prepared copy holds; None when it is not there, damaged, or of other objects."""
    try:
        with safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get("format") != form:
                return None
            if not np.array_equal(file.get_tensor("ids"), ids):
                return None
            return {name: file.get_tensor(name) for name in file.keys() if name != "ids"}  # noqa: SIM118
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        logger.warning("The prepared copy %s cannot be used and is made again: %s", path, error)
        return None


def copy_of(annotations: Annotations) -> bytes:
    """Content of a prepared copy."""
    arrays, texts = {}, {}
    for entry in fields(annotations):
        value = getattr(annotations, entry.name)
        if isinstance(value, np.ndarray):
            arrays[entry.name] = np.ascontiguousarray(value)
        elif isinstance(value, Strings):
            arrays[entry.name], arrays[f"{entry.name}_ends"] = value.data, value.ends
        else:
            texts[entry.name] = json.dumps(list(value))
    return save(arrays, metadata={"format": FORMAT, **texts})


def read_copy(path: Path) -> Annotations | None:
    """What a prepared copy holds; None when it is not there, damaged or of another form."""
    try:
        with safe_open(path, framework="numpy") as file:
            texts = file.metadata() or {}
            if texts.get("format") != FORMAT:
                return None
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        names = Strings(arrays.pop("file_names"), arrays.pop("file_names_ends"))
        lists = {name: json.loads(texts[name]) for name in texts if name != "format"}
        return Annotations(**arrays, **lists, file_names=names)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        logger.warning("The prepared copy %s cannot be used and is made again: %s", path, error)
        return None


def read_large(path: Path) -> Annotations:
    """Annotations of a large file, from its prepared copy if there is one."""
    copy = copy_path(path)
    annotations = None if copy is None else read_copy(copy)
    if annotations is not None:
        logger.info("Annotations of %s: from the prepared copy %s", path, copy)
        return annotations
    with collector_paused():
        annotations = to_arrays(decode(path), path)
    if copy is not None:
        keep_copy(copy_of(annotations), copy, f"Annotations of {path}")
    return annotations


# ---- What this process has read


class AnnotationFile:
    """A COCO file that this process has read.

    Args:
        path: the file.

    Raises:
        AnnotationFileError: when it is not in COCO format at all.
        OSError: when it cannot be read.
    """

    def __init__(self, path: Path):
        self.path = path
        self.fault: AnnotationFileError | None = None
        self.arrays: Annotations | None = None
        # Of a small file the content, until its checks are done or somebody takes the arrays.
        self.content: dict | None = None
        if path.stat().st_size > SMALL_FILE:
            self.arrays = read_large(path)
            return
        self.content = read_coco(path, annotated=False)
        try:
            self.arrays = to_arrays(convert(self.content, path), path)
        except AnnotationFileError as error:
            self.fault = error  # the checks say it better, if they are asked for

    @property
    def annotations(self) -> Annotations:
        """The arrays.

        Raises:
            AnnotationFileError: when an entry cannot be meant.
        """
        self.content = None
        if self.arrays is None:
            assert self.fault is not None
            raise self.fault
        return self.arrays

    def take_content(self) -> dict | None:
        """What the file says, for the checks; None of a large one, or when it has been taken."""
        content, self.content = self.content, None
        return content


_read: dict[str, tuple[tuple[int, int], AnnotationFile]] = {}


def open_annotations(path: str | Path) -> AnnotationFile:
    """A COCO file, read when this process needs it for the first time or it has changed.

    Raises:
        AnnotationFileError, OSError: see `AnnotationFile`.
    """
    path = Path(path)
    status = path.stat()
    state = status.st_mtime_ns, status.st_size
    key = os.path.realpath(path)
    known, file = _read.get(key, (None, None))
    if file is None or known != state:
        file = AnnotationFile(path)
        _read[key] = state, file
    return file


def forget_files() -> None:
    """Read files anew when they are asked for again."""
    _read.clear()


def drop_contents() -> None:
    """Keep nothing but arrays of what this process has read: no more checks are to come."""
    for _, file in _read.values():
        file.content = None


def read_annotations(path: str | Path) -> Annotations:
    """The arrays of a COCO file, see `open_annotations`."""
    return open_annotations(path).annotations
