"""Training samples: read, mosaic, warp, mixup, colour, flips; everything seeded by the sample's
position."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from ..d2.data import DatasetFromList
from ..d2.structures import Boxes, BoxMode, Instances
from ..ops.padding import Padding
from .augment import (
    NO_IDENTITY,
    Sample,
    clip_boxes,
    flip_horizontal,
    flip_vertical,
    mixup,
    random_hsv,
    resize_longer_side,
    resized_size,
)
from .cache import DiskCache, MemoryCache
from .image import ImageReadError, check_channel_order, read_image
from .mosaic import mosaic4_corners, mosaic9_corners
from .partners import PartnerPool
from .shapes import BatchShapes, Frame
from .warp import Tile, random_warp, render
from .workers import shield_worker

# A box with a side below this, in pixels, is not trained on.
MIN_BOX_SIDE = 1e-5
# Key of an annotation, also in COCO files, that says which individual an object is: a whole number
# from 0, the same wherever that individual is seen. Without it, or at -1, that is not known.
IDENTITY_KEY = "instance_id"


@dataclass(frozen=True)
class AugmentConfig:
    """How training samples vary; see INPUT.AUGMENT in `config.add_yolor_config`.

    Attributes:
        mosaic: probability of a mosaic.
        mosaic9: probability that a mosaic is one of nine images instead of four.
        first_plain_position: samples from this position on are no mosaics; None for never.
        mixup: probability that a mosaic is blended with another one.
        scale, translate, degrees, shear, perspective: see `warp.random_warp`.
        hsv: see `augment.random_hsv`.
        flip: probability of a horizontal flip.
        flip_vertical: probability of a vertical flip.
    """

    mosaic: float = 1.0
    mosaic9: float = 0.0
    first_plain_position: int | None = None
    mixup: float = 0.0
    scale: float = 0.5
    translate: float = 0.5
    degrees: float = 0.0
    shear: float = 0.0
    perspective: float = 0.0
    hsv: tuple[float, float, float] = (0.015, 0.7, 0.4)
    flip: float = 0.5
    flip_vertical: float = 0.0

    @property
    def most_partners(self) -> int:
        """The largest number of images that may join that of one sample."""
        others = 8 if self.mosaic9 else 3
        return 2 * others + 1 if self.mixup else others


def check_image_size(item: dict, image: np.ndarray) -> None:
    """Compare an image with what its annotation file says of it.

    Raises:
        ImageReadError: when the sizes differ, naming the file.
    """
    height, width = image.shape[:2]
    expected = (item.get("height", height), item.get("width", width))
    if expected != (height, width):
        raise ImageReadError(
            f"image {item['file_name']!r} is (H, W) = ({height}, {width}), "
            f"but its annotations say {expected}"
        )


def read_ground_truth(item: dict) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and classes of one dataset dict, see `read_objects`."""
    boxes, labels, _ = read_objects(item)
    return boxes, labels


def read_identity(annotation: dict, item: dict) -> int:
    """Which individual an object of a dataset dict is; `NO_IDENTITY` when that is not known.

    Raises:
        ValueError: when it is something else than a whole number from -1.
    """
    value = annotation.get(IDENTITY_KEY, NO_IDENTITY)
    if isinstance(value, bool) or not isinstance(value, int) or not NO_IDENTITY <= value < 2**63:
        raise ValueError(
            f"image {item['file_name']!r} has an annotation with {IDENTITY_KEY!r} {value!r}, "
            "expected a whole number from 0, or -1 for an unknown individual"
        )
    return value


