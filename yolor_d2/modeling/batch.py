"""A batch on its way to the device: one copy for its pixels, one for where its images lie, one for
its boxes and classes, one for each field that a further task needs.

Tensors that are copied one by one, or from memory that is not pinned, keep a GPU waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..d2.structures import Instances
from ..ops.boxes import xyxy_to_cxcywh
from ..ops.ota import boxes_by_image
from ..ops.padding import Placement
from ..ops.truth import Truth
from .images import PaddedImages

# Rows of the ground truth are filled up to multiples of this, so that what is compiled for their
# number is compiled rarely.
TRUTH_STEP = 16


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """The tensor there; the host does not wait for the copy."""
    if device.type == "cuda" and x.device.type == "cpu" and not x.is_pinned():
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


class Geometry(NamedTuple):
    """Where images lie, and in what size detections are wanted. float32, pairs are (x, y).

    Attributes:
        window: (N, 4) xyxy of each image on the canvas.
        origin, scale: (N, 2), see `ops.padding.Placement`.
        size: (N, 2) of the image as it goes into the network.
        ratio: (N, 2) wanted size over that one.
        wanted: (N, 2).
    """

    window: Tensor
    origin: Tensor
    scale: Tensor
    size: Tensor
    ratio: Tensor
    wanted: Tensor

    def to_images(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes on the canvas in the wanted sizes.

        Args:
            boxes: (N, D, 4) xyxy, finite.

        Returns:
            (N, D, 4) xyxy, cut at the border of the image; (N, D) bool, whether any area is left.
        """
        # As Detectron2's `Boxes.clip`, `detector_postprocess` and again `clip` do it.
        origin, scale, size, ratio, wanted = (x[:, None, None] for x in self[1:])
        corners = (boxes.unflatten(2, (2, 2)) - origin) * scale
        corners = torch.minimum(corners.clamp(min=0), size) * ratio
        corners = torch.minimum(corners.clamp(min=0), wanted)
        return corners.flatten(2), (corners[:, :, 1] > corners[:, :, 0]).all(dim=2)


def wanted_size(inputs: dict, placement: Placement) -> tuple[int, int]:
    """(H, W) in which the detections of an input are wanted."""
    height, width = placement.size
    return inputs.get("height", height), inputs.get("width", width)


def pack_geometry(batched_inputs: Sequence[dict], placements: Sequence[Placement]) -> Tensor:
    """(N, 14) float32, the columns of `Geometry`."""
    rows = []
    for inputs, placement in zip(batched_inputs, placements):
        (height, width), wanted = placement.size, wanted_size(inputs, placement)
        ratio = wanted[1] / width, wanted[0] / height
        pairs = (placement.origin[::-1], placement.scale[::-1], (width, height), ratio)
        rows.append([*placement.window, *(x for pair in pairs for x in pair), *wanted[::-1]])
    return torch.tensor(rows, dtype=torch.float32)


def pack_truth(
    instances: Sequence[Instances],
    placements: Sequence[Placement],
    num_classes: int | None = None,
) -> Tensor:
    """(M, 6) int32 on the CPU: the bits of the boxes, image and label.

    Args:
        instances: of each image, see `YOLOR.forward`.
        placements: of the images.
        num_classes: of the model; None does not check labels.

    Raises:
        ValueError: when there is a class that the model has not.
    """
    # A mapper of the user's may have put them on the device already.
    on_canvas = [p.to_canvas(t.gt_boxes.tensor.cpu()) for t, p in zip(instances, placements)]
    labels = torch.cat([t.gt_classes.cpu() for t in instances])
    if num_classes is not None and len(labels):
        least, most = int(labels.min()), int(labels.max())
        if least < 0 or most >= num_classes:
            raise ValueError(
                f"an object has class {least if least < 0 else most}, but "
                f"MODEL.YOLOR.NUM_CLASSES is {num_classes}, so classes are 0 to {num_classes - 1}"
            )
    counts = torch.tensor([len(t) for t in instances])
    count = len(labels)
    rows = round_up(count)
    table = torch.zeros(rows, 6, dtype=torch.int32)
    table[:count, :4] = xyxy_to_cxcywh(torch.cat(on_canvas).float()).view(torch.int32)
    table[:count, 4] = torch.arange(len(instances)).repeat_interleave(counts)
    table[:count, 5] = labels
    table[count:, 4] = -1
    return table


