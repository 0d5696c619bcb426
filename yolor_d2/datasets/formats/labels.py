"""Annotations of other formats, on their way to COCO's content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ...inputs import IMAGE_SUFFIXES
from ..source import check_regular_file


class LabelFault(NamedTuple):
    """A line or element that cannot be read.

    Attributes:
        kind: "label_malformed", "labels_missing" or "label_without_image", see
            `findings.KINDS`.
        file: path of the label file, with the number of the line.
        message: the present value, and what was expected.
    """

    kind: str
    file: str
    message: str


@dataclass
class LabelledSet:
    """A data set of another format.

    Attributes:
        image_root: folder that names of images are relative to.
        data: content in COCO's format. Images whose size is unknown have none.
        faults: what could not be read.
    """

    image_root: Path
    data: dict = field(default_factory=lambda: {"images": [], "annotations": [], "categories": []})
    faults: list[LabelFault] = field(default_factory=list)

    def set_categories(self, names: Sequence[str], first: int, **more: Sequence[object]) -> None:
        """Categories by their names, with ids from `first`, and more keys, a value for each."""
        self.data["categories"] = [
            {"id": first + i, "name": name, **{key: values[i] for key, values in more.items()}}
            for i, name in enumerate(names)
        ]

    def add_image(self, path: Path, size: tuple[int, int] | None) -> int:
        """Add an image of (H, W) pixels; returns its id."""
        number = len(self.data["images"]) + 1
        try:
            name = path.relative_to(self.image_root).as_posix()
        except ValueError:  # elsewhere
            name = str(path.absolute())
        entry: dict = {"id": number, "file_name": name}
        if size is not None:
            entry |= {"height": size[0], "width": size[1]}
        self.data["images"].append(entry)
        return number

    def add_box(
        self, image: int, category: int, box: Sequence[float], crowd: int = 0, **more: object
    ) -> None:
        """Add an object.

        Args:
            image, category: their ids.
            box: x, y, width, height in pixels.
            crowd: 1 for a region of a crowd.
            more: further keys of the annotation; "area" in place of that of the box.
        """
        self.data["annotations"].append(
            {
                "id": len(self.data["annotations"]) + 1,
                "image_id": image,
                "category_id": category,
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": crowd,
                **more,
            }
        )


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: when it is none.
    """
    check_regular_file(path)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not UTF-8 text: byte {error.start}") from error


def read_names(path: Path) -> list[str]:
    """Names of classes, one a line."""
    names = [line.strip() for line in read_text(path).splitlines()]
    while names and not names[-1]:
        names.pop()
    if not names or not all(names):
        raise ValueError(f"{str(path)!r} has an empty line or no name, expected one name a line")
    return names


def list_images(folder: Path) -> list[Path]:
    """Image files below a folder, by name; links to folders are not followed."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )
