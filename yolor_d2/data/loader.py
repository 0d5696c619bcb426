"""Loaders from a configuration."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from tabulate import tabulate
from torch.utils.data import DataLoader

from ..d2.config import CfgNode
from ..d2.data import (
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from ..d2.utils import comm
from ..datasets.catalog import (
    check_classes,
    class_names,
    count_images,
    keypoint_layout,
    load_test_items,
)
from ..datasets.fingerprint import take_fingerprint
from ..datasets.ground_truth import GroundTruth
from ..datasets.training_set import load_training_truth
from ..files.images import limit_pixels, read_image
from ..modeling.backbone import variant_from_config
from ..modeling.images import padding_from_config
from ..ops.anchors import best_possible_recall
from ..structures.keypoints import flip_order
from ..tasks import enabled_tasks, ground_truth_needed
from ..wording import counted
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

logger = logging.getLogger(__name__)

# Training warns when a smaller share of the boxes than this matches an anchor.
LEAST_RECALL = 0.98


def needs_polygons(cfg: CfgNode) -> bool:
    """Whether training reads the polygons of objects: for a task, or to move them."""
    augment = cfg.INPUT.AUGMENT
    moved = augment.PASTE_IN > 0 or augment.BOX_FROM_MASK
    return moved or "polygons" in ground_truth_needed(cfg)


def log_counts(cfg: CfgNode, truth: GroundTruth) -> None:
    """Write how many images there are, and objects of each class."""
    names = class_names(cfg, cfg.DATASETS.TRAIN)
    counts = np.bincount(truth.labels, minlength=len(names)).tolist()
    cells = [cell for pair in [*zip(names, counts), ("all", len(truth.labels))] for cell in pair]
    rows = [cells[i : i + 6] for i in range(0, len(cells), 6)]
    table = tabulate(rows, ["class", "objects"] * min(3, len(names) + 1), tablefmt="pipe")
    logger.info("DATASETS.TRAIN: %s\n%s", counted(len(truth), "image"), table)


def prepare_polygons(cfg: CfgNode) -> None:
    """Have prepared copies made of polygons and keypoints of DATASETS.TRAIN, if they are needed and
    several processes are going to read them."""
    if comm.get_world_size() > 1:
        polygons, keypoints = needs_polygons(cfg), "keypoints" in ground_truth_needed(cfg)
        if polygons or keypoints:
            load_training_truth(cfg, polygons, keypoints)


def count_outlined(cfg: CfgNode, truth: GroundTruth) -> None:
    """Write how many objects have polygons and keypoints, if they are needed; warn if none has.

    Raises:
        ValueError: when no object has what a task needs.
    """
    names, needed, augment = list(cfg.DATASETS.TRAIN), ground_truth_needed(cfg), cfg.INPUT.AUGMENT
    if truth.polygons is not None:
        count = np.count_nonzero(truth.polygons.counts)
        if count:
            logger.info("%d of %d objects have polygons", count, len(truth.labels))
        elif "polygons" in needed:
            raise ValueError(f"no object of DATASETS.TRAIN {names} has a mask ('segmentation')")
        elif augment.PASTE_IN:
            logger.warning(
                "INPUT.AUGMENT.PASTE_IN is %s, but no object of DATASETS.TRAIN %s has polygons "
                "('segmentation'): nothing is pasted",
                *(augment.PASTE_IN, names),
            )
        else:
            logger.warning(
                "INPUT.AUGMENT.BOX_FROM_MASK is True, but no object of DATASETS.TRAIN %s has "
                "polygons ('segmentation'): boxes stay as they are",
                names,
            )
    if truth.keypoints is not None:
        count = np.count_nonzero((truth.keypoints[..., 2] > 0).any(axis=1))
        if not count:
            raise ValueError(f"no object of DATASETS.TRAIN {names} has keypoints ('keypoints')")
        points, pairs = keypoint_layout(names)
        logger.info(
            "%d of %d objects have keypoints: %s; mirrored images exchange %s",
            *(count, len(truth.labels), ", ".join(points) or truth.keypoints.shape[1]),
            ", ".join(f"{a} and {b}" for a, b in pairs) or "none",
        )


def warn_of_anchors(cfg: CfgNode, dataset: TrainingDataset) -> None:
    """Say so if many boxes match no anchor, and so cannot be learned."""
    anchors = torch.tensor(variant_from_config(cfg).anchors).flatten(0, 1)
    sizes = dataset.box_sizes()
    recall = best_possible_recall(sizes, anchors, cfg.MODEL.YOLOR.ASSIGN_MAX_RATIO)
    if recall < LEAST_RECALL:
        logger.warning(
            "%.1f %% of the %d boxes match an anchor (MODEL.YOLOR.ANCHORS); the others cannot be "
            "learned. Anchors that fit: yolor-d2 anchors --config-file %s/config.yaml",
            *(100 * recall, len(sizes), cfg.OUTPUT_DIR),
        )


def count_training_images(cfg: CfgNode) -> int:
    """Images of DATASETS.TRAIN that an epoch consists of."""
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        return len(load_training_truth(cfg))
    return sum(map(count_images, cfg.DATASETS.TRAIN))


def fingerprint(cfg: CfgNode, dataset: TrainingDataset) -> tuple[dict, Sequence[str]]:
    """What a run is trained on, see `fingerprint.take_fingerprint`, and the names of its images."""
    roots = [MetadataCatalog.get(name).get("image_root") for name in cfg.DATASETS.TRAIN]
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes") or []
    taken = take_fingerprint(dataset, names, [root for root in roots if root])
    return taken, dataset.truth.file_names


def mirrored(cfg: CfgNode) -> np.ndarray | None:
    """Which keypoints of DATASETS.TRAIN a mirror exchanges; None where they have no names."""
    names, pairs = keypoint_layout(cfg.DATASETS.TRAIN)
    return flip_order(names, pairs) if names else None


def build_training_dataset(cfg: CfgNode) -> TrainingDataset:
    """The samples of DATASETS.TRAIN as INPUT wants them."""
    limit_pixels(cfg.INPUT.MAX_PIXELS)
    seed = max(cfg.SEED, 0)
    needed = ground_truth_needed(cfg)
    truth = load_training_truth(cfg, needs_polygons(cfg), "keypoints" in needed)
    log_counts(cfg, truth)
    count_outlined(cfg, truth)
    dataset = TrainingDataset(
        truth,
        size=training_size(cfg),
        seed=seed,
        augment=augment_config(cfg),
        channel_order=cfg.INPUT.FORMAT,
        channels=len(cfg.MODEL.PIXEL_MEAN),
        padding=padding_from_config(cfg),
        with_polygons="polygons" in needed,
        with_keypoints="keypoints" in needed,
        flip_order=mirrored(cfg) if "keypoints" in needed else None,
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
        dataset = build_training_dataset(cfg)
        warn_of_anchors(cfg, dataset)
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
        channels: of the images, see `image.read_image`.
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
