"""Loaders from a configuration."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from torch.utils.data import DataLoader

from ..d2.config import CfgNode
from ..d2.data import (
    build_detection_test_loader,
    build_detection_train_loader,
)
from ..d2.utils import comm
from ..datasets.catalog import (
    check_classes,
    load_test_items,
)
from ..files.images import limit_pixels, read_image
from ..modeling.images import padding_from_config
from ..tasks import enabled_tasks
from ..workers import shield_worker
from .accumulation import Accumulation
from .dataset import TrainingDataset, check_image_size
from .image_weights import image_weights
from .resize import ReferenceResize, ResizeForTest, build_test_resize, resize_for_test, to_pixels
from .sampler import PositionSampler, epoch_order
from .settings import (
    augment_config,
    batch_shapes,
    build_cache,
    training_size,
)
from .training_data import TrainingData

logger = logging.getLogger(__name__)


def build_training_dataset(cfg: CfgNode, data: TrainingData | None = None) -> TrainingDataset:
    """The samples of DATASETS.TRAIN as INPUT wants them.

    Args:
        cfg: the configuration.
        data: of it; None reads them.
    """
    limit_pixels(cfg.INPUT.MAX_PIXELS)
    data = TrainingData(cfg) if data is None else data
    data.log_contents()
    needed, seed = data.needed, max(cfg.SEED, 0)
    dataset = TrainingDataset(
        data.truth,
        size=training_size(cfg),
        seed=seed,
        augment=augment_config(cfg),
        channel_order=cfg.INPUT.FORMAT,
        channels=data.channels,
        padding=padding_from_config(cfg),
        with_polygons="polygons" in needed,
        with_keypoints="keypoints" in needed,
        flip_order=data.flip_order if "keypoints" in needed else None,
    )
    for task, _ in enabled_tasks(cfg):
        task.check_data(cfg, dataset)
    dataset.shapes = batch_shapes(cfg, dataset.unrounded_sizes, seed)
    dataset.cache = build_cache(cfg, dataset)
    return dataset


def epoch_orders(
    cfg: CfgNode, dataset: TrainingDataset, class_ap: Sequence[float] | None
) -> tuple[int, Callable[[int], np.ndarray] | None]:
    """Positions in an epoch, and the indices of an epoch; None takes every image once.

    Args:
        cfg: the configuration.
        dataset: the samples.
        class_ap: see `build_train_loader`.
    """
    if dataset.shapes.order is not None:
        return dataset.shapes.order.size, dataset.shapes.order.epoch
    if class_ap is None:
        return len(dataset), None
    labels = np.split(dataset.labels, dataset.starts[1:-1])  # by image
    weights = image_weights(labels, cfg.MODEL.YOLOR.NUM_CLASSES, class_ap)
    order = functools.partial(epoch_order, dataset.seed, size=len(dataset), weights=weights)
    return len(dataset), order


def build_train_loader(
    cfg: CfgNode,
    start_iter: int = 0,
    class_ap: Sequence[float] | None = None,
    dataset: TrainingDataset | None = None,
) -> DataLoader:
    """Endless loader of augmented batches.

    Args:
        cfg: the configuration.
        start_iter: the first batch is that of this iteration; what it holds does not depend on
            whether the batches before it were loaded by this loader.
        class_ap: average precision of each class in 0-1, by which images are drawn, see
            `image_weights`; None takes each image once an epoch.
        dataset: the samples, of `build_training_dataset`; None makes them.
    """
    # Threads of OpenCV inside worker processes fight for the same cores.
    cv2.setNumThreads(0)
    if dataset is None:
        data = TrainingData(cfg)
        dataset = build_training_dataset(cfg, data)
        data.check_anchors(dataset)
    size, order = epoch_orders(cfg, dataset, class_ap)
    batches = Accumulation.from_config(cfg).batches_before(start_iter)
    sampler = PositionSampler(
        size,
        seed=dataset.seed,
        order=order,
        start=batches * cfg.SOLVER.IMS_PER_BATCH,
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
    )
    loader = build_detection_train_loader(
        dataset,
        mapper=None,
        sampler=sampler,
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=False,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    # The runtimes wrap it, each in its own way.
    loader.training_set = dataset
    return loader


class EvaluationMapper:
    """Dataset dict to model input: read and resize, as `DefaultPredictor` does with an array.

    Args:
        resize: the resize of the test pipeline.
        channel_order: "RGB" or "BGR".
        channels: of the images, see `images.read_image`.
    """

    def __init__(
        self, resize: ResizeForTest | ReferenceResize, channel_order: str, channels: int = 3
    ):
        self.resize = resize
        self.channel_order = channel_order
        self.channels = channels

    @classmethod
    def from_config(cls, cfg: CfgNode) -> EvaluationMapper:
        channels = len(cfg.MODEL.PIXEL_MEAN)
        return cls(build_test_resize(cfg), cfg.INPUT.FORMAT, channels)

    def __call__(self, item: dict) -> dict:
        shield_worker()
        image = read_image(item["file_name"], self.channel_order, self.channels)
        check_image_size(item, image)
        height, width = image.shape[:2]
        image = resize_for_test(self.resize, image)
        kept = {key: value for key, value in item.items() if key != "annotations"}
        return {"height": height, "width": width, **kept, "image": to_pixels(image)}


def order_by_aspect_ratio(items: Sequence[dict], channels: int = 3) -> list[dict]:
    """Dataset dicts from the widest image to the highest, stable among equal ratios."""

    def ratio(item: dict) -> float:
        if "height" not in item or "width" not in item:
            height, width = read_image(item["file_name"], channels=channels).shape[:2]
            return height / width
        return item["height"] / item["width"]

    return sorted(items, key=ratio)


def build_test_loader(cfg: CfgNode, name: str) -> DataLoader:
    """Loader over one data set, in its order or, with TEST.ASPECT_RATIO_ORDER, by aspect ratio.

    Raises:
        ValueError: when its classes do not fit the model.
    """
    limit_pixels(cfg.INPUT.MAX_PIXELS)
    items = load_test_items(name)
    check_classes(cfg, name)
    if cfg.TEST.ASPECT_RATIO_ORDER:
        items = order_by_aspect_ratio(items, len(cfg.MODEL.PIXEL_MEAN))
    return build_detection_test_loader(
        items,
        mapper=EvaluationMapper.from_config(cfg),
        batch_size=cfg.TEST.IMS_PER_BATCH,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
