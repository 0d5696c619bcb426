"""Labels of other formats, written as a COCO file."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from ...files.writing import atomic_write
from .labels import LabelledSet
from .read import read_labelled

logger = logging.getLogger(__name__)


def read_complete(
    source: Path,
    split: str,
    *,
    names: Sequence[str] | None = None,
    one_based: bool = True,
    skip: bool = False,
) -> LabelledSet:
    """Read one part of a data set in YOLO's or Pascal VOC's format, every line and image of it.

    Args:
        source, split, names, one_based: see `read_labelled`.
        skip: leave out what cannot be read, with a line in the log, in place of an error.

    Raises:
        ValueError: when it is in neither format, when a line or an image cannot be read, or when
            no image is left.
        OSError: when a file cannot be read.
    """
    labelled = read_labelled(source, split, names=names, one_based=one_based)
    data = labelled.data
    faults = [f"{x.file}: {x.message}" for x in labelled.faults]
    faults += [
        f"{x['file_name']}: its size cannot be read" for x in data["images"] if "height" not in x
    ]
    if faults and not skip:
        more = f" ({len(faults)} such in all)" if len(faults) > 1 else ""
        option = "train" if split == "train" else "val"
        raise ValueError(
            f"{faults[0]}{more}; `yolor-d2 check --{option} {source}` names all, `yolor-d2 "
            f"convert-data {source} --split {split} --skip` leaves out what cannot be read"
        )
    for fault in faults:
        logger.warning("Left out: %s", fault)
    data["images"] = [x for x in data["images"] if "height" in x]
    if not data["images"]:
        raise ValueError(f"{str(source)!r} has no images to write")
    return labelled


def convert_to_coco(
    source: Path, split: str, target: Path, *, names: Sequence[str] | None = None, **options: bool
) -> LabelledSet:
    """Write what `read_complete` reads as a COCO file, `target`.

    Returns:
        What was written.
    """
    labelled = read_complete(source, split, names=names, **options)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target, shared=True) as file:
        file.write(json.dumps(labelled.data).encode())
    return labelled
