"""What training and evaluation need of a data set's images: files, sizes, boxes, classes,
identities, outlines, keypoints; whole arrays, from a COCO file or from dataset dicts."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..d2.data import DatasetFromList
from ..d2.structures import BoxMode
from ..files.images import read_image
from ..structures.keypoints import cut_keypoints, join_keypoints, read_points
from ..structures.polygons import MALFORMED, PolygonList, Polygons, join_polygons
from ..wording import counted
from .annotations import IDENTITY_KEY, NO_IDENTITY, Annotations, Strings, is_identity

logger = logging.getLogger(__name__)

# A box with a side below this, in pixels, is not trained on.
MIN_BOX_SIDE = 1e-5


@dataclass(frozen=True)
class GroundTruth:
    """N images with M objects: no crowd regions, boxes cut at the border of their image, without
    those of no area.

    Attributes:
        file_names: N paths.
        image_ids: N ids, whole numbers as a rule.
        sizes: (N, 2) int64 heights and widths in pixels.
        starts: (N + 1,) int64; the objects of image i are the rows starts[i] to starts[i + 1].
        boxes: (M, 4) float64 xyxy in pixels.
        labels: (M,) int64 classes.
        identities: (M,) int64, which individual an object is, as the data set numbers them; -1
            where that is not known.
        num_given: objects before those without area were left out.
        polygons: of the M objects, cut at the border of their image; None if nobody asked for them.
        keypoints: (M, K, 3) float32, see `keypoints`, in pixels, none outside its image; None if
            nobody asked for them.
    """

    file_names: Sequence[str]
    image_ids: Sequence
    sizes: np.ndarray
    starts: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    identities: np.ndarray
    num_given: int
    polygons: Polygons | None = None
    keypoints: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.sizes)

    @classmethod
    def from_annotations(
        cls,
        annotations: Annotations,
        image_root: str,
        channels: int = 3,
        polygons: Polygons | None = None,
        keypoints: np.ndarray | None = None,
    ) -> GroundTruth:
        """Of a COCO file; see `from_items`.

        Args:
            annotations: content of the file.
            image_root: folder of the images.
            channels: of the images, see `images.read_image`.
            polygons: of the objects of the file, if they are needed.
            keypoints: the same.
        """
        folder = os.path.join(image_root, "")
        names = Strings.pack(
            [x if os.path.isabs(x) else folder + x for x in annotations.file_names]
        )
        corners = annotations.boxes.copy()
        corners[:, 2:] += corners[:, :2]
        return cls._build(
            names,
            annotations.image_ids,
            known_sizes(annotations.sizes, names, channels),
            annotations.image_rows,
            corners,
            annotations.labels,
            annotations.identities,
            ~annotations.crowd,
            polygons,
            keypoints,
        )

    @classmethod
    def from_items(
        cls,
        items: Sequence[dict],
        channels: int = 3,
        polygons: bool = False,
        keypoints: bool = False,
        num_keypoints: int | None = None,
    ) -> GroundTruth:
        """Of dataset dicts in Detectron2's standard format.

        Args:
            items: with "annotations" or without; an image is read if its size is not given.
            channels: of the images, see `images.read_image`.
            polygons: whether they are needed, of objects that have some.
            keypoints: the same.
            num_keypoints: of each object; None is that of the first that has some.

        Raises:
            ValueError: when an annotation has no box, or an identity or keypoints that cannot be.
            ImageReadError: when an image has to be read and cannot be.
        """
        names = Strings.pack([str(item["file_name"]) for item in items])
        given = [(item.get("height", -1), item.get("width", -1)) for item in items]
        owners, objects = [], []
        for place, item in enumerate(items):
            for annotation in item.get("annotations", []):
                if not annotation.get("iscrowd", 0):
                    owners.append(place)
                    objects.append(annotation)
        for place, annotation in zip(owners, objects):
            check_annotation(annotation, items[place])
        boxes = np.array([x["bbox"] for x in objects], dtype=np.float64)
        modes = np.array([int(x["bbox_mode"]) for x in objects])
        for mode in np.unique(modes):
            rows = modes == mode
            boxes[rows] = BoxMode.convert(boxes[rows], BoxMode(int(mode)), BoxMode.XYXY_ABS)
        sizes = known_sizes(np.array(given, dtype=np.int64).reshape(-1, 2), names, channels)
        return cls._build(
            names,
            pack_ids([item["image_id"] for item in items]),
            sizes,
            np.array(owners, dtype=np.int64),
            boxes.reshape(-1, 4),
            np.array([x["category_id"] for x in objects], dtype=np.int64),
            np.array([x.get(IDENTITY_KEY, NO_IDENTITY) for x in objects], dtype=np.int64),
            np.ones(len(objects), dtype=bool),
            list_polygons(objects, sizes[owners].tolist()) if polygons else None,
            list_keypoints(objects, [items[i] for i in owners], num_keypoints)
            if keypoints
            else None,
        )

    @classmethod
    def _build(
        cls,
        names: Sequence[str],
        ids: Sequence,
        sizes: np.ndarray,
        owners: np.ndarray,
        boxes: np.ndarray,
        labels: np.ndarray,
        identities: np.ndarray,
        counts: np.ndarray,
        polygons: Polygons | None,
        keypoints: np.ndarray | None,
    ) -> GroundTruth:
        """From the boxes of all objects, by rising place of their image."""
        limits = sizes[owners][:, [1, 0, 1, 0]]
        boxes = boxes.clip(0, limits)
        kept = counts & ((boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) > MIN_BOX_SIDE)
        return cls(
            file_names=names,
            image_ids=ids,
            sizes=sizes,
            starts=np.searchsorted(owners[kept], np.arange(len(sizes) + 1)).astype(np.int64),
            boxes=boxes[kept],
            labels=labels[kept],
            identities=identities[kept],
            num_given=int(counts.sum()),
            polygons=None if polygons is None else polygons.take(kept).cut(*limits[kept, :2].T),
            keypoints=(
                None if keypoints is None else cut_keypoints(keypoints[kept], *limits[kept, :2].T)
            ),
        )

    @classmethod
    def join(cls, parts: Sequence[GroundTruth]) -> GroundTruth:
        """Several data sets, one after the other."""
        if len(parts) == 1:
            return parts[0]
        starts = np.cumsum([0, *(part.starts[-1] for part in parts)])
        return cls(
            file_names=Strings.pack([name for part in parts for name in part.file_names]),
            image_ids=pack_ids([part.image_id(i) for part in parts for i in range(len(part))]),
            sizes=np.concatenate([part.sizes for part in parts]),
            starts=np.concatenate(
                [[0], *(part.starts[1:] + start for part, start in zip(parts, starts))]
            ),
            boxes=np.concatenate([part.boxes for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            identities=np.concatenate([part.identities for part in parts]),
            num_given=sum(part.num_given for part in parts),
            polygons=join_polygons([(part.polygons, len(part.labels)) for part in parts]),
            keypoints=join_keypoints([(part.keypoints, len(part.labels)) for part in parts]),
        )

    def without_empty(self) -> GroundTruth:
        """The images that have objects."""
        counts = np.diff(self.starts)
        kept = np.flatnonzero(counts)
        return GroundTruth(
            file_names=Strings.pack([self.file_names[i] for i in kept.tolist()]),
            image_ids=pack_ids([self.image_id(i) for i in kept.tolist()]),
            sizes=self.sizes[kept],
            starts=np.cumsum([0, *counts[kept]]),
            boxes=self.boxes,
            labels=self.labels,
            identities=self.identities,
            num_given=self.num_given,
            polygons=self.polygons,
            keypoints=self.keypoints,
        )

    def image_id(self, index: int) -> int | str:
        """Id of one image, a plain value."""
        value = self.image_ids[index]
        return value.item() if isinstance(value, np.generic) else value

    def rows(self, index: int) -> slice:
        """The rows of the objects of one image."""
        return slice(*self.starts[index : index + 2].tolist())


def list_polygons(objects: Sequence[dict], sizes: Sequence[Sequence[int]]) -> Polygons:
    """Polygons of annotations in Detectron2's standard format.

    Args:
        objects: M annotations.
        sizes: height and width of the image of each.
    """
    listed = PolygonList()
    for annotation, (height, width) in zip(objects, sizes):
        listed.add(annotation.get("segmentation"), (height, width))
    polygons = listed.finish()
    if listed.malformed:
        logger.warning(MALFORMED, counted(listed.malformed, "object"))
    return polygons


def list_keypoints(objects: Sequence[dict], items: Sequence[dict], count: int | None) -> np.ndarray:
    """(M, K, 3) keypoints of annotations in Detectron2's standard format, zeros for objects
    without.

    Args:
        objects: M annotations.
        items: the image of each.
        count: K; None is that of the first object that has some, 0 where none has.

    Raises:
        ValueError: when some make no sense, naming the image.
    """
    points_by_row = {}
    for i, (annotation, item) in enumerate(zip(objects, items)):
        if annotation.get("keypoints") is None or not len(annotation["keypoints"]):
            continue
        try:
            points_by_row[i] = read_points(annotation["keypoints"], count)
        except ValueError as error:
            raise ValueError(f"image {item['file_name']!r} has an object with {error}") from error
        count = len(points_by_row[i])
    keypoints = np.zeros((len(objects), count or 0, 3), dtype=np.float32)
    for i, points in points_by_row.items():
        keypoints[i] = points
    return keypoints


def pack_ids(ids: list) -> Sequence:
    """Ids of images in a form that forked processes share."""
    if all(type(x) is int and abs(x) < 2**63 for x in ids):
        return np.array(ids, dtype=np.int64)
    return DatasetFromList(ids, copy=False)  # pyright: ignore[reportReturnType]


def known_sizes(sizes: np.ndarray, names: Sequence[str], channels: int) -> np.ndarray:
    """(N, 2) heights and widths; images of which a data set does not say them are read."""
    unknown = np.flatnonzero((sizes <= 0).any(axis=1))
    if len(unknown):
        sizes = sizes.copy()
        for i in unknown.tolist():
            sizes[i] = read_image(names[i], channels=channels).shape[:2]
    return sizes


def check_annotation(annotation: dict, item: dict) -> None:
    """Raise a ValueError unless an annotation has a box, and an identity that can be one."""
    if "bbox" not in annotation:
        raise ValueError(f"image {item['file_name']!r} has an annotation without 'bbox'")
    identity = annotation.get(IDENTITY_KEY, NO_IDENTITY)
    if not is_identity(identity):
        raise ValueError(
            f"image {item['file_name']!r} has an annotation with {IDENTITY_KEY!r} {identity!r}, "
            "expected a whole number from 0, or -1 for an unknown individual"
        )


def known_identities(identities: np.ndarray) -> np.ndarray:
    """The distinct known ones, in rising order: an individual's class is its place in this row."""
    return np.unique(identities[identities != NO_IDENTITY])


def number_identities(identities: np.ndarray) -> np.ndarray:
    """Identities as places in `known_identities`; `NO_IDENTITY` stays."""
    places = np.searchsorted(known_identities(identities), identities)
    return np.where(identities == NO_IDENTITY, NO_IDENTITY, places)
