"""Training samples: read, mosaic, warp, mixup, colour, pasted objects, flips; everything seeded by
the sample's position."""

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

from ..d2.structures import Boxes, Instances, Keypoints, PolygonMasks
from ..datasets.ground_truth import GroundTruth, known_identities, number_identities
from ..files.images import ImageReadError, check_channel_order, read_image
from ..ops.padding import Padding
from ..structures.keypoints import map_keypoints
from ..workers import shield_worker
from .augmentation.image import (
    Sample,
    flip_horizontal,
    flip_vertical,
    mixup,
    random_hsv,
    resize_longer_side,
    resized_size,
)
from .augmentation.mosaic import mosaic4_corners, mosaic9_corners
from .augmentation.paste_in import CutObject, Cutouts, collect, paste_in, seen_windows
from .augmentation.warp import Tile, random_warp, render
from .batch_shapes import BatchShapes, Frame
from .cache import DiskCache, MemoryCache
from .partners import PartnerPool

# Keeps these generators apart from those of samples, epochs and shapes, see `sampler.EPOCH_STREAM`.
PASTE_STREAM = 4


@dataclass(frozen=True)
class AugmentConfig:
    """How training samples vary; see INPUT.AUGMENT in `config.run_keys`.

    Attributes:
        mosaic: probability of a mosaic.
        mosaic9: probability that a mosaic is one of nine images instead of four.
        first_plain_position: samples from this position on are no mosaics; None for never.
        mixup: probability that a mosaic is blended with another one.
        paste_in: probability that objects of other images are pasted, see `paste_in`.
        scale, translate, degrees, shear, perspective: see `augmentation.warp.random_warp`.
        hsv: see `augmentation.image.random_hsv`.
        flip: probability of a horizontal flip.
        flip_vertical: probability of a vertical flip.
        box_from_mask: whether the box of a cut or turned object is that of what is left of its
            polygons.
    """

    mosaic: float = 1.0
    mosaic9: float = 0.0
    first_plain_position: int | None = None
    mixup: float = 0.0
    paste_in: float = 0.0
    scale: float = 0.5
    translate: float = 0.5
    degrees: float = 0.0
    shear: float = 0.0
    perspective: float = 0.0
    hsv: tuple[float, float, float] = (0.015, 0.7, 0.4)
    flip: float = 0.5
    flip_vertical: float = 0.0
    box_from_mask: bool = False

    @property
    def most_partners(self) -> int:
        """The largest number of images that may join that of one sample."""
        others = 8 if self.mosaic9 else 3
        return 2 * others + 1 if self.mixup else others


