"""Annotations as a file has them, read without trust: entries that make sense, and findings."""

from __future__ import annotations

import codecs
import json
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..files.values import is_whole
from .findings import KINDS, Finding

# Keys of the lists in a COCO file.
SECTIONS = ("images", "annotations", "categories")


class AnnotationFileError(ValueError):
    """A file that cannot be read as annotations; the message names it."""


def check_regular_file(path: str | Path) -> None:
    """Raise an OSError unless a path leads to a regular file, of which alone reading ends."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"{str(path)!r} is no regular file")


def encoding_of(start: bytes) -> str:
    """How a text is encoded that begins so: UTF-8, or what a byte order mark says, as editors and
    shells of Windows put it there; the mark is no part of the text then."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig" if start.startswith(codecs.BOM_UTF8) else "utf-8"


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

    encoding = encoding_of(content)
    try:
        text = content.decode(encoding)
        if not text.strip():
            refuse("it is empty")
        return json.loads(text)
    except UnicodeDecodeError as error:
        refuse(f"byte {error.start} is not {'UTF-16' if encoding == 'utf-16' else 'UTF-8'}")
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


@dataclass
class Source:
    """A data set to be checked.

    Attributes:
        name: what reports call it, such as "train".
        path: file or folder of the annotations.
        image_root: folder that names of images are relative to.
        data: raw content in COCO's format.
        findings: what is wrong with it so far.
        images, categories: places of the entries that make sense, by id.
        annotations: places of the annotations that make sense, whose image and category exist.
        boxes: (M, 4) float64 of these, x, y, width, height; NaN where there is no such number.
        sizes: (H, W) by place of the images whose size is known.
        replaced: entries as the file has them, by section and place, of which `data` has what they
            mean, with the reasons; see `forms`.
        needed: what tasks learn beside boxes, "polygons" and "keypoints"; findings that keep
            them from it are errors then.
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
    replaced: dict[tuple[str, int], tuple[dict, str]] = field(default_factory=dict)
    needed: frozenset[str] = frozenset()

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
        known["stops"] = KINDS[kind].stops and KINDS[kind].part in self.needed
        finding = Finding(kind, message, source=self.name, section=section, place=place, **known)
        self.findings.append(finding)

    def replace(self, section: str, place: int, values: dict, reason: str) -> None:
        """Read keys of an entry as these values."""
        entries = self.data[section]
        before, *reasons = self.replaced.get((section, place), (entries[place],))
        self.replaced[section, place] = before, "; ".join([*reasons, reason])
        if len(self.replaced) == 1:  # the original stays unchanged
            self.data = {**self.data, **{key: list(self.data[key]) for key in SECTIONS}}
        self.data[section][place] = {**entries[place], **values}

    def report_encoding(self) -> None:
        """Report a file of annotations that is read here, but not by other programs."""
        with open(self.path, "rb") as file:
            encoding = encoding_of(file.read(4))
        if encoding != "utf-8":
            named = "UTF-16" if encoding == "utf-16" else "UTF-8 with a byte order mark"
            self.report("byte_order_mark", f"the file is {named}, expected UTF-8 without one")

    def objects(self) -> Iterator[tuple[int, dict]]:
        """Place and entry of the annotations that make sense."""
        entries = self.data["annotations"]
        return ((place, entries[place]) for place in self.annotations)

    def object_sizes(self) -> np.ndarray:
        """(M, 2) float64 height and width of the image of each object; NaN if unknown."""
        unknown = (math.nan, math.nan)
        owners = (self.images[entry["image_id"]] for _, entry in self.objects())
        sizes = [self.sizes.get(place, unknown) for place in owners]
        return np.array(sizes, dtype=np.float64).reshape(-1, 2)

    def crowd_objects(self) -> np.ndarray:
        """(M,) bool: regions of crowds, unless all objects of the file are marked so."""
        crowd = [entry.get("iscrowd") == 1 for _, entry in self.objects()]
        if any(finding.kind == "all_crowd" for finding in self.findings):
            crowd = [False] * len(crowd)
        return np.array(crowd, dtype=bool)
