"""The resize of test images (INPUT.RESIZE_TEST)."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from ..d2.config import CfgNode
from ..d2.data import ResizeShortestEdge
from .augmentation.image import by_channels


class ResizeForTest(ResizeShortestEdge):
    """Detectron2's; very elongated images keep a side of at least one pixel."""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ResizeForTest:
        size = cfg.INPUT.MIN_SIZE_TEST
        return cls([size, size], cfg.INPUT.MAX_SIZE_TEST)

    def get_transform(self, image: np.ndarray):
        transform = super().get_transform(image)
        transform.new_h, transform.new_w = max(transform.new_h, 1), max(transform.new_w, 1)
        return transform


class ReferenceResize:
    """That of the authors' test command, with the methods of `ResizeForTest`.

    Args:
        size: length in pixels of the longer side of the result.
    """

    def __init__(self, size: int):
        self.size = size

    def get_transform(self, image: np.ndarray) -> ReferenceTransform:
        return ReferenceTransform(*self.output_size(*image.shape[:2]), self.size)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of the result: both sides are rounded down, at floating-point precision, so that
        the longer side of some images ends a pixel short."""
        scale = self.size / max(height, width)
        return max(int(height * scale), 1), max(int(width * scale), 1)


class ReferenceTransform:
    """The resize of one image; see `ReferenceResize`."""

    def __init__(self, height: int, width: int, size: int):
        self.height, self.width, self.size = height, width, size

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """(H, W, C) uint8, at most four channels, to the new size."""
        if max(image.shape[:2]) == self.size:
            return image
        shrinks = max(image.shape[:2]) > self.size
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return cv2.resize(image, (self.width, self.height), interpolation=interpolation)


def build_test_resize(cfg: CfgNode) -> ResizeForTest | ReferenceResize:
    """INPUT.RESIZE_TEST.

    Raises:
        ValueError: when it is unknown, or when the reference's meets two different sizes.
    """
    kind = cfg.INPUT.RESIZE_TEST
    if kind == "detectron2":
        return ResizeForTest.from_config(cfg)
    if kind != "reference":
        raise ValueError(f"INPUT.RESIZE_TEST is {kind!r}, expected 'detectron2' or 'reference'")
    if cfg.INPUT.MIN_SIZE_TEST != cfg.INPUT.MAX_SIZE_TEST:
        raise ValueError(
            f"INPUT.RESIZE_TEST 'reference' scales the longer side: INPUT.MIN_SIZE_TEST is "
            f"{cfg.INPUT.MIN_SIZE_TEST}, expected INPUT.MAX_SIZE_TEST, {cfg.INPUT.MAX_SIZE_TEST}"
        )
    return ReferenceResize(cfg.INPUT.MAX_SIZE_TEST)


def resize_for_test(resize: ResizeForTest | ReferenceResize, image: np.ndarray) -> np.ndarray:
    """Resize (H, W, C) uint8 with any number of channels; the runtimes' transforms take three."""
    transform = resize.get_transform(image)
    if isinstance(resize, ResizeForTest) and image.shape[:2] == (transform.new_h, transform.new_w):
        return image  # as Pillow would return it
    if image.shape[2] == 3:
        return transform.apply_image(image)
    padding = [image[:, :, -1:]] * (-image.shape[2] % 3)
    whole = np.concatenate([image, *padding], axis=2)
    resized = by_channels(whole, transform.apply_image, 3)
    return resized[:, :, : image.shape[2]]


def to_pixels(image: np.ndarray) -> Tensor:
    """(H, W, C) to the model's (C, H, W), without a copy where that can be: the numbers stay in the
    order in which they are in memory, channels last."""
    return torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)
