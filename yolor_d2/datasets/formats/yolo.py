"""YOLO's format: a text file for each image with a line for each object, as fractions of the image;
beside them data.yaml or classes.txt with the names of the classes.

A line is "class cx cy w h", a box; or "class x1 y1 x2 y2 ...", an outline of three points or more;
or, where data.yaml has 'kpt_shape', a box and then its keypoints.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import yaml

from ...files.inspection import inspect_image
from ...files.values import shorten
from ...structures.keypoints import FLIP_KEY, VISIBILITIES
from ...structures.polygons import LEAST_COORDINATES, signed_areas
from .labels import LabelFault, LabelledSet, list_images, read_names, read_text

# Names of the file with the names, one a line.
NAME_FILES = ("classes.txt", "obj.names", "labels.txt")
# What numbers of a line may be: somewhat beyond the image, and no pixels.
MAX_FRACTION = 2
# Numbers of a line that is a box, without the class.
OF_A_BOX = 4
# Points of an object, so that a typing error takes no memory.
MOST_POINTS = 1000
# What a point that can be seen has for its visibility.
VISIBLE = 2
# Folders by whose names images are parts of a data set.
PARTS = ("train", "val", "valid", "test")


@dataclass(frozen=True)
class PointForm:
    """Keypoints of a data set.

    Attributes:
        count: of the points of an object.
        sized: numbers of a point: x, y, or x, y, visibility.
        names: of each class, those of its points.
        pairs: of each class, those that a mirrored image exchanges; None where nothing says so.
    """

    count: int
    sized: int
    names: list[list[str]]
    pairs: list[list[list[str]]] | None

    def categories(self) -> dict[str, list]:
        """Keys of the categories of a COCO file, a value for each class."""
        more = {"keypoints": self.names, "skeleton": [[] for _ in self.names]}
        return more if self.pairs is None else {**more, FLIP_KEY: self.pairs}


class Line(NamedTuple):
    """A line of a label file.

    Attributes:
        label: number of the class, from 0.
        box: (4,) x, y, width, height as fractions of the image.
        outline: (n, 2) points in shares, None of a box.
        points: (K, 3) x, y in shares, and visibility; None where the data set has no keypoints.
    """

    label: int
    box: np.ndarray
    outline: np.ndarray | None = None
    points: np.ndarray | None = None


def read_yolo(path: Path, split: str = "train", *, names: Sequence[str] | None = None):
    """Read one part of a data set in YOLO's format.

    Categories are numbered from 1, class 0 of the labels is 1.

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
    content: dict = {}
    if config is None:
        file = find_names(folder)
        if file is None and names is None:
            raise ValueError(
                f"{str(path)!r} is not in YOLO's or VOC's format: expected a data.yaml, a "
                f"{NAME_FILES[0]}, or a folder 'Annotations' of .xml files"
            )
        images = list_images(folder / "images" if (folder / "images").is_dir() else folder)
        part = [x for x in images if split in x.relative_to(folder).parts]
        named_parts = {y for x in images for y in x.relative_to(folder).parts} & set(PARTS)
        if named_parts and not part:
            raise ValueError(
                f"{str(path)!r} has no part {split!r}; it has {', '.join(sorted(named_parts))}"
            )
        images = part or images
        names = list(names or read_names(file))  # pyright: ignore[reportArgumentType]
    else:
        content = read_yaml(config)
        names = list(names or names_of(config, content))
        folder, images = images_of(config, content, split)
    form = None if config is None else points_of(config, content, len(names))
    labelled = LabelledSet(folder)
    labelled.set_categories(names, 1, **(form.categories() if form is not None else {}))
    used = set()
    for image in images:
        labels = label_path(image)
        used.add(labels)
        add_image(labelled, image, labels, len(names), form)
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
    files = sorted(x for x in path.glob("*.y*ml") if x.is_file())
    named = [x for x in files if x.stem in ("data", "dataset")]
    return (named or files or [None])[0]


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


def points_of(path: Path, content: dict, num_classes: int) -> PointForm | None:
    """What data.yaml says of keypoints: 'kpt_shape', and 'flip_idx' and 'kpt_names' where it has
    them; None if it says nothing.

    Raises:
        ValueError: naming the key and what was expected.
    """

    def refuse(key: str, expected: str) -> NoReturn:
        raise ValueError(f"{str(path)!r}: {key!r} is {shorten(content[key])}, expected {expected}")

    shape = content.get("kpt_shape")
    if shape is None:
        return None
    whole = isinstance(shape, list) and len(shape) == 2 and all(type(x) is int for x in shape)
    if not whole or not 1 <= shape[0] <= MOST_POINTS or shape[1] not in (2, 3):
        refuse("kpt_shape", "the number of points, and 2 (x, y) or 3 (x, y, visibility)")
    count, sized = shape
    names = [[f"kpt_{i}" for i in range(count)]] * num_classes
    given = content.get("kpt_names")
    if given is not None:
        # Either those of all classes, or of each one by its number.
        listed = given if isinstance(given, dict) else dict.fromkeys(range(num_classes), given)
        known = [x for i in range(num_classes) if isinstance(x := listed.get(i), list)]
        texts = all(len(set(map(str, x))) == len(x) == count for x in known)
        if (
            not texts
            or not listed
            or set(listed) - set(range(num_classes))
            or len(known) < len(listed)
        ):
            refuse(
                "kpt_names", f"{count} names that differ, of all classes or of each by its number"
            )
        names = [list(map(str, listed.get(i, known[0]))) for i in range(num_classes)]
    flip = content.get("flip_idx")
    if flip is None:
        return PointForm(count, sized, names, None)
    places = list(range(count))
    whole = isinstance(flip, list) and all(type(x) is int for x in flip)
    if not whole or sorted(flip) != places:
        refuse("flip_idx", f"each number from 0 to {count - 1} once")
    if any(flip[flip[i]] != i for i in places):
        refuse("flip_idx", "pairs of points that take each other's place")
    pairs = [[[x[i], x[flip[i]]] for i in places if i < flip[i]] for x in names]
    return PointForm(count, sized, names, pairs)


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


