"""Detections written as they come: text files that can be gone on with, and folders of files.

A text file is whole whenever it is flushed, JSON too: its end is written each time and overwritten
by the next record. Nothing is kept, so memory does not grow with the inputs.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..ops.masks import BoxMasks
from ..visualize.pictures import draw_boxes, write_image
from ..visualize.shapes import (
    Skeleton,
    coco_points,
    crops,
    one_outline,
    point_records,
    polygon_text,
    seen_points,
)
from .sources import Source

JSON_LINES_SUFFIXES = {".jsonl", ".ndjson"}
CSV_COLUMNS = ("file_name", "frame", "seconds", "class", "score", "x", "y", "width", "height")
# Streams that the process has already.
OWN_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}
# Digits in the names of files of frames: seven days at 25 frames per second.
FRAME_DIGITS = 8


def detection_records(
    boxes: np.ndarray,
    scores: Sequence[float],
    names: Sequence[str],
    masks: BoxMasks | None = None,
    keypoints: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Detections as plain data, as everything that is written has them.

    Args:
        boxes: (M, 4) xyxy in pixels; a record has x, y, width, height.
        scores: M.
        names: M, of their classes.
        masks: M; a record has COCO's compressed run lengths as "segmentation".
        keypoints: (M, K, 3) x, y, score; a record has them as "keypoints".
    """
    records: list[dict[str, Any]] = [
        {
            "bbox": [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(score, 5),
            "class": name,
        }
        for (x1, y1, x2, y2), score, name in zip(boxes.tolist(), scores, names)
    ]
    columns: dict[str, list] = {}
    if masks is not None:
        columns["segmentation"] = masks.rle()
    if keypoints is not None:
        columns["keypoints"] = point_records(keypoints)
    for key, values in columns.items():
        for record, value in zip(records, values):
            record[key] = value
    return records


@dataclass(frozen=True)
class Result:
    """Detections of an image or of a frame of a video.

    Attributes:
        source: where it comes from.
        image_id: see `ImageIds`.
        frame: its number in the video; 0 for images.
        seconds: since the video's first frame; 0 for images.
        size: (H, W).
        boxes: (M, 4) xyxy in pixels.
        scores: M.
        labels: M classes.
        identities: M, None where an object is not known yet; empty without tracking.
        names: of the classes.
        read: gives (H, W, 3) RGB pixels.
        masks: of the M objects; None where the model has none.
        keypoints: (M, K, 3) x, y in pixels, score in 0-1; None where the model has none.
        skeleton: what the keypoints are.
    """

    source: Source
    image_id: int
    frame: int
    seconds: float
    size: tuple[int, int]
    boxes: np.ndarray
    scores: list[float]
    labels: list[int]
    identities: list[int | None]
    names: Sequence[str]
    read: Callable[[], np.ndarray] = field(repr=False)
    masks: BoxMasks | None = None
    keypoints: np.ndarray | None = None
    skeleton: Skeleton | None = None

    @property
    def stem(self) -> str:
        """Place and name of files about it, below a folder and without suffix."""
        place = str(self.source.place)
        return place if self.source.kind == "image" else f"{place}_{self.frame:0{FRAME_DIGITS}d}"

    @cached_property
    def detections(self) -> list[dict]:
        """See `detection_records`; with identities where objects are followed."""
        names = [self.names[x] for x in self.labels]
        records = detection_records(self.boxes, self.scores, names, self.masks, self.keypoints)
        for record, identity in zip(records, self.identities):
            record["identity"] = identity
        return records

    def record(self) -> dict:
        return {
            "file_name": self.source.shown,
            "frame": self.frame,
            "seconds": round(self.seconds, 6),
            "height": self.size[0],
            "width": self.size[1],
            "detections": self.detections,
        }

    def drawn(self, *, labels: bool = True, line_width: int | None = None) -> np.ndarray:
        return draw_boxes(
            self.read(),
            self.boxes,
            self.labels,
            self.names,
            self.scores,
            labels=labels,
            line_width=line_width,
            identities=self.identities or None,
            masks=None if self.masks is None else crops(self.masks),
            keypoints=self.keypoints,
            skeleton=self.skeleton,
        )


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of the system inside names the file, which that of a full disk does not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


# ---- Text files


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


class CocoResults(StreamedText):
    """Results as COCO's evaluation reads them; identities are a key more."""

    def __init__(self, path: Path, categories: Sequence[int], mark: dict | None = None):
        super().__init__(path, mark, head="[\n", separator=",\n", tail="\n]\n")
        self.categories = categories

    def add(self, result: Result) -> None:
        for record, label in zip(result.detections, result.labels):
            entry = {"image_id": result.image_id, "category_id": self.categories[label], **record}
            del entry["class"]
            if "keypoints" in entry:
                entry["keypoints"] = coco_points(entry["keypoints"])
            self.write(json.dumps(entry))


class CocoImages(StreamedText):
    """The table of images that belongs to `CocoResults`: what each id stands for."""

    def __init__(
        self, path: Path, names: Sequence[str], categories: Sequence[int], mark: dict | None = None
    ):
        table = [{"id": number, "name": name} for number, name in zip(categories, names)]
        head = f'{{"categories": {json.dumps(table)}, "images": [\n'
        super().__init__(path, mark, head=head, separator=",\n", tail="\n]}\n")

    def add(self, result: Result) -> None:
        record = result.record()
        del record["detections"]
        self.write(json.dumps({"id": result.image_id, **record}))


def images_table(path: Path) -> Path:
    """Where the table of images of a file of COCO results lies."""
    return path.with_name(f"{path.stem}.images.json")


class ImageIds:
    """A number for every image and frame.

    They are those of a given annotation file by the names of its images; else the numbers that the
    names of images are, if all inputs are images and the numbers differ; else they count from 1.

    Args:
        sources: all inputs.
        annotations: content of a COCO file.

    Raises:
        ValueError: when an input is not in the annotation file, or cannot be.
    """

    def __init__(self, sources: Sequence[Source], annotations: dict | None = None):
        self.known: dict[str, int] = {}
        if annotations is not None:
            ids = {image["file_name"]: image["id"] for image in annotations["images"]}
            self.known = {source.name: find_id(source, ids) for source in sources}
            return
        stems = [Path(source.name).stem for source in sources]
        if all(x.kind == "image" for x in sources) and all(map(str.isdecimal, stems)):
            numbers = list(map(int, stems))
            if len(set(numbers)) == len(numbers):
                self.known = {x.name: number for x, number in zip(sources, numbers)}

    def __call__(self, source: Source, count: int) -> int:
        """The id of an image or frame that so many came before."""
        return self.known[source.name] if self.known else count + 1


def find_id(source: Source, ids: dict[str, int]) -> int:
    if source.kind != "image":
        raise ValueError(f"--coco-images: {source.shown!r} is no image, and has no id there")
    parts = Path(source.name).parts
    for begin in range(len(parts)):  # the longest name first
        name = "/".join(parts[begin:])
        if name in ids:
            return ids[name]
    raise ValueError(f"--coco-images: the annotation file has no image {Path(source.name).name!r}")


def category_ids(names: Sequence[str], annotations: dict | None = None) -> list[int]:
    """COCO's number of each class: from 1, or those of an annotation file by name.

    Raises:
        ValueError: when the annotation file lacks a class.
    """
    if annotations is None:
        return list(range(1, len(names) + 1))
    known = {category["name"]: category["id"] for category in annotations["categories"]}
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(
            f"--coco-images: the annotation file has no class {missing[0]!r}; it has "
            f"{', '.join(map(str, known))}"
        )
    return [known[name] for name in names]


# ---- Folders


def file_below(folder: Path, result: Result, suffix: str) -> Path:
    path = folder / (result.stem + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def drawn_image(folder: Path, source: Source) -> Path:
    return folder / f"{source.place}.jpg"


def drawn_video(folder: Path, source: Source) -> Path:
    return folder / f"{source.place}.mp4"


class DrawnImages:
    """Images with their boxes; videos have `video.VideoWriter`."""

    def __init__(self, folder: Path, **style: object):
        self.folder = folder
        self.style = style

    def add(self, result: Result) -> None:
        if result.source.kind == "image":
            write_image(drawn_image(self.folder, result.source), result.drawn(**self.style))


class YoloLabels:
    """A text file an image or frame: class and box relative to the image, as YOLO's labels are;
    with masks class and outline, with keypoints alone class, box and points.

    The format has no line for both. One without any detection is empty: the image has been looked
    at.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def add(self, result: Result) -> None:
        lines = [f"{words}\n" for words in yolo_lines(result)]
        path = file_below(self.folder, result, ".txt")
        with naming(path):
            path.write_text("".join(lines), encoding="utf-8")


def yolo_lines(result: Result) -> Iterator[str]:
    """A line for each detection, see `YoloLabels`."""
    height, width = result.size
    masks = None if result.masks is None else crops(result.masks)
    for i, ((x1, y1, x2, y2), label) in enumerate(zip(result.boxes.tolist(), result.labels)):
        values: list[str]
        if masks is not None:
            outline = one_outline(masks(i))
            if outline is None:  # the box, as every object has a line
                outline = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])
            values = [f"{v:.6f}" for v in (outline / (width, height)).ravel().tolist()]
        else:
            box = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height)
            box = (*box, (x2 - x1) / width, (y2 - y1) / height)
            values = [f"{v:.6f}" for v in box]
            if result.keypoints is not None:
                points = result.keypoints[i]
                for (x, y, _), is_seen in zip(points.tolist(), seen_points(points)):
                    # What is not seen is not labelled.
                    place = (x / width, y / height) if is_seen else (0, 0)
                    values += [*(f"{v:.6f}" for v in place), "2" if is_seen else "0"]
        yield f"{label} {' '.join(values)}"


class Crops:
    """The pixels of each box, in a folder a class."""

    def __init__(self, folder: Path):
        self.folder = folder

    def add(self, result: Result) -> None:
        if not result.labels:
            return
        pixels = result.read()
        height, width = result.size
        counted: Counter[int] = Counter()
        for (x1, y1, x2, y2), label in zip(result.boxes.tolist(), result.labels):
            left, top = min(max(int(x1), 0), width - 1), min(max(int(y1), 0), height - 1)
            crop = pixels[top : max(round(y2), top + 1), left : max(round(x2), left + 1)]
            name = re.sub(r"[^\w .+-]", "_", result.names[label]).strip(" .") or str(label)
            path = file_below(self.folder / name, result, f"_{counted[label]}.jpg")
            _, data = cv2.imencode(".jpg", np.ascontiguousarray(crop[:, :, ::-1]))
            with naming(path):
                path.write_bytes(data.tobytes())
            counted[label] += 1
