"""Folders with a file for each image or frame: drawn images, YOLO labels, crops."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ..visualize.pictures import write_image
from ..visualize.shapes import crops, one_outline, seen_points
from .result import Result
from .sources import Source
from .text_files import naming


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
