"""Which of the other formats a path holds, and its annotations as COCO's content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...inputs import require_path
from .labels import LabelledSet, list_images
from .voc import find_annotations, read_voc, split_file
from .yolo import find_yaml, part_of, read_yaml, read_yolo


def read_labelled(
    path: Path, split: str = "train", *, names: Sequence[str] | None = None, one_based: bool = True
) -> LabelledSet:
    """Read a folder or data.yaml of YOLO, or a folder of Pascal VOC.

    Args:
        path: a folder with .xml files, in it or in "Annotations", is VOC's, any other YOLO's.
        split: which part of it, where it has parts.
        names: of the classes; None takes those that the data set has.
        one_based: see `voc.read_voc`.

    Raises:
        FileNotFoundError: when there is no such path.
        ValueError: when it is in neither format.
    """
    require_path(path)
    if path.is_dir() and find_annotations(path) is not None:
        return read_voc(path, split, names=names, one_based=one_based)
    return read_yolo(path, split, names=names)


def has_split(path: Path, split: str) -> bool:
    """Whether a data set of YOLO or Pascal VOC names such a part of its own, as "val"."""
    if path.is_dir() and find_annotations(path) is not None:
        return split_file(path, split).is_file()
    config = find_yaml(path)
    if config is not None:
        return bool(part_of(read_yaml(config), split))
    return any(split in image.relative_to(path).parts for image in list_images(path))
