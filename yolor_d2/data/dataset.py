"""Training samples: read, mosaic, affine, colour, flip; everything seeded by the sample's
position."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from ..d2.data import DatasetFromList
from ..d2.structures import Boxes, BoxMode, Instances
from .augment import (
    Sample,
    clip_boxes,
    flip_horizontal,
    pad_to_square,
    random_affine_matrix,
    random_hsv,
    resize_longer_side,
    warp_affine,
)
from .image import check_channel_order, read_image
from .mosaic import mosaic4

logger = logging.getLogger(__name__)

# A box with a side below this, in pixels, is not trained on.
MIN_BOX_SIDE = 1e-5


@dataclass(frozen=True)
class AugmentConfig:
    """How training samples vary; see INPUT.AUGMENT in `config.add_yolor_config`.

    Attributes:
        mosaic: probability of a mosaic.
        first_plain_position: samples from this position on are no mosaics; None for never.
        scale, translate: see `augment.random_affine_matrix`.
        hsv: see `augment.random_hsv`.
        flip: probability of a horizontal flip.
    """

    mosaic: float = 1.0
    first_plain_position: int | None = None
    scale: float = 0.5
    translate: float = 0.5
    hsv: tuple[float, float, float] = (0.015, 0.7, 0.4)
    flip: float = 0.5


def check_image_size(item: dict, image: np.ndarray) -> None:
    """Compare an image with what its annotation file says of it.

    Raises:
        ValueError: when the sizes differ, naming the file.
    """
    height, width = image.shape[:2]
    expected = (item.get("height", height), item.get("width", width))
    if expected != (height, width):
        raise ValueError(
            f"image {item['file_name']!r} is (H, W) = ({height}, {width}), "
            f"but its annotations say {expected}"
        )


def read_ground_truth(item: dict) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and classes of one dataset dict, without crowd regions.

    Args:
        item: in Detectron2's standard format, with "height" and "width".

    Returns:
        (M, 4) float64 xyxy in pixels of the image, cut at its border, without those of no area;
        and (M,) int64 classes. Integers in the file are not truncated later, as the boxes are
        float64 from here.
    """
    annotations = [x for x in item.get("annotations", []) if not x.get("iscrowd", 0)]
    if not annotations:
        return np.zeros((0, 4)), np.zeros(0, dtype=np.int64)
    if any("bbox" not in x for x in annotations):
        raise ValueError(f"image {item['file_name']!r} has an annotation without 'bbox'")
    boxes = np.array([x["bbox"] for x in annotations], dtype=np.float64)
    modes = np.array([int(x["bbox_mode"]) for x in annotations])
    for mode in np.unique(modes):
        rows = modes == mode
        boxes[rows] = BoxMode.convert(boxes[rows], BoxMode(int(mode)), BoxMode.XYXY_ABS)
    labels = np.array([x["category_id"] for x in annotations], dtype=np.int64)
    boxes = clip_boxes(boxes, item["height"], item["width"])
    keep = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) > MIN_BOX_SIDE
    return boxes[keep], labels[keep]


class TrainingDataset(Dataset):
    """Map-style data set over (position, index), see `sampler.PositionSampler`.

    Args:
        items: dataset dicts in Detectron2's standard format, background images included.
        size: side of the square training images in pixels.
        seed: seed of the augmentation, >= 0.
        augment: how samples vary.
        channel_order: "RGB" or "BGR".
    """

    def __init__(
        self,
        items: Sequence[dict],
        *,
        size: int,
        seed: int,
        augment: AugmentConfig = AugmentConfig(),
        channel_order: str = "RGB",
    ):
        check_channel_order(channel_order)
        # Serialised, so that worker processes share the memory.
        self.items = DatasetFromList(list(items), copy=False)
        self.size = size
        self.seed = seed
        self.augment = augment
        self.channel_order = channel_order

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: int) -> Sample:
        """One image with its ground truth, its longer side scaled to `size`."""
        item = self.items[index]
        image = read_image(item["file_name"])
        check_image_size(item, image)
        item = {**item, "height": image.shape[0], "width": image.shape[1]}
        return resize_longer_side(Sample(image, *read_ground_truth(item)), self.size)

    def compose(self, position: int, index: int) -> Sample:
        """The augmented RGB sample of a position, a square of `size` pixels."""
        rng = np.random.default_rng([self.seed, position])
        plain_from = self.augment.first_plain_position
        may_mosaic = plain_from is None or position < plain_from
        if rng.random() < self.augment.mosaic and may_mosaic:
            others = rng.integers(len(self), size=3)
            samples = [self.read(i) for i in (index, *map(int, others))]
            sample = mosaic4(samples, self.size, rng)
        else:
            sample = pad_to_square(self.read(index), self.size)
        matrix, factor = random_affine_matrix(
            rng, sample.image.shape[0], self.size, self.augment.scale, self.augment.translate
        )
        sample = warp_affine(sample, matrix, self.size, factor)
        sample.image = random_hsv(sample.image, rng, self.augment.hsv)
        if rng.random() < self.augment.flip:
            sample = flip_horizontal(sample)
        return sample

    def __getitem__(self, key: tuple[int, int]) -> dict:
        position, index = key
        sample = self.compose(position, index)
        pixels = sample.image if self.channel_order == "RGB" else sample.image[:, :, ::-1]
        instances = Instances((self.size, self.size))
        instances.gt_boxes = Boxes(torch.from_numpy(sample.boxes.astype(np.float32)))
        instances.gt_classes = torch.from_numpy(sample.labels)
        item = self.items[index]
        return {
            "file_name": item["file_name"],
            "image_id": item["image_id"],
            "height": self.size,
            "width": self.size,
            "image": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            "instances": instances,
        }
