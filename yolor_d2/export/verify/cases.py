"""The images to compare on, and what the model itself computes of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...modeling import YOLOR
from ...modeling.images import PAD_VALUE
from ...ops import decode
from ..graph import whole_canvas


@dataclass(frozen=True)
class Batch:
    """Images to compare on.

    Attributes:
        name: what they are, for the report.
        images: (C, H, W) each with values 0-255, in the model's channel order and test size. Those
            of a batch have one size.
    """

    name: str
    images: Sequence[Tensor]


class ModelOutput(NamedTuple):
    """What the model itself computes of a batch.

    Attributes:
        rows: (N, R, 5 + K) decoded rows.
        outputs: of the branches of further tasks, by name.
    """

    rows: Tensor
    outputs: Mapping[str, Any]


def run_model(model: YOLOR, pixels: Tensor, windows: Tensor) -> ModelOutput:
    """For (N, C, H, W) normalised images, and where they lie, (N, 4) xyxy."""
    levels, outputs = model.run(pixels, windows)
    return ModelOutput(decode(levels, model.anchors, model.strides), outputs)


@torch.no_grad()
def run_on_images(model: YOLOR, images: Sequence[Tensor]) -> ModelOutput:
    """By the model, which prepares the images (C, H, W) its own way."""
    batch = model.stage([{"image": x} for x in images])
    return run_model(model, model.preprocess(batch).tensor, batch.geometry.window)


@torch.no_grad()
def run_on_canvas(model: YOLOR, images: Tensor) -> ModelOutput:
    """By the model, of images (N, C, H, W) on a canvas that it would not have chosen."""
    pixels = (images - model.pixel_mean) / model.pixel_std
    return run_model(model, pixels, whole_canvas(images))


def padded(image: Tensor, pad: dict) -> Tensor:
    """(C, H, W) float32 on the canvas that the description of a file requires."""
    step, border = pad["multiple_of"], []
    for axis in (2, 1):  # F.pad begins with the last axis
        side = image.shape[axis]
        canvas = max(math.ceil(side / step + pad["margin"]) * step, pad["at_least"])
        whole = (pad["canvas"][axis - 1] if "canvas" in pad else canvas) - side
        before = int(whole * pad["before"])
        border += [before, whole - before]
    return F.pad(image.float(), border, value=PAD_VALUE)


@dataclass(frozen=True)
class Case:
    """Images as a file takes them, and what the model computes of them.

    Attributes:
        name: that of the batch.
        pixels: (N, C, H, W) float32, values 0-255, on their canvas.
        computed: by the model itself.
    """

    name: str
    pixels: Tensor
    computed: ModelOutput


def prepare_case(model: YOLOR, batch: Batch, pad: dict) -> Case:
    """Let the model compute what a file is compared with.

    Args:
        model: in evaluation mode, as it was trained: nothing folded.
        batch: the images.
        pad: the canvas as the file describes it, see `metadata.describe_padding`.
    """
    pixels = torch.stack([padded(x, pad) for x in batch.images])
    # A canvas of a fixed size is the file's alone; any other one is the model's, and proved too.
    own = "canvas" not in pad
    return Case(
        batch.name,
        pixels,
        run_on_images(model, batch.images) if own else run_on_canvas(model, pixels),
    )