def add_image(
    labelled: LabelledSet, image: Path, labels: Path, num_classes: int, form: PointForm | None
) -> None:
    """Add an image with the objects of its label file; without one it has none."""
    size = inspect_image(str(image), decode=False).size
    number = labelled.add_image(image, size)
    try:
        lines = read_text(labels).splitlines() if labels.exists() else []
    except (OSError, ValueError) as error:
        labelled.faults.append(LabelFault("label_malformed", str(labels), str(error)))
        return
    for i, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            line = read_line(text, num_classes, form)
        except ValueError as error:
            labelled.faults.append(LabelFault("label_malformed", f"{labels}:{i}", str(error)))
            continue
        if size is not None:  # else the image is at fault
            scale = np.array(size[::-1], dtype=np.float64)  # width, height
            box = (line.box.reshape(2, 2) * scale).ravel().tolist()
            labelled.add_box(number, line.label + 1, box, **parts_in_pixels(line, scale))


def parts_in_pixels(line: Line, scale: np.ndarray) -> dict[str, object]:
    """Outline and keypoints as keys of an annotation, the area with the outline.

    Normalised keypoints times the size are COCO's numbers, as those who made such labels of COCO's
    divided these by it.
    """
    more: dict[str, object] = {}
    if line.outline is not None:
        outline = line.outline * scale
        area = abs(float(signed_areas(outline, np.array([len(outline)]))[0]))
        more |= {"segmentation": [outline.ravel().tolist()], "area": area}
    if line.points is not None:
        visibility = line.points[:, 2].astype(int).tolist()
        centres = (line.points[:, :2] * scale).tolist()
        values = [x for xy, seen in zip(centres, visibility) for x in (*xy, seen)]
        more |= {"keypoints": values, "num_keypoints": sum(x > 0 for x in visibility)}
    return more


def read_line(text: str, num_classes: int, form: PointForm | None = None) -> Line:
    """A line of a label file.

    Args:
        text: the line.
        num_classes: that labels are below.
        form: of the keypoints; with it a line is a box and keypoints, or a box alone.

    Raises:
        ValueError: when it is no such line.
    """
    words = text.split()
    try:
        label, values = float(words[0]), np.array([float(x) for x in words[1:]])
    except ValueError:
        raise ValueError(f"{text[:60]!r} has a word that is no number") from None
    if label not in range(num_classes):
        raise ValueError(f"class {words[0]!r} is none of 0 to {num_classes - 1}")
    outline = None
    points = None if form is None else np.zeros((form.count, 3))
    if form is not None and len(values) == OF_A_BOX + form.count * form.sized:
        points = read_points(values[OF_A_BOX:].reshape(form.count, form.sized), text)
        values = values[:OF_A_BOX]
    elif form is not None and len(values) != OF_A_BOX:
        raise ValueError(
            f"{text[:60]!r} has {len(words)} numbers, expected class, cx, cy, w, h and "
            f"{form.sized} of each of {form.count} points ('kpt_shape' of data.yaml), "
            f"{1 + OF_A_BOX + form.count * form.sized} in all"
        )
    if len(values) == OF_A_BOX:
        box = np.concatenate([values[:2] - values[2:] / 2, values[2:]])
    elif len(values) >= LEAST_COORDINATES and len(values) % 2 == 0:
        outline = values.reshape(-1, 2)
        low, high = outline.min(axis=0), outline.max(axis=0)
        box = np.concatenate([low, high - low])
    else:
        raise ValueError(
            f"{text[:60]!r} has {len(words)} numbers, expected class, cx, cy, w, h, or class and "
            "the points of a polygon"
        )
    within = values if points is None else np.concatenate([values, points[:, :2].ravel()])
    if not np.abs(within).max() <= MAX_FRACTION:
        raise ValueError(
            f"{text[:60]!r} is not normalised by the size of the image, expected numbers in 0-1"
        )
    return Line(int(label), box, outline, points)


def read_points(table: np.ndarray, text: str) -> np.ndarray:
    """(K, 3) x, y as fractions of the image, and visibility, which is 0 with x = y = 0 for points
    that are not labelled.

    Args:
        table: (K, 2 or 3) as in the file. Without a visibility, points at the corner 0, 0 or with
            a number below 0 are not labelled, and the others can be seen.
        text: the line, for the error.

    Raises:
        ValueError: when a visibility is none.
    """
    if table.shape[1] == 2:
        labelled = (table >= 0).all(axis=1) & (table > 0).any(axis=1)
        seen = np.where(labelled, VISIBLE, 0)
    else:
        seen = table[:, 2]
        wrong = seen[~np.isin(seen, VISIBILITIES)]
        if len(wrong):
            raise ValueError(
                f"{text[:60]!r} has the visibility {wrong[0]:g}, expected 0 (not labelled), 1 "
                "(hidden) or 2 (visible)"
            )
    return np.concatenate([table[:, :2], seen[:, None]], axis=1) * (seen > 0)[:, None]
