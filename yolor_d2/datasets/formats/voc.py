"""Pascal VOC's format: an XML file for each image."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from ...files.inspection import inspect_image
from ...inputs import IMAGE_SUFFIXES
from .labels import LabelFault, LabelledSet, read_names, read_text

# Declarations in which entities are defined, that can grow without end or name other files.
DECLARATIONS = re.compile(r"<!\s*(DOCTYPE|ENTITY|ELEMENT|ATTLIST|NOTATION)", re.IGNORECASE)
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def find_annotations(folder: Path) -> Path | None:
    """The folder with the .xml files of a data set, None if it has none."""
    for place in (folder / "Annotations", folder):
        if place.is_dir() and next(place.glob("*.xml"), None) is not None:
            return place
    return None


def read_xml(path: Path) -> Element:
    """The root of an XML file.

    Raises:
        ValueError: when it is none or no annotation, or has declarations, which annotations have no
            use for.
    """
    text = read_text(path)
    if DECLARATIONS.search(text):
        raise ValueError("it declares a document type or entities, which are not read")
    # A declaration of another encoding is void, as the text is decoded.
    text = re.sub(r"^\s*<\?xml[^>]*\?>", "", text)
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, RecursionError) as error:
        raise ValueError(f"it is no XML: {error}") from error
    if root.tag != "annotation":
        raise ValueError(f"its root is <{root.tag[:40]}>, expected <annotation>")
    return root


def read_voc(
    folder: Path,
    split: str = "train",
    *,
    names: Sequence[str] | None = None,
    one_based: bool = True,
) -> LabelledSet:
    """Read one part of a data set in VOC's format.

    Categories are numbered from 1 in alphabetical order. Objects that are "difficult" become crowd
    regions, which are neither trained on nor counted by the evaluation.

    Args:
        folder: with "Annotations" and "JPEGImages", or with images and .xml files side by side.
        split: name of a list in "ImageSets/Main"; without such a list all files are taken.
        names: of the classes; None takes classes.txt, else those that occur.
        one_based: the first pixel is 1 and xmax belongs to the box, as in VOC itself; otherwise
            corners are coordinates from 0.

    Raises:
        ValueError: when it is not in this format.
        OSError: when a file cannot be read.
    """
    place = find_annotations(folder)
    if place is None:
        raise ValueError(f"{str(folder)!r} is not in VOC's format: it has no .xml files")
    stems = sorted(x.stem for x in place.glob("*.xml"))
    listed = split_file(folder, split)
    parts = sorted(path.stem for path in listed.parent.glob("*.txt"))
    if parts and split not in parts:
        raise ValueError(f"{str(folder)!r} has no part {split!r}; it has {', '.join(parts)}")
    if listed.is_file():
        lines = [line.split() for line in read_text(listed).splitlines()]
        stems = [words[0] for words in lines if words]
    labelled = LabelledSet(folder)
    roots: list[tuple[Path, Element]] = []
    for stem in stems:
        path = place / f"{stem}.xml"
        try:
            roots.append((path, read_xml(path)))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            labelled.faults.append(LabelFault("label_malformed", str(path), reason))
    if names is None:
        names_file = folder / "classes.txt"
        present = {text_of(x, "name") for _, root in roots for x in root.iter("object")}
        names = read_names(names_file) if names_file.is_file() else sorted(present - {""})
    labelled.set_categories(names, 1)
    numbers = {name: i for i, name in enumerate(names, 1)}
    images = folder / "JPEGImages"
    for path, root in roots:
        add_image(
            labelled, images if images.is_dir() else path.parent, path, root, numbers, one_based
        )
    return labelled


def split_file(folder: Path, split: str) -> Path:
    """The list of the images of a part, where there is one."""
    return folder / "ImageSets" / "Main" / f"{split}.txt"


def text_of(element: Element, key: str) -> str:
    return (element.findtext(key) or "").strip()


def image_of(folder: Path, path: Path, name: str) -> Path:
    """The image of an annotation: by the name in it, else by that of the file."""
    named = folder / Path(name.replace("\\", "/")).name if name and "\0" not in name else None
    if named is not None and named.is_file():
        return named
    for ending in sorted(IMAGE_SUFFIXES):
        for spelling in (ending, ending.upper()):
            if (folder / f"{path.stem}{spelling}").is_file():
                return folder / f"{path.stem}{spelling}"
    return named or folder / f"{path.stem}.jpg"


def add_image(
    labelled: LabelledSet,
    folder: Path,
    path: Path,
    root: Element,
    numbers: dict[str, int],
    one_based: bool,
) -> None:
    """Add the image of an annotation with its boxes."""
    image = image_of(folder, path, text_of(root, "filename"))
    sides = [text_of(root, f"size/{key}") for key in ("height", "width")]
    size = None
    if all(x.isdecimal() and 0 < int(x) < 2**31 for x in sides if len(x) < 12):
        size = (int(sides[0]), int(sides[1])) if all(sides) else None
    if size is None:
        size = inspect_image(str(image), decode=False).size
    number = labelled.add_image(image, size)
    for i, element in enumerate(root.iter("object")):
        try:
            name, box = read_object(element, numbers, one_based)
        except ValueError as error:
            message = f"object {i + 1}: {error}"
            labelled.faults.append(LabelFault("label_malformed", str(path), message))
            continue
        crowd = int(text_of(element, "difficult") == "1")
        labelled.add_box(number, numbers[name], box, crowd)


def read_object(
    element: Element, numbers: dict[str, int], one_based: bool
) -> tuple[str, list[float]]:
    """Name and box x, y, width, height in pixels.

    Raises:
        ValueError: when the object has none.
    """
    name = text_of(element, "name")
    if not name:
        raise ValueError("it has no <name>, expected that of its class")
    if name not in numbers:
        raise ValueError(f"class {name!r} is none of {', '.join(numbers)[:100]}")
    corners = []
    for key in CORNERS:
        text = text_of(element, f"bndbox/{key}")
        try:
            corners.append(float(text))
        except ValueError:
            raise ValueError(f"{key} is {text!r}, expected a number") from None
    if not all(map(math.isfinite, corners)):
        raise ValueError(f"bndbox is {corners}, expected finite numbers")
    x1, y1, x2, y2 = corners
    if one_based:
        x1, y1 = x1 - 1, y1 - 1
    return name, [x1, y1, x2 - x1, y2 - y1]
