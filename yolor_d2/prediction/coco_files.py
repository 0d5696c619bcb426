"""Detections as COCO's result files, and the ids of images and classes in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..visualize.shapes import coco_points
from .result import Result
from .sources import Source
from .text_files import StreamedText


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
