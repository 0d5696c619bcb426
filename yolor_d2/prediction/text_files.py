"""Text files of detections that grow and can be resumed: JSON, lines of JSON, CSV.

A text file is whole whenever it is flushed, JSON too: its end is written each time and overwritten
by the next record. Nothing is kept, so memory does not grow with the inputs.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from ..visualize.shapes import Skeleton, crops, polygon_text
from .result import Result

JSON_LINES_SUFFIXES = {".jsonl", ".ndjson"}
CSV_COLUMNS = ("file_name", "frame", "seconds", "class", "score", "x", "y", "width", "height")
# Streams that the process has already.
OWN_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of the system inside names the file, which that of a full disk does not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def is_regular(path: Path) -> bool:
    """Whether this is, or will be, a file; /dev/stdout is none even where it leads to one."""
    return "/dev" not in map(str, path.parents) and (not path.exists() or path.is_file())


class StreamedText:
    """A text file to which records are added.

    Args:
        path: of the file; a device, such as /dev/stdout, is written without going back.
        mark: what `mark` gave, to go on behind it; None begins anew.
        head: of the file.
        separator: between records.
        tail: the end of the file.

    Raises:
        OSError: when it cannot be opened.
        ValueError: when the file is not what it was at the mark.
    """

    def __init__(
        self,
        path: Path,
        mark: dict | None = None,
        *,
        head: str = "",
        separator: str = "",
        tail: str = "",
    ):
        self.path = path
        self.separator = separator
        self.tail = tail
        self.regular = is_regular(path)
        self.size = self.checksum = self.records = 0
        self.flushed = 0  # bytes that are surely there
        path.parent.mkdir(parents=True, exist_ok=True)
        if mark is None:
            # Opened anew, a file behind /dev/stdout would be written from its beginning.
            own = OWN_STREAMS.get(str(path))
            self.file = path.open("wb") if own is None else os.fdopen(os.dup(own), "wb")
            self.put(head)
        else:
            self.size, self.checksum, self.records = mark["size"], mark["crc32"], mark["records"]
            require_same(path, self.size, self.checksum)
            self.file = path.open("r+b")
            self.file.truncate(self.size)
            self.file.seek(self.size)
            self.flushed = self.size

    def put(self, text: str) -> None:
        data = text.encode("utf-8", "surrogateescape")  # as names of files are
        with naming(self.path):
            self.file.write(data)
        self.size += len(data)
        self.checksum = zlib.crc32(data, self.checksum)

    def write(self, record: str) -> None:
        self.put((self.separator if self.records else "") + record)
        self.records += 1

    def flush(self, sync: bool = False) -> None:
        """Hand everything to the system, or with `sync` to the disk."""
        with naming(self.path):
            if self.regular:
                self.file.write(self.tail.encode())
            self.file.flush()
            if sync and self.regular:
                os.fsync(self.file.fileno())
            if self.regular:
                self.file.seek(self.size)
        self.flushed = self.size

    def mark(self) -> dict:
        """Where to go on."""
        return {"size": self.size, "crc32": self.checksum, "records": self.records}

    def close(self) -> None:
        """End the file; if there is no room for all of it, behind the last record that fits."""
        if self.file.closed:
            return
        try:
            self.flush()
        except OSError:
            with contextlib.suppress(OSError):
                self.file.close()
            if self.regular:
                with contextlib.suppress(OSError), self.path.open("r+b") as file:
                    file.truncate(self.flushed)
                    file.seek(self.flushed)
                    file.write(self.tail.encode())
            raise
        with naming(self.path):
            if not self.regular:
                self.file.write(self.tail.encode())
            self.file.close()


def require_same(path: Path, size: int, checksum: int) -> None:
    """Raise a ValueError where the first bytes of a file are not those of a checksum."""
    computed, left = 0, size
    with path.open("rb") as file:
        while left and (data := file.read(min(left, 1 << 20))):
            computed, left = zlib.crc32(data, computed), left - len(data)
    if left or computed != checksum:
        raise ValueError(
            f"--resume: {str(path)!r} has been changed since it was written; --overwrite starts "
            "anew"
        )


class JsonFile(StreamedText):
    """A list of records; lines of JSON where the file's suffix says so."""

    def __init__(self, path: Path, mark: dict | None = None):
        if path.suffix.lower() in JSON_LINES_SUFFIXES:
            super().__init__(path, mark, tail="", separator="")
            self.end = "\n"
        else:
            super().__init__(path, mark, head="[\n", separator=",\n", tail="\n]\n")
            self.end = ""

    def add(self, result: Result) -> None:
        self.write(json.dumps(result.record()) + self.end)


class CsvFile(StreamedText):
    """A line a detection.

    Args:
        path: of the file.
        mark: see `StreamedText`.
        identities: whether there is a column of them.
        masks: whether there is a column of outlines.
        skeleton: of the keypoints, each of which has three columns; None without any.
    """

    def __init__(
        self,
        path: Path,
        mark: dict | None = None,
        *,
        identities: bool = False,
        masks: bool = False,
        skeleton: Skeleton | None = None,
    ):
        columns = [*CSV_COLUMNS, *(["identity"] if identities else [])]
        columns += ["polygons"] if masks else []
        for name in () if skeleton is None else skeleton.names:
            columns += [f"{name}_x", f"{name}_y", f"{name}_score"]
        head = io.StringIO()
        csv.writer(head, lineterminator="\n").writerow(columns)
        super().__init__(path, mark, head=head.getvalue())

    def add(self, result: Result) -> None:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        masks = None if result.masks is None else crops(result.masks)
        for number, record in enumerate(result.detections):
            place = (result.source.shown, result.frame, round(result.seconds, 6))
            row = [*place, record["class"], record["score"], *record["bbox"]]
            row += [record["identity"]] if "identity" in record else []
            row += [] if masks is None else [polygon_text(masks(number))]
            row += [value for point in record.get("keypoints", ()) for value in point]
            table.writerow(row)
        if result.labels:
            self.write(text.getvalue())
