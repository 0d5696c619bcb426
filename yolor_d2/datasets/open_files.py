"""COCO files that this process has read: once, shared by all that need them."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from .annotations import Annotations
from .coco_json import collector_paused, convert, decode, to_arrays
from .prepared_copies import copy_of, copy_path, is_large, keep_copy, read_copy
from .source import AnnotationFileError, read_coco

logger = logging.getLogger(__name__)


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
        if is_large(path):
            self.arrays = read_large(path)
            return
        self.content = read_coco(path, annotated=False)
        try:
            self.arrays = to_arrays(convert(self.content, path), path)
        except AnnotationFileError as error:
            self.fault = error  # the checks report it better, if they are run

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
        """Content of the file, for the checks; None of a large one, or when it has been taken."""
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
    """Read files anew when they are used again."""
    _read.clear()


def drop_contents() -> None:
    """Keep nothing but arrays of what this process has read: no more checks are to come."""
    for _, file in _read.values():
        file.content = None


def read_annotations(path: str | Path) -> Annotations:
    """The arrays of a COCO file, see `open_annotations`."""
    return open_annotations(path).annotations
