"""Annotations as a file has them, read without trust: entries that make sense, and findings."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from .findings import ERROR, Finding

# Keys of the lists in a COCO file.
SECTIONS = ("images", "annotations", "categories")
# What an id or a size has to stay below, as numpy's and torch's whole numbers do.
LARGEST_NUMBER = 2**63
# Values are shown up to so many characters.
SHOWN = 80


class AnnotationFileError(ValueError):
    """A file that cannot be read as annotations; the message names it."""


def shorten(value: object) -> str:
    """A value of a file for a message."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def is_whole(value: object) -> bool:
    """Whether a value of a file is a whole number of reasonable size."""
    return type(value) is int and -LARGEST_NUMBER <= value < LARGEST_NUMBER


def to_float(value: object) -> float | None:
    """A number of a file; infinite where it is too large, None for anything else."""
    if type(value) not in (int, float):
        return None
    try:
        return float(value)  # pyright: ignore[reportArgumentType]
    except OverflowError:
        return math.inf


def check_regular_file(path: str | Path) -> None:
    """Raise an OSError unless a path leads to a regular file, of which alone reading ends."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"{str(path)!r} is no regular file")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        AnnotationFileError: when it is none, naming the file and the place of the fault.
        OSError: when it cannot be read.
    """
    check_regular_file(path)
    content = path.read_bytes()

    def refuse(reason: str) -> NoReturn:
        raise AnnotationFileError(f"{str(path)!r} cannot be read as JSON: {reason}")

    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        refuse("it is UTF-16, expected UTF-8")
    if content.startswith(b"\xef\xbb\xbf"):
        refuse("it begins with a byte order mark, expected UTF-8 without one")
    if not content.strip():
        refuse("it is empty")
    try:
        return json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        refuse(f"byte {error.start} is not UTF-8")
    except json.JSONDecodeError as error:
        refuse(f"{error.msg} at line {error.lineno}, column {error.colno}")
    except RecursionError:
        refuse("it is nested too deeply")
    except ValueError as error:  # a number with thousands of digits
        refuse(str(error))


