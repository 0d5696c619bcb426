"""Settings of training samples in a configuration, checked."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from ..d2.config import CfgNode
from ..d2.modeling import build_backbone
from ..d2.utils import comm
from .accumulation import Accumulation
from .batch_shapes import BatchShapes
from .cache import DiskCache, MemoryCache
from .dataset import AugmentConfig, TrainingDataset
from .sampler import RectangularOrder

logger = logging.getLogger(__name__)

# Keys of INPUT.AUGMENT with the range of their values.
RANGES = {
    "MOSAIC": (0, 1),
    "MOSAIC9": (0, 1),
    "MOSAIC_OFF": (0, 1),
    "MIXUP": (0, 1),
    "PASTE_IN": (0, 1),
    "SCALE": (0, 0.99),  # 1 would shrink images to nothing
    "TRANSLATE": (0, 1),
    "DEGREES": (0, 180),
    "SHEAR": (0, 89),  # the tangent of 90 degrees is infinite
    "FLIP": (0, 1),
    "FLIP_VERTICAL": (0, 1),
}


def training_size(cfg: CfgNode) -> int:
    """Longer side, in pixels, of the training images as they are read.

    Raises:
        ValueError: when the configuration selects several.
    """
    size = cfg.INPUT.MAX_SIZE_TRAIN
    if tuple(cfg.INPUT.MIN_SIZE_TRAIN) != (size,):
        raise ValueError(
            f"INPUT.MIN_SIZE_TRAIN is {tuple(cfg.INPUT.MIN_SIZE_TRAIN)}, expected ({size},) as "
            f"INPUT.MAX_SIZE_TRAIN is {size}: the longer side of every image gets this length "
            "(INPUT.MULTI_SCALE varies it)"
        )
    return size


def augment_config(cfg: CfgNode) -> AugmentConfig:
    """INPUT.AUGMENT as the data set takes it.

    Raises:
        ValueError: when a value is out of its range; it names the key.
    """
    node = cfg.INPUT.AUGMENT
    for key, (low, high) in RANGES.items():
        if not low <= node[key] <= high:
            raise ValueError(
                f"INPUT.AUGMENT.{key} is {node[key]}, expected a number from {low} to {high}"
            )
    if len(node.HSV) != 3 or not all(0 <= x <= 1 for x in node.HSV):
        raise ValueError(f"INPUT.AUGMENT.HSV is {node.HSV}, expected three numbers from 0 to 1")
    # A mosaic reaches `size` pixels from its centre on either axis; beyond this limit a corner of
    # it would lie behind the observer.
    limit = 1 / (2 * training_size(cfg))
    if not 0 <= node.PERSPECTIVE < limit:
        raise ValueError(
            f"INPUT.AUGMENT.PERSPECTIVE is {node.PERSPECTIVE}, expected a number from 0 to below "
            f"{limit:.5f}, that is 1 / (2 * INPUT.MAX_SIZE_TRAIN)"
        )
    batches = Accumulation.from_config(cfg).batches_before(cfg.SOLVER.MAX_ITER)
    samples = batches * cfg.SOLVER.IMS_PER_BATCH
    if cfg.INPUT.RECT and node.MOSAIC:
        logger.info("INPUT.RECT: no mosaics, hence no mixup")
    return AugmentConfig(
        mosaic=0.0 if cfg.INPUT.RECT else node.MOSAIC,
        mosaic9=node.MOSAIC9,
        first_plain_position=round((1 - node.MOSAIC_OFF) * samples),
        mixup=node.MIXUP,
        paste_in=node.PASTE_IN,
        scale=node.SCALE,
        translate=node.TRANSLATE,
        degrees=node.DEGREES,
        shear=node.SHEAR,
        perspective=node.PERSPECTIVE,
        hsv=tuple(node.HSV),
        flip=node.FLIP,
        flip_vertical=node.FLIP_VERTICAL,
        box_from_mask=node.BOX_FROM_MASK,
    )


def network_stride(cfg: CfgNode) -> int:
    """Sides of the network's input are multiples of this; 1 if any will do."""
    with torch.device("meta"):  # shapes alone
        return max(build_backbone(cfg).size_divisibility, 1)


def size_steps(cfg: CfgNode) -> tuple[tuple[int, float], ...]:
    """INPUT.SIZE_STEPS with batches in place of fractions of the run.

    Raises:
        ValueError: when it is no list of pairs, or one of their numbers is out of its range.
    """
    steps = cfg.INPUT.SIZE_STEPS
    is_list = isinstance(steps, list | tuple) and all(
        isinstance(step, list | tuple)
        and len(step) == 2
        and all(isinstance(x, int | float) and 0 < x < 1 for x in step)
        for step in steps
    )
    ends = [step[0] for step in steps] if is_list else []
    if not is_list or sorted(set(ends)) != ends:
        raise ValueError(
            f"INPUT.SIZE_STEPS is {steps}, expected pairs [fraction of the run, fraction of the "
            "size] of numbers between 0 and 1, rising in the run, such as [[0.5, 0.7]]"
        )
    batches = Accumulation.from_config(cfg).batches_before(cfg.SOLVER.MAX_ITER)
    return tuple((round(end * batches), float(share)) for end, share in steps)


def batch_shapes(cfg: CfgNode, sizes: np.ndarray, seed: int) -> BatchShapes:
    """INPUT.RECT, INPUT.SIZE_STEPS and INPUT.MULTI_SCALE as the data set takes them.

    Args:
        cfg: the configuration.
        sizes: (N, 2) heights and widths of the images, see `TrainingDataset.unrounded_sizes`.
        seed: of sizes and order.

    Raises:
        ValueError: when INPUT.MULTI_SCALE or INPUT.SIZE_STEPS is out of its range, or INPUT.RECT
            meets image weights.
    """
    steps = size_steps(cfg)
    multi_scale, batch_size = cfg.INPUT.MULTI_SCALE, cfg.SOLVER.IMS_PER_BATCH
    if cfg.INPUT.RECT and cfg.DATALOADER.IMAGE_WEIGHTS:
        raise ValueError("INPUT.RECT and DATALOADER.IMAGE_WEIGHTS both set the order of the images")
    if not 0 <= multi_scale < 1:
        raise ValueError(f"INPUT.MULTI_SCALE is {multi_scale}, expected a number from 0 to below 1")
    return BatchShapes(
        training_size(cfg),
        batch_size=batch_size,
        seed=seed,
        stride=network_stride(cfg) if cfg.INPUT.RECT or multi_scale or steps else 1,
        steps=steps,
        multi_scale=multi_scale,
        order=(
            RectangularOrder(sizes, batch_size=batch_size, seed=seed) if cfg.INPUT.RECT else None
        ),
    )


def build_cache(cfg: CfgNode, dataset: TrainingDataset) -> MemoryCache | DiskCache | None:
    """INPUT.CACHE for the images of a data set.

    Raises:
        ValueError: when it is unknown, or when the images do not fit.
    """
    kind = cfg.INPUT.CACHE
    if kind == "none":
        return None
    if kind == "ram":
        return MemoryCache(dataset.sizes, copies=comm.get_local_size(), channels=dataset.channels)
    if kind == "disk":
        folder = Path(cfg.INPUT.CACHE_DIR or Path(cfg.OUTPUT_DIR) / "image_cache")
        sizes = dataset.original_sizes, dataset.sizes
        return DiskCache(dataset.file_name, *sizes, folder, dataset.channels)
    raise ValueError(f"INPUT.CACHE is {kind!r}, expected 'none', 'ram' or 'disk'")
