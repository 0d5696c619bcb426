"""Checks of the entries of annotations: whether they have what they need, and belong together."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np

from ..files.values import is_whole, shorten, to_float
from .findings import ERROR
from .forms import is_segmentation, read_masks, read_numbers
from .source import AnnotationFileError, Source


def check_category_names(path: Path, categories: list) -> list[str]:
    """Names of the categories of a COCO file, by rising id.

    Raises:
        AnnotationFileError: when there is none, or one that makes no sense.
    """
    if not categories:
        raise AnnotationFileError(f"{str(path)!r} is not in COCO format: it has no 'categories'")
    sections = {"images": [], "annotations": [], "categories": categories}
    source = Source("", path, path.parent, sections)
    read_numbers(source)  # of which the checks before training tell
    check_categories(source)
    for finding in source.findings:
        if finding.severity == ERROR and finding.kind != "number_malformed":
            raise AnnotationFileError(finding.describe())
    entries = source.data["categories"]
    return [entries[source.categories[x]]["name"] for x in sorted(source.categories)]


def check_entries(source: Source) -> None:
    """Sort out what makes sense in the three sections, and report the rest."""
    read_numbers(source)
    read_masks(source)
    check_categories(source)
    check_images(source)
    check_annotations(source)


def is_text(value: str) -> bool:
    """Whether a string can be written: JSON may have halves of characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def missing_keys(entry: object, whole: tuple[str, ...], text: tuple[str, ...] = ()) -> str:
    """What keeps an entry from being used; "" if nothing."""
    if not isinstance(entry, dict):
        return f"it is {shorten(entry)}, expected an object"
    for key in whole:
        if not is_whole(entry.get(key)):
            shown = shorten(entry[key]) if key in entry else "missing"
            return f"{key!r} is {shown}, expected a whole number"
    for key in text:
        value = entry.get(key)
        if not isinstance(value, str) or not value or "\0" in value:
            shown = shorten(value) if key in entry else "missing"
            return f"{key!r} is {shown}, expected a name"
    return ""


def check_categories(source: Source) -> None:
    names: dict[str, object] = {}
    for place, entry in enumerate(source.data["categories"]):
        fault = missing_keys(entry, ("id",), ("name",))
        if not fault and not is_text(entry["name"]):  # names of files need not be
            fault = f"'name' is {shorten(entry['name'])}, expected text"
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
        shown = shorten(box) if "bbox" in entry else "missing"
        return [math.nan] * 4, f"'bbox' is {shown}, expected [x, y, width, height]"
    return numbers, ""  # pyright: ignore[reportReturnType]


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
            shown = shorten(number) if "id" in entry else "missing"
            message = f"'id' is {shown}, expected a whole number"
            source.report("annotation_id_invalid", message, "annotations", place)
        elif seen.setdefault(number, place) != place:
            message = f"annotations[{seen[number]}] has the same id, expected ids that differ"
            other = seen[number]
            source.report("annotation_id_collision", message, "annotations", place, other=other)
        if entry["image_id"] not in source.images:
            message = f"there is no image {entry['image_id']}"
            source.report("unknown_image", message, "annotations", place)
            continue
        if entry["category_id"] not in source.categories:
            message = f"there is no category {entry['category_id']}"
            source.report("unknown_category", message, "annotations", place)
            continue
        if not is_segmentation(entry.get("segmentation")):
            shown = shorten(entry["segmentation"])
            message = (
                f"'segmentation' is {shown}, expected polygons of at least three points, or run "
                "lengths"
            )
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