def read_coco(path: Path, *, annotated: bool = True) -> dict:
    """A COCO file whose three sections are lists.

    Args:
        path: of the file.
        annotated: whether it must have annotations; otherwise they are an empty list.

    Raises:
        AnnotationFileError: when it is not in COCO format at all.
        OSError: when it cannot be read.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise AnnotationFileError(
            f"{str(path)!r} is not in COCO format: it is a {type(data).__name__}, expected an "
            f"object with {', '.join(SECTIONS)}"
        )
    if not annotated:
        data.setdefault("annotations", [])
    for section in SECTIONS:
        if section not in data:
            raise AnnotationFileError(f"{str(path)!r} is not in COCO format: it has no {section!r}")
        if not isinstance(data[section], list):
            raise AnnotationFileError(
                f"{str(path)!r} is not in COCO format: {section!r} is a "
                f"{type(data[section]).__name__}, expected a list"
            )
    for section in ("images", "categories"):
        if not data[section]:
            raise AnnotationFileError(f"{str(path)!r} has no {section}")
    return data


def read_category_names(path: Path) -> list[str]:
    """Names of the categories of a COCO file, by rising id.

    Raises:
        AnnotationFileError: when it has none, or one that makes no sense.
    """
    data = read_json(path)
    if not isinstance(data, dict) or not data.get("categories"):
        raise AnnotationFileError(f"{str(path)!r} is not in COCO format: it has no 'categories'")
    if not isinstance(data["categories"], list):
        raise AnnotationFileError(f"{str(path)!r} is not in COCO format: 'categories' is no list")
    source = Source("", path, path.parent, data)
    check_categories(source)
    for finding in source.findings:
        if finding.severity == ERROR:
            raise AnnotationFileError(finding.describe())
    return [data["categories"][source.categories[x]]["name"] for x in sorted(source.categories)]


@dataclass
class Source:
    """A data set to be checked.

    Attributes:
        name: what reports call it, such as "train".
        path: file or folder of the annotations.
        image_root: folder that names of images are relative to.
        data: content in COCO's format, as it is.
        findings: what is wrong with it so far.
        images, categories: places of the entries that make sense, by id.
        annotations: places of the annotations that make sense, whose image and category exist.
        boxes: (M, 4) float64 of these, x, y, width, height; NaN where there is no such number.
        sizes: (H, W) by place of the images whose size is known.
    """

    name: str
    path: Path
    image_root: Path
    data: dict
    findings: list[Finding] = field(default_factory=list)
    images: dict[int, int] = field(default_factory=dict)
    categories: dict[int, int] = field(default_factory=dict)
    annotations: list[int] = field(default_factory=list)
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)

    def image_path(self, place: int) -> str:
        """Path of the file of an image entry that makes sense."""
        return os.path.join(self.image_root, self.data["images"][place]["file_name"])

    def report(self, kind: str, message: str, section: str = "", place: int = -1, **more) -> None:
        """Add a finding, with the ids and the file of the entry that it concerns."""
        entry = self.data[section][place] if section and place >= 0 else None
        entry = entry if isinstance(entry, dict) else {}
        known: dict[str, Any] = {"file": str(self.path)}
        if section == "images":
            known["image_id"] = entry.get("id")
            if isinstance(entry.get("file_name"), str):
                known["file"] = entry["file_name"]
        elif section == "annotations":
            known |= {"annotation_id": entry.get("id"), "image_id": entry.get("image_id")}
            image_id = entry.get("image_id")
            if is_whole(image_id) and image_id in self.images:
                known["file"] = self.data["images"][self.images[image_id]]["file_name"]
        elif section == "categories":
            known["category_id"] = entry.get("id")
        known |= more
        finding = Finding(kind, message, source=self.name, section=section, place=place, **known)
        self.findings.append(finding)

    def objects(self) -> Iterator[tuple[int, dict]]:
        """Place and entry of the annotations that make sense."""
        entries = self.data["annotations"]
        return ((place, entries[place]) for place in self.annotations)


def check_entries(source: Source) -> None:
    """Sort out what makes sense in the three sections, and report the rest."""
    check_categories(source)
    check_images(source)
    check_annotations(source)


def missing_keys(entry: object, whole: tuple[str, ...], text: tuple[str, ...] = ()) -> str:
    """What keeps an entry from being used; "" if nothing."""
    if not isinstance(entry, dict):
        return f"it is {shorten(entry)}, expected an object"
    for key in whole:
        if not is_whole(entry.get(key)):
            found = shorten(entry[key]) if key in entry else "missing"
            return f"{key!r} is {found}, expected a whole number"
    for key in text:
        value = entry.get(key)
        if not isinstance(value, str) or not value or "\0" in value:
            found = shorten(value) if key in entry else "missing"
            return f"{key!r} is {found}, expected a name"
    return ""


def check_categories(source: Source) -> None:
    names: dict[str, object] = {}
    for place, entry in enumerate(source.data["categories"]):
        fault = missing_keys(entry, ("id",), ("name",))
        if fault:
            source.report("entry_malformed", fault, "categories", place)
            continue
        first = source.categories.setdefault(entry["id"], place)
        if first != place:
            name = source.data["categories"][first]["name"]
            message = f"{entry['name']!r} has the id of {name!r}"
            source.report("category_id_collision", message, "categories", place, other=first)
            continue
        known = names.setdefault(entry["name"], entry["id"])
        if known != entry["id"]:
            message = f"{entry['name']!r} is also the name of category {known}"
            source.report("category_name_repeated", message, "categories", place)


def check_images(source: Source) -> None:
    files: dict[str, object] = {}
    for place, entry in enumerate(source.data["images"]):
        fault = missing_keys(entry, ("id",), ("file_name",))
        if fault:
            source.report("entry_malformed", fault, "images", place)
            continue
        first = source.images.setdefault(entry["id"], place)
        if first != place:
            name = source.data["images"][first]["file_name"]
            message = f"{name!r} has the same id, expected ids that differ"
            source.report("image_id_collision", message, "images", place, other=first)
            continue
        known = files.setdefault(os.path.normpath(entry["file_name"]), entry["id"])
        if known != entry["id"]:
            message = f"image {known} is the same file"
            source.report("image_file_repeated", message, "images", place)
        sides = [entry.get(key) for key in ("height", "width")]
        if all(is_whole(side) and side > 0 for side in sides):
            source.sizes[place] = sides[0], sides[1]
        else:
            message = (
                f"height is {shorten(sides[0])} and width {shorten(sides[1])}, expected whole "
                "numbers of pixels"
            )
            source.report("image_size_missing", message, "images", place)


def box_of(entry: dict) -> tuple[list[float], str]:
    """The four numbers of an annotation, or NaN and what is wrong with them."""
    box = entry.get("bbox")
    numbers = [to_float(x) for x in box] if isinstance(box, list) else []
    if len(numbers) != 4 or None in numbers:
        found = shorten(box) if "bbox" in entry else "missing"
        return [math.nan] * 4, f"'bbox' is {found}, expected [x, y, width, height]"
    return numbers, ""  # pyright: ignore[reportReturnType]


def is_segmentation(shape: object) -> bool:
    """Whether Detectron2's reader takes this, so that the object is not skipped."""
    if not shape:  # missing or empty: a box alone
        return shape is None or isinstance(shape, list | dict)
    if isinstance(shape, dict):
        size, counts = shape.get("size"), shape.get("counts")
        sized = isinstance(size, list) and len(size) == 2 and all(map(is_whole, size))
        listed = isinstance(counts, list) and all(map(is_whole, counts))
        return sized and (listed or isinstance(counts, str))
    if not isinstance(shape, list):
        return False
    return any(
        isinstance(points, list) and len(points) >= 6 and len(points) % 2 == 0 for points in shape
    ) and all(isinstance(points, list) for points in shape)


