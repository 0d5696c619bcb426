"""A batch of images on one grey canvas, normalised: the first step of training and inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..d2.config import CfgNode
from ..ops.padding import Padding, Placement

# Grey of the canvas, as in training's mosaics.
PAD_VALUE = 114


class PaddedImages(NamedTuple):
    """N images in one tensor.

    Attributes:
        tensor: (N, C, H, W).
        placements: where each image lies.
    """

    tensor: Tensor
    placements: list[Placement]

    @property
    def image_sizes(self) -> list[tuple[int, int]]:
        """(H, W) of each image without its border."""
        return [placement.size for placement in self.placements]


def padding_from_config(cfg: CfgNode) -> Padding:
    """MODEL.YOLOR.PADDING.

    Raises:
        ValueError: see `Padding`.
    """
    node = cfg.MODEL.YOLOR.PADDING
    return Padding(place=node.PLACE, margin=node.MARGIN)


def original_size(inputs: dict) -> tuple[int, int] | None:
    """(H, W) of the file that an input says it comes from, which is also the size in which
    detections are wanted; None where it says nothing."""
    if "height" not in inputs or "width" not in inputs:
        return None
    return inputs["height"], inputs["width"]


def canvas_of(inputs: dict, padding: Padding, stride: int) -> tuple[int, int]:
    """(H, W) of the canvas on which the image of an input would lie alone."""
    height, width = inputs["image"].shape[1:]
    return padding.canvas_size((height, width), stride, original_size(inputs))


def place_images(
    batched_inputs: Sequence[dict], padding: Padding, stride: int, *, pinned: bool = False
) -> PaddedImages:
    """Put images onto one canvas, in place and unchanged: bytes stay bytes, and
    channels that lie last stay so.

    Args:
        batched_inputs: dicts with "image" (C, H, W), 0-255, all of one type and device; "height"
            and "width" as in `original_size`.
        padding: how.
        stride: the greatest of the network.
        pinned: put images that are in the host's memory where a GPU can copy from without waiting.

    Raises:
        ValueError: when the images have different numbers of channels.
    """
    images = [x["image"] for x in batched_inputs]
    channels = {image.shape[0] for image in images}
    if len(channels) > 1:
        raise ValueError(f"the images of a batch have {sorted(channels)} channels, expected one")
    canvases = [canvas_of(x, padding, stride) for x in batched_inputs]
    canvas = max(height for height, _ in canvases), max(width for _, width in canvases)
    placements = [
        padding.put((image.shape[1], image.shape[2]), canvas, original_size(x))
        for image, x in zip(images, batched_inputs)
    ]
    whole = torch.empty(
        (len(images), *channels, *canvas),
        dtype=images[0].dtype,
        device=images[0].device,
        memory_format=torch.channels_last
        if images[0].permute(1, 2, 0).is_contiguous()
        else torch.contiguous_format,
        pin_memory=pinned and images[0].device.type == "cpu",
    )
    if any(image.shape[1:] != canvas for image in images):
        whole.fill_(PAD_VALUE)
    for place, image, placement in zip(whole, images, placements):
        left, top, right, bottom = placement.window
        place[:, top:bottom, left:right] = image
    return PaddedImages(whole, placements)


def normalise(
    images: Tensor, mean: Tensor, std: Tensor, memory_format: torch.memory_format, *, shifts: bool
) -> Tensor:
    """(N, C, H, W) values 0-255 of any type to float32 (value - mean) / std.

    Args:
        images: the values.
        mean, std: (C, 1, 1) float32.
        memory_format: of the result.
        shifts: whether any mean is not 0; subtracting it is a pass of its own.
    """
    if images.device.type != "cpu":
        pixels = torch.empty(
            images.shape, dtype=mean.dtype, device=images.device, memory_format=memory_format
        )
        if shifts:
            return torch.sub(images, mean, out=pixels).div_(std)
        return torch.div(images, std, out=pixels)
    # On a CPU bytes are quicker to put into another order than the numbers that they become, and
    # dividing by one number is quicker than by three in turn.
    pixels = images.contiguous(memory_format=memory_format).to(mean.dtype, copy=True)
    if shifts:
        pixels.sub_(mean)
    divisors = set(std.flatten().tolist())
    return pixels.div_(divisors.pop() if len(divisors) == 1 else std)