def check_image_size(item: dict, image: np.ndarray) -> None:
    """Compare an image with its entry in the annotation file.

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
        truth: files, sizes and objects of the images, background images included.
        size: longer side, in pixels, of the images as they are read.
        seed: seed of the augmentation, >= 0.
        augment: how samples vary.
        channel_order: "RGB" or "BGR".
        shapes: size of the samples; None makes squares of `size`.
        channels: of the images, see `images.read_image`.
        padding: where an image that is no part of a mosaic lies in its frame: as at inference,
            without the margin.
        with_polygons: whether samples carry the polygons of `truth`, as `gt_masks`.
        with_keypoints: whether samples carry the keypoints of `truth`, as `gt_keypoints`.
        flip_order: of keypoints, see `keypoints.flip_order`; None exchanges none.

    Raises:
        ValueError: when polygons or keypoints are needed, but were not read.
    """

    def __init__(
        self,
        truth: GroundTruth,
        *,
        size: int,
        seed: int,
        augment: AugmentConfig = AugmentConfig(),
        channel_order: str = "RGB",
        shapes: BatchShapes | None = None,
        channels: int = 3,
        padding: Padding = Padding(),
        with_polygons: bool = False,
        with_keypoints: bool = False,
        flip_order: np.ndarray | None = None,
    ):
        check_channel_order(channel_order)
        if truth.polygons is None and (with_polygons or augment.paste_in or augment.box_from_mask):
            raise ValueError(
                f"paste_in is {augment.paste_in}, box_from_mask {augment.box_from_mask}, "
                f"with_polygons {with_polygons}, but the ground truth has no polygons: "
                "read it with polygons=True"
            )
        if truth.keypoints is None and with_keypoints:
            raise ValueError(
                "with_keypoints is True, but the ground truth has no keypoints: read it with "
                "keypoints=True"
            )
        self.size = size
        self.seed = seed
        self.augment = augment
        self.channel_order = channel_order
        self.channels = channels
        self.padding = padding.for_training()
        self.shapes = shapes or BatchShapes(size)
        self.cache: MemoryCache | DiskCache | None = None
        self.pool = PartnerPool(
            seed=seed, num_images=len(truth), most_partners=augment.most_partners
        )
        # All that a sample needs, in few arrays, which forked worker processes share.
        self.truth = truth
        self.original_sizes = truth.sizes  # H, W
        self.sizes = np.array([resized_size(*x, size) for x in truth.sizes.tolist()])
        self.boxes, self.labels, self.starts = truth.boxes, truth.labels, truth.starts
        self.identities = number_identities(truth.identities)
        self.num_identities = len(known_identities(truth.identities))
        self.with_polygons, self.with_keypoints = with_polygons, with_keypoints
        self.flip_order = flip_order
        # Around the polygons of each object, of which nobody else asks.
        self.outline_bounds = (
            truth.polygons.bounds() if truth.polygons is not None and augment.paste_in else None
        )

    def __len__(self) -> int:
        return len(self.truth)

    def file_name(self, index: int) -> str:
        """Path of one image."""
        return self.truth.file_names[index]

    @property
    def unrounded_sizes(self) -> np.ndarray:
        """(N, 2) float64 heights and widths that the images as they are read would have without
        whole pixels; the reference's rectangles go by these."""
        return self.original_sizes * (self.size / self.original_sizes.max(axis=1, keepdims=True))

    def box_sizes(self) -> torch.Tensor:
        """(M, 2) float32 widths and heights of all boxes, in pixels of the original
        images."""
        scale = self.size / self.original_sizes.max(axis=1)  # by image
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        scaled = sides * np.repeat(scale, np.diff(self.starts))[:, None]
        return torch.from_numpy(scaled.astype(np.float32))

    def read_file(self, path: str) -> np.ndarray:
        """(H, W, C) of the original image."""
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
        rows = self.truth.rows(index)
        scale = self.scale(index)
        boxes = self.boxes[rows] * np.tile(scale, 2)
        polygons = None
        if self.truth.polygons is not None and (self.with_polygons or self.augment.box_from_mask):
            polygons = self.truth.polygons.rows(rows.start, rows.stop).map(lambda x: x * scale)
        pixels, points = self.read_pixels(index), self.read_points(rows, scale)
        return Sample(pixels, boxes, self.labels[rows], self.identities[rows], polygons, points)

    def read_points(self, rows: slice, scale: np.ndarray) -> np.ndarray | None:
        """(m, K, 3) keypoints of some objects in their scaled image; None if nobody needs them."""
        if self.truth.keypoints is None or not self.with_keypoints:
            return None
        return map_keypoints(self.truth.keypoints[rows], lambda points: points * scale)

    def scale(self, index: int) -> np.ndarray:
        """(2,) factors of x and y by which an image is resized."""
        return self.sizes[index, ::-1] / self.original_sizes[index, ::-1]

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
        return render(
            tiles, canvas_size, warp, out_size, self.channels, box_from_mask=augment.box_from_mask
        )

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

    def cutouts(self, images: np.ndarray, rng: np.random.Generator) -> Cutouts:
        """What can be cut out of a mosaic of four of some images. No image is read."""
        assert self.outline_bounds is not None
        chosen = rng.permutation(images)[:4]
        corners = mosaic4_corners(self.sizes[chosen], self.size, rng)
        parts = []
        for image, corner in zip(chosen.tolist(), corners):
            rows = self.truth.rows(image)
            bounds = self.outline_bounds[rows] * np.tile(self.scale(image), 2)
            seen, windows = seen_windows(bounds, self.sizes[image], corner, 2 * self.size)
            numbers = rows.start + np.flatnonzero(seen)
            parts.append(Cutouts(np.full(len(numbers), image), numbers, windows))
        return Cutouts.join(parts)

    def cut_object(self, image: int, row: int) -> CutObject:
        """One object of an image, for `paste_in`."""
        assert self.truth.polygons is not None
        scale = self.scale(image)
        return CutObject(
            int(self.labels[row]),
            int(self.identities[row]),
            self.truth.polygons.rows(row, row + 1).map(lambda points: points * scale),
            functools.partial(self.read_pixels, image),
            self.read_points(slice(row, row + 1), scale),
        )

    def paste_objects(
        self, sample: Sample, position: int, partners: Iterator[int] | None
    ) -> Sample:
        """Paste objects into some of the samples.

        Args:
            sample: without them.
            position: of the sample.
            partners: entries of the pool that its mosaics have left; None if it is no mosaic.
        """
        # A generator of its own, so that all the rest of a sample stays what it is without.
        rng = np.random.default_rng([self.seed, position, PASTE_STREAM])
        if not happens(rng, self.augment.paste_in):
            return sample
        images = self.pool.paste_images(self.pool.partners(rng) if partners is None else partners)
        cutouts = collect(lambda: self.cutouts(images, rng), rng)
        return paste_in(sample, cutouts, self.cut_object, rng)

    def compose(self, position: int, index: int) -> Sample:
        """The augmented RGB sample of a position."""
        rng = np.random.default_rng([self.seed, position])
        frame = self.shapes.frame(position)
        self.pool.enter(position)
        augment = self.augment
        partners = None
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
        if augment.paste_in:
            sample = self.paste_objects(sample, position, partners)
        if rng.random() < augment.flip:
            sample = flip_horizontal(sample, self.flip_order)
        if happens(rng, augment.flip_vertical):
            sample = flip_vertical(sample, self.flip_order)
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
        if self.with_polygons and sample.polygons is not None:
            instances.gt_masks = PolygonMasks(sample.polygons.as_lists())
        if sample.keypoints is not None:
            instances.gt_keypoints = Keypoints(torch.from_numpy(sample.keypoints))
        return {
            "file_name": self.file_name(index),
            "image_id": self.truth.image_id(index),
            "height": height,
            "width": width,
            "image": torch.from_numpy(to_planes(sample.image, self.channel_order)),
            "instances": instances,
        }