def check_annotations(source: Source) -> None:
    seen: dict[int, int] = {}
    boxes = []
    for place, entry in enumerate(source.data["annotations"]):
        fault = missing_keys(entry, ("image_id", "category_id"))
        if fault:
            source.report("entry_malformed", fault, "annotations", place)
            continue
        number = entry.get("id")
        if not is_whole(number):
            found = shorten(number) if "id" in entry else "missing"
            message = f"'id' is {found}, expected a whole number"
            source.report("annotation_id_invalid", message, "annotations", place)
        elif seen.setdefault(number, place) != place:
            message = f"annotations[{seen[number]}] has the same id, expected ids that differ"
            source.report("annotation_id_collision", message, "annotations", place)
        if entry["image_id"] not in source.images:
            message = f"there is no image {entry['image_id']}"
            source.report("unknown_image", message, "annotations", place)
            continue
        if entry["category_id"] not in source.categories:
            message = f"there is no category {entry['category_id']}"
            source.report("unknown_category", message, "annotations", place)
            continue
        if not is_segmentation(entry.get("segmentation")):
            found = shorten(entry["segmentation"])
            message = f"'segmentation' is {found}, expected polygons or run lengths"
            source.report("segmentation_malformed", message, "annotations", place)
        if entry.get("ignore"):
            message = f"'ignore' is {shorten(entry['ignore'])}, expected 'iscrowd'"
            source.report("ignore_flag", message, "annotations", place)
        crowd, area = entry.get("iscrowd"), to_float(entry.get("area"))
        if crowd not in (0, 1) or area is None or not math.isfinite(area):
            message = (
                f"'iscrowd' is {shorten(crowd)} and 'area' {shorten(entry.get('area'))}, expected "
                "0 or 1 and a number of pixels"
            )
            source.report("field_missing", message, "annotations", place)
        box, fault = box_of(entry)
        if fault:
            source.report("box_malformed", fault, "annotations", place)
        source.annotations.append(place)
        boxes.append(box)
    source.boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