def read_objects(item: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, classes and identities of one dataset dict, without crowd regions.

    Args:
        item: in Detectron2's standard format, with "height" and "width".

    Returns:
        (M, 4) float64 xyxy in pixels of the image, cut at its border, without those of no area;
        (M,) int64 classes; and (M,) int64 identities as the file has them, see `IDENTITY_KEY`.
        Integers in the file are not truncated later, as the boxes are float64 from here.
    """
    annotations = [x for x in item.get("annotations", []) if not x.get("iscrowd", 0)]
    if not annotations:
        return np.zeros((0, 4)), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    if any("bbox" not in x for x in annotations):
        raise ValueError(f"image {item['file_name']!r} has an annotation without 'bbox'")
    boxes = np.array([x["bbox"] for x in annotations], dtype=np.float64)
    modes = np.array([int(x["bbox_mode"]) for x in annotations])
    for mode in np.unique(modes):
        rows = modes == mode
        boxes[rows] = BoxMode.convert(boxes[rows], BoxMode(int(mode)), BoxMode.XYXY_ABS)
    labels = np.array([x["category_id"] for x in annotations], dtype=np.int64)
    identities = [read_identity(x, item) for x in annotations]
    boxes = clip_boxes(boxes, item["height"], item["width"])
    keep = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) > MIN_BOX_SIDE
    return boxes[keep], labels[keep], np.array(identities, dtype=np.int64)[keep]


def known_identities(identities: np.ndarray) -> np.ndarray:
    """The distinct known ones, in rising order: an individual's class is its place in this row."""
    return np.unique(identities[identities != NO_IDENTITY])


def number_identities(identities: np.ndarray) -> np.ndarray:
    """Identities as places in `known_identities`; `NO_IDENTITY` stays."""
    places = np.searchsorted(known_identities(identities), identities)
    return np.where(identities == NO_IDENTITY, NO_IDENTITY, places)


def original_size(item: dict, channels: int = 3) -> tuple[int, int]:
    """(H, W) of an image as its annotations name it, else as it is."""
    if "height" in item and "width" in item:
        return item["height"], item["width"]
    return read_image(item["file_name"], channels=channels).shape[:2]


def happens(rng: np.random.Generator, probability: float) -> bool:
    """Whether something of this probability happens. What never does leaves the generator alone."""
    return probability > 0 and rng.random() < probability


def to_planes(image: np.ndarray, channel_order: str) -> np.ndarray:
    """(H, W, C) to (C, H, W); three channels, which are RGB, in the given order."""
    planes = np.empty((image.shape[2], *image.shape[:2]), dtype=np.uint8)
    if len(planes) != 3:
        channel_order = "RGB"  # that of the file
    cv2.split(image, list(planes if channel_order == "RGB" else planes[::-1]))  # writes into them
    return planes


class TrainingDataset(Dataset):
    """Map-style data set over (position, index), see `sampler.PositionSampler`.

    Args:
        items: dataset dicts in Detectron2's standard format, background images included.
        size: longer side, in pixels, of the images as they are read.
        seed: seed of the augmentation, >= 0.
        augment: how samples vary.
        channel_order: "RGB" or "BGR".
        shapes: size of the samples; None makes squares of `size`.
        channels: of the images, see `image.read_image`.
        padding: where an image that is no part of a mosaic lies in its frame: as at inference,
            without the margin.
    """

    def __init__(
        self,
        items: Sequence[dict],
        *,
        size: int,
        seed: int,
        augment: AugmentConfig = AugmentConfig(),
        channel_order: str = "RGB",
        shapes: BatchShapes | None = None,
        channels: int = 3,
        padding: Padding = Padding(),
    ):
        check_channel_order(channel_order)
        self.size = size
        self.seed = seed
        self.augment = augment
        self.channel_order = channel_order
        self.channels = channels
        self.padding = padding.for_training()
        self.shapes = shapes or BatchShapes(size)
        self.cache: MemoryCache | DiskCache | None = None
        self.pool = PartnerPool(
            seed=seed, num_images=len(items), most_partners=augment.most_partners
        )
        # All that a sample needs, in few arrays, which forked worker processes share.
        self.items = DatasetFromList(
            [{key: item[key] for key in ("file_name", "image_id")} for item in items], copy=False
        )
        self.original_sizes = np.array(
            [original_size(x, channels) for x in items], dtype=np.int64
        )  # H, W
        self.sizes = np.array([resized_size(*x, size) for x in self.original_sizes.tolist()])
        truth = [
            read_objects({**item, "height": height, "width": width})
            for item, (height, width) in zip(items, self.original_sizes.tolist())
        ]
        self.boxes, self.labels, identities = (np.concatenate(x) for x in zip(*truth))
        self.identities = number_identities(identities)
        self.num_identities = len(known_identities(identities))
        self.starts = np.cumsum([0, *(len(labels) for _, labels, _ in truth)])  # N + 1 rows

    def __len__(self) -> int:
        return len(self.items)

    def file_name(self, index: int) -> str:
        """Path of one image."""
        return self.items[index]["file_name"]

    @property
    def unrounded_sizes(self) -> np.ndarray:
        """(N, 2) float64 heights and widths that the images as they are read would have without
        whole pixels; the reference's rectangles go by these."""
        return self.original_sizes * (self.size / self.original_sizes.max(axis=1, keepdims=True))

    def box_sizes(self) -> torch.Tensor:
        """(M, 2) float32 widths and heights of all boxes, in pixels of the images as they are
        read."""
        scale = self.size / self.original_sizes.max(axis=1)  # by image
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        scaled = sides * np.repeat(scale, np.diff(self.starts))[:, None]
        return torch.from_numpy(scaled.astype(np.float32))

    def read_file(self, path: str) -> np.ndarray:
        """(H, W, C) of an image as it is."""
        return read_image(path) if self.channels == 3 else read_image(path, channels=self.channels)

    def read_pixels(self, index: int) -> np.ndarray:
        """(H, W, C) of one image, its longer side scaled to `size`; not to be written to."""
        image = self.pool.get(index)
        if image is None:
            image = self.load_pixels(index)
            self.pool.put(index, image)
        return image

    def load_pixels(self, index: int) -> np.ndarray:
        """`read_pixels` from the cache or the file."""
        image = self.cache.get(index) if self.cache is not None else None
        if image is None:
            height, width = self.original_sizes[index].tolist()
            item = {"file_name": self.file_name(index), "height": height, "width": width}
            image = self.read_file(item["file_name"])
            check_image_size(item, image)
            image = resize_longer_side(image, self.size)
            if self.cache is not None:
                self.cache.put(index, image)
        return image

    def read(self, index: int) -> Sample:
        """One image with its ground truth, its longer side scaled to `size`."""
        rows = slice(*self.starts[index : index + 2])
        y, x = self.sizes[index] / self.original_sizes[index]
        boxes = self.boxes[rows] * (x, y, x, y)
        return Sample(self.read_pixels(index), boxes, self.labels[rows], self.identities[rows])

    def tile(self, index: int, left: int, top: int) -> Tile:
        """An image at a place of a canvas."""
        return Tile(left, top, *self.sizes[index].tolist(), functools.partial(self.read, index))

    def warp(
        self,
        tiles: Sequence[Tile],
        canvas_size: tuple[int, int],
        frame: Frame,
        rng: np.random.Generator,
    ) -> Sample:
        """A random view of images on a canvas of (H, W) pixels."""
        out_size = frame.height, frame.width
        augment = self.augment
        warp = random_warp(
            rng,
            canvas_size,
            out_size,
            scale=augment.scale,
            translate=augment.translate,
            degrees=augment.degrees,
            shear=augment.shear,
            perspective=augment.perspective,
            zoom=frame.zoom,
        )
        return render(tiles, canvas_size, warp, out_size, self.channels)

    def mosaic_sample(
        self, index: int, partners: Iterator[int], frame: Frame, rng: np.random.Generator
    ) -> Sample:
        """A random view of an image and the next three or eight partners."""
        count, place = 4, mosaic4_corners
        if happens(rng, self.augment.mosaic9):
            count, place = 9, mosaic9_corners
        indices = [index, *itertools.islice(partners, count - 1)]
        corners = place(self.sizes[indices], self.size, rng)
        tiles = [self.tile(i, *corner) for i, corner in zip(indices, corners.tolist())]
        return self.warp(tiles, (2 * self.size, 2 * self.size), frame, rng)

    def plain_sample(self, index: int, frame: Frame, rng: np.random.Generator) -> Sample:
        """A random view of one image.

        It lies on a canvas of the frame's shape as images do at inference, but for their margin.
        """
        # Pixels of the image; the margin keeps rounding errors of the zoom from adding one.
        height, width = (math.ceil(x / frame.zoom - 1e-6) for x in (frame.height, frame.width))
        top, left = self.padding.put(tuple(self.sizes[index].tolist()), (height, width)).offset
        return self.warp([self.tile(index, left, top)], (height, width), frame, rng)

    def compose(self, position: int, index: int) -> Sample:
        """The augmented RGB sample of a position."""
        rng = np.random.default_rng([self.seed, position])
        frame = self.shapes.frame(position)
        self.pool.enter(position)
        augment = self.augment
        plain_from = augment.first_plain_position
        may_mosaic = plain_from is None or position < plain_from
        if rng.random() < augment.mosaic and may_mosaic:
            partners = self.pool.partners(rng)
            sample = self.mosaic_sample(index, partners, frame, rng)
            if happens(rng, augment.mixup):
                other = self.mosaic_sample(next(partners), partners, frame, rng)
                sample = mixup(sample, other, rng.beta(8, 8))  # YOLOR's exponents
        else:
            sample = self.plain_sample(index, frame, rng)
        sample.image = random_hsv(sample.image, rng, augment.hsv)
        if rng.random() < augment.flip:
            sample = flip_horizontal(sample)
        if happens(rng, augment.flip_vertical):
            sample = flip_vertical(sample)
        return sample

    def __getitem__(self, key: tuple[int, int]) -> dict:
        shield_worker()
        position, index = key
        sample = self.compose(position, index)
        height, width = sample.image.shape[:2]
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.from_numpy(sample.boxes.astype(np.float32)))
        instances.gt_classes = torch.from_numpy(sample.labels)
        if self.num_identities:
            instances.gt_identities = torch.from_numpy(sample.identities)
        return {
            **self.items[index],
            "height": height,
            "width": width,
            "image": torch.from_numpy(to_planes(sample.image, self.channel_order)),
            "instances": instances,
        }