def round_up(count: int) -> int:
    """The next multiple of `TRUTH_STEP` from 1 on."""
    return max(-(-count // TRUTH_STEP), 1) * TRUTH_STEP


def unpack_truth(
    table: Tensor, num_images: int, most: int, fields: Mapping[str, Tensor] = {}
) -> Truth:
    """What `pack_truth` packed, where the table is.

    Args:
        table: the ground truth.
        num_images: of the batch.
        most: at least the largest number of objects of an image.
        fields: of further tasks, as long as the table.
    """
    image, labels = table[:, 4:].long().unbind(dim=1)
    boxes = table[:, :4].view(torch.float32)
    valid, image = image >= 0, image.clamp(min=0)
    by_image = boxes_by_image(image, num_images, most, valid)
    return Truth(image, boxes, labels, valid, by_image, fields)


def fill_rows(x: Tensor, rows: int) -> Tensor:
    """(M, ...) with zeros behind it, so that there are `rows`."""
    return torch.cat([x, x.new_zeros(rows - len(x), *x.shape[1:])])


@dataclass(frozen=True)
class StagedBatch:
    """Inputs of the model whose tensors are on the device, or on their way.

    No tuple: what wraps a model for several processes looks into tuples, and would copy the inputs.

    Attributes:
        inputs: as they were given.
        images: pixels as they were given, 0-255.
        geometry: see `Geometry`.
        truth: in training.
    """

    inputs: list[dict]
    images: PaddedImages
    geometry: Geometry
    truth: Truth | None

    def tensors(self) -> list[Tensor]:
        """All that lies on the device."""
        truth = [] if self.truth is None else self.truth.tensors()
        return [self.images.tensor, *self.geometry, *truth]


# Instances and placements of the images, and (H, W) of their canvas, to fields of further tasks.
PackFields = Callable[
    [Sequence[Instances], Sequence[Placement], tuple[int, int]], dict[str, Tensor]
]


def stage(
    batched_inputs: list[dict],
    images: PaddedImages,
    device: torch.device,
    *,
    training: bool,
    num_classes: int | None = None,
    pack_fields: PackFields | None = None,
) -> StagedBatch:
    """Send a batch to the device.

    Args:
        batched_inputs: see `YOLOR.forward`.
        images: the pixels on their canvas, as `images.place_images` gives them.
        device: that of the model.
        training: whether the ground truth is needed.
        num_classes: see `pack_truth`.
        pack_fields: gives the ground truth of further tasks, see `tasks.pack_fields`.

    Raises:
        KeyError: when an input has no instances though they are needed.
    """
    truth = None
    if training:
        if any("instances" not in x for x in batched_inputs):
            raise KeyError(
                "training needs 'instances' in every input; call model.eval() for inference"
            )
        instances = [x["instances"] for x in batched_inputs]
        table = pack_truth(instances, images.placements, num_classes)
        fields = {}
        if pack_fields is not None:
            height, width = images.tensor.shape[2:]
            fields = pack_fields(instances, images.placements, (height, width))
        fields = {k: to_device(fill_rows(x, len(table)), device) for k, x in fields.items()}
        most = round_up(max(map(len, instances)))
        truth = unpack_truth(to_device(table, device), len(instances), most, fields)
    table = to_device(pack_geometry(batched_inputs, images.placements), device)
    geometry = Geometry(*table.split([4, 2, 2, 2, 2, 2], dim=1))
    images = images._replace(tensor=to_device(images.tensor, device))
    return StagedBatch(batched_inputs, images, geometry, truth)
