"""YOLO's format: a text file for each image, a line "class cx cy w h" for each box, in shares of
the image; beside them data.yaml or classes.txt with the names of the classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..check.images import inspect_image
from .labels import LabelFault, LabelledSet, list_images, read_names, read_text

# Names of the file with the names, one a line.
NAME_FILES = ("classes.txt", "obj.names", "labels.txt")
# Folders by whose names images are parts of a data set.
PARTS = ("train", "val", "valid", "test")


def read_yolo(path: Path, split: str = "train", *, names: Sequence[str] | None = None):
    """Read one part of a data set in YOLO's format.

    Categories are numbered from 1, class 0 of the labels is 1. A polygon counts as its hull.

    Args:
        path: data.yaml, the folder that has it, or a folder with classes.txt.
        split: key of data.yaml, "train", "val" or "test".
        names: of the classes; None takes those that the data set has.

    Raises:
        ValueError: when it is not in this format.
        OSError: when a file cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    config = find_yaml(path)
    if config is None:
        found = find_names(folder)
        if found is None and names is None:
            raise ValueError(
                f"{str(path)!r} is not in YOLO's or VOC's format: expected a data.yaml, a "
                f"{NAME_FILES[0]}, or a folder 'Annotations' of .xml files"
            )
        images = list_images(folder / "images" if (folder / "images").is_dir() else folder)
        part = [x for x in images if split in x.relative_to(folder).parts]
        found_parts = {y for x in images for y in x.relative_to(folder).parts} & set(PARTS)
        if found_parts and not part:
            raise ValueError(
                f"{str(path)!r} has no part {split!r}; it has {', '.join(sorted(found_parts))}"
            )
        images = part or images
        names = list(names or read_names(found))  # pyright: ignore[reportArgumentType]
    else:
        content = read_yaml(config)
        names = list(names or names_of(config, content))
        folder, images = images_of(config, content, split)
    labelled = LabelledSet(folder)
    labelled.set_categories(names, 1)
    used = set()
    for image in images:
        labels = label_path(image)
        used.add(labels)
        add_image(labelled, image, labels, len(names))
    if not any(labels.exists() for labels in used):
        message = f"none of {len(images)} images has a label file, expected such as this one"
        labelled.faults.append(LabelFault("labels_missing", str(min(used)), message))
    for labels in sorted({x for y in {z.parent for z in used} for x in y.glob("*.txt")} - used):
        if labels.name not in NAME_FILES and labels.stem not in ("train", "val", "test"):
            message = "no image belongs to this label file"
            labelled.faults.append(LabelFault("label_without_image", str(labels), message))
    return labelled


def find_yaml(path: Path) -> Path | None:
    if path.is_file():
        return path
    found = sorted(x for x in path.glob("*.y*ml") if x.is_file())
    named = [x for x in found if x.stem in ("data", "dataset")]
    return (named or found or [None])[0]


def find_names(folder: Path) -> Path | None:
    return next((folder / x for x in NAME_FILES if (folder / x).is_file()), None)


def read_yaml(path: Path) -> dict:
    """data.yaml as plain data.

    Raises:
        ValueError: when it is none.
    """
    try:
        content = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{str(path)!r} cannot be read as YAML: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} has no keys, expected 'names' and 'train' or 'val'")
    return content


def names_of(path: Path, content: dict) -> list[str]:
    """Names of the classes, a list or by number from 0."""
    names = content.get("names")
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(
            f"{str(path)!r}: 'names' is {str(names)[:60]}, expected a list of names, or names by "
            "number from 0"
        )
    count = content.get("nc", len(names))
    if count != len(names):
        raise ValueError(f"{str(path)!r}: 'nc' is {count}, but 'names' has {len(names)}")
    return list(map(str, names))


def part_of(content: dict, split: str) -> Any:
    """What data.yaml says of a part; labelling services call "val" also "valid"."""
    return content.get(split, content.get("valid") if split == "val" else None)


def images_of(path: Path, content: dict, split: str) -> tuple[Path, list[Path]]:
    """Folder of a data set, and the images of one part of it."""
    given = part_of(content, split)
    entries = given if isinstance(given, list) else [given]
    if not given or not all(isinstance(x, str) and x and "\0" not in x for x in entries):
        raise ValueError(
            f"{str(path)!r}: {split!r} is {given!r}, expected a folder, a list file, or a list of "
            "these"
        )
    base: Any = content.get("path")
    root = path.parent / base if isinstance(base, str) else path.parent
    images: list[Path] = []
    for entry in entries:
        place = find_place(root, path.parent, entry)
        if place.is_dir():
            images += list_images(place)
        else:
            lines = [x.strip() for x in read_text(place).splitlines()]
            images += [root / x for x in lines if x]
    if not images:
        raise ValueError(f"{str(path)!r}: {split!r} is {given!r}, which has no images")
    # Links and ".." aside, so that names of images can be relative to it.
    common = Path(os.path.commonpath([root.absolute(), *(x.absolute() for x in images)]))
    return common, [x.absolute() for x in images]


def find_place(root: Path, folder: Path, entry: str) -> Path:
    """A path of data.yaml: below its 'path', or below the folder that it lies in.

    Exports of labelling services say "../train/images" and mean "train/images".
    """
    tried = [root / entry, folder / entry, folder / entry.removeprefix("../")]
    for place in tried:
        if place.exists():
            return Path(os.path.normpath(place))
    raise FileNotFoundError(f"no such file or folder {str(tried[0])!r}, named by data.yaml")


def label_path(image: Path) -> Path:
    """The label file of an image: in "labels" in place of "images", else beside the image."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def add_image(labelled: LabelledSet, image: Path, labels: Path, num_classes: int) -> None:
    """Add an image with the boxes of its label file; without one it has none."""
    size = inspect_image(str(image), decode=False).size
    number = labelled.add_image(image, size)
    try:
        lines = read_text(labels).splitlines() if labels.exists() else []
    except (OSError, ValueError) as error:
        labelled.faults.append(LabelFault("label_malformed", str(labels), str(error)))
        return
    for i, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            label, box = read_line(line, num_classes)
        except ValueError as error:
            labelled.faults.append(LabelFault("label_malformed", f"{labels}:{i}", str(error)))
            continue
        if size is not None:  # else the image is at fault
            height, width = size
            x, y, w, h = box
            scaled = [x * width, y * height, w * width, h * height]
            labelled.add_box(number, label + 1, scaled)


def read_line(line: str, num_classes: int) -> tuple[int, list[float]]:
    """Class and box x, y, width, height in shares of the image.

    Raises:
        ValueError: when it is no such line.
    """
    words = line.split()
    try:
        label, values = float(words[0]), [float(x) for x in words[1:]]
    except ValueError:
        raise ValueError(f"{line[:60]!r} has a word that is no number") from None
    if label not in range(num_classes):
        raise ValueError(f"class {words[0]!r} is none of 0 to {num_classes - 1}")
    if len(values) == 4:
        cx, cy, w, h = values
        box = [cx - w / 2, cy - h / 2, w, h]
    elif len(values) >= 6 and len(values) % 2 == 0:
        xs, ys = values[::2], values[1::2]
        box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    else:
        raise ValueError(
            f"{line[:60]!r} has {len(words)} numbers, expected class, cx, cy, w, h, or class and "
            "the points of a polygon"
        )
    if max(map(abs, values)) > 2:
        raise ValueError(f"{line[:60]!r} is not in shares of the image, expected numbers in 0-1")
    return int(label), box
