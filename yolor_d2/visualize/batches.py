"""Training batches as the network sees them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..d2.structures import Instances
from .boxes import draw_boxes
from .pictures import tile_images, to_rgb, write_image
from .shapes import Skeleton, crop_of_polygons


def draw_batches(
    batches: Iterable[list[dict]],
    output: Path,
    *,
    count: int,
    first: int,
    class_names: Sequence[str],
    channel_order: str,
    skeleton: Skeleton | None = None,
) -> list[Path]:
    """Draw training batches with their boxes, masks and keypoints, as the network sees them.

    Args:
        batches: of the training loader; images of a batch are of one size.
        output: folder of the pictures, which are named by the number of the batch.
        count: pictures to draw.
        first: number of the first batch.
        class_names: name of each class.
        channel_order: "RGB" or "BGR", that of the images.
        skeleton: of keypoints.

    Returns:
        The files.
    """
    paths = []
    for number, batch in zip(range(first, first + count), batches):
        drawn = []
        for sample in batch:
            image = sample["image"].numpy().transpose(1, 2, 0)
            as_it_is = channel_order == "RGB" or image.shape[2] != 3
            truth = sample["instances"]
            drawn.append(
                draw_boxes(
                    to_rgb(image) if as_it_is else image[:, :, ::-1],
                    truth.gt_boxes.tensor.numpy(),
                    truth.gt_classes.tolist(),
                    class_names,
                    **truth_shapes(truth, skeleton),
                )
            )
        path = output / f"batch_{number:07d}.png"
        write_image(path, tile_images(drawn))
        paths.append(path)
    return paths


def truth_shapes(truth: Instances, skeleton: Skeleton | None) -> dict[str, Any]:
    """Masks and keypoints of ground truth, as far as it has some, for `draw_boxes`."""
    shapes: dict[str, Any] = {}
    if truth.has("gt_masks"):
        parts = [[np.reshape(x, (-1, 2)) for x in one] for one in truth.gt_masks.polygons]
        shapes["masks"] = lambda i: crop_of_polygons(parts[i], truth.image_size)
    if truth.has("gt_keypoints"):
        shapes["keypoints"] = truth.gt_keypoints.tensor.cpu().numpy()
        shapes["skeleton"] = skeleton
    return shapes
