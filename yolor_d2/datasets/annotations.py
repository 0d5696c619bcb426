"""Annotations of a data set as arrays.

`datasets.coco_json` makes them of a COCO file, `datasets.open_files` keeps them for all that need
them, and `datasets.prepared_copies` for processes and later runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..files.values import LARGEST_NUMBER

# In place of a number for objects of which it is not known which individual they are.
NO_IDENTITY = -1
# Key of an annotation, also in COCO files, that says which individual an object is: a whole number
# from 0, the same wherever that individual is seen. Without it, or at -1, that is not known.
IDENTITY_KEY = "instance_id"


class Strings(Sequence[str]):
    """Texts in one array of bytes, which forked processes share however often they are read.

    Args:
        data: (B,) uint8, UTF-8 of all texts.
        ends: (N,) int64, where each ends.
    """

    def __init__(self, data: np.ndarray, ends: np.ndarray):
        self.data, self.ends = data, ends

    @classmethod
    def pack(cls, texts: Sequence[str]) -> Strings:
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        ends = np.cumsum([len(x) for x in encoded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        start = self.ends[index - 1] if index else 0
        return self.data[start : self.ends[index]].tobytes().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        content, start = self.data.tobytes(), 0
        for end in self.ends.tolist():
            yield content[start:end].decode("utf-8", "surrogatepass")
            start = end


@dataclass(frozen=True)
class Annotations:
    """A data set of N images, M objects and K categories.

    Images come in the order of their ids, the objects of an image in that of the file.

    Attributes:
        image_ids: (N,) int64, rising.
        sizes: (N, 2) int64 heights and widths in pixels; -1 where the file does not say.
        file_names: N names as the file has them.
        starts: (N + 1,) int64; the objects of image i are the rows starts[i] to starts[i + 1].
        ids: (M,) int64 ids of the annotations.
        boxes: (M, 4) float64 x, y, width, height in pixels, as the file has them; NaN where it has
            none.
        labels: (M,) int64 places of the categories in `category_ids`.
        areas: (M,) float64 in pixels; NaN where the file does not say.
        crowd: (M,) bool, regions of many objects.
        identities: (M,) int64, which individual an object is; -1 where that is not known.
        category_ids: (K,) int64, rising.
        category_names: K names.
        category_keypoints: K values, "keypoints", "skeleton" and "flip_pairs" as the file has them,
            not looked at; None where it has no keypoints.
    """

    image_ids: np.ndarray
    sizes: np.ndarray
    file_names: Sequence[str]
    starts: np.ndarray
    ids: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    identities: np.ndarray
    category_ids: np.ndarray
    category_names: Sequence[str]
    category_keypoints: Sequence[dict | None] = ()

    @property
    def image_rows(self) -> np.ndarray:
        """(M,) int64 place of the image of each object."""
        return np.repeat(np.arange(len(self.image_ids)), np.diff(self.starts))

    def as_coco(self, places: Sequence[int]) -> dict:
        """Some images with their objects, and all categories, as content of a COCO file."""
        rows = [row for i in places for row in range(self.starts[i], self.starts[i + 1])]
        owners = [int(self.image_ids[i]) for i in places]
        counts = [int(self.starts[i + 1] - self.starts[i]) for i in places]
        image_of = [owner for owner, count in zip(owners, counts) for _ in range(count)]
        columns = (self.ids, self.labels, self.boxes, self.areas, self.crowd)
        ids, labels, boxes, areas, crowd = (x[rows].tolist() for x in columns)
        categories = self.category_ids.tolist()
        return {
            "images": [
                {"id": owner, "file_name": self.file_names[i], "height": height, "width": width}
                for owner, i, (height, width) in zip(owners, places, self.sizes[places].tolist())
            ],
            "annotations": [
                {
                    "id": ids[i],
                    "image_id": image_of[i],
                    "category_id": categories[labels[i]],
                    "bbox": boxes[i],
                    "area": areas[i],
                    "iscrowd": int(crowd[i]),
                }
                for i in range(len(rows))
            ],
            "categories": [
                {"id": number, "name": name}
                for number, name in zip(categories, self.category_names)
            ],
        }


def is_identity(value: object) -> bool:
    """Whether a value of an annotation can say which individual it is."""
    return type(value) is int and NO_IDENTITY <= value < LARGEST_NUMBER
