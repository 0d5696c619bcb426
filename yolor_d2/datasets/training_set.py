"""Images and objects that a configuration trains on."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from .._builtin.config import CfgNode
from ..d2.data import MetadataCatalog
from .catalog import check_classes, keypoint_layout, load_ground_truth
from .ground_truth import GroundTruth

logger = logging.getLogger(__name__)


def load_training_truth(
    cfg: CfgNode, polygons: bool = False, keypoints: bool = False
) -> GroundTruth:
    """Images and objects of DATASETS.TRAIN.

    Args:
        cfg: the configuration.
        polygons: whether those of the objects are needed.
        keypoints: the same.

    Raises:
        ValueError: when classes do not fit the model, when no image has a usable box, or when data
            sets have different keypoints.
    """
    names, num_classes = list(cfg.DATASETS.TRAIN), cfg.MODEL.YOLOR.NUM_CLASSES
    if not names:
        raise ValueError("DATASETS.TRAIN is empty: there is nothing to train on")
    channels = len(cfg.MODEL.PIXEL_MEAN)
    parts = [load_ground_truth(name, channels, polygons, keypoints) for name in names]
    if keypoints:
        check_layout(names, parts)
    for name in names:
        check_classes(cfg, name)
    classes = [MetadataCatalog.get(name).get("thing_classes") for name in names]
    if any(x != classes[0] for x in classes):
        raise ValueError(f"DATASETS.TRAIN {names} have different classes: {classes}"[:400])
    truth = GroundTruth.join(parts)
    beyond = np.flatnonzero((truth.labels < 0) | (truth.labels >= num_classes))
    if len(beyond):
        image = int(np.searchsorted(truth.starts, beyond[0], side="right")) - 1
        raise ValueError(
            f"image {truth.file_names[image]!r} has an object of class {truth.labels[beyond[0]]}, "
            f"but MODEL.YOLOR.NUM_CLASSES is {num_classes}"
        )
    left = len(truth.labels)
    if left == 0:
        raise ValueError(f"DATASETS.TRAIN {names}: no image has a box of positive size inside it")
    if left < truth.num_given:
        logger.warning(
            "DATASETS.TRAIN %s: %d of %d boxes are left out: empty, or outside their image",
            names,
            truth.num_given - left,
            truth.num_given,
        )
    return truth.without_empty() if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS else truth


def check_layout(names: Sequence[str], parts: Sequence[GroundTruth]) -> None:
    """Compare the keypoints of data sets with each other and with their names.

    Raises:
        ValueError: when their numbers differ.
    """
    counts = {name: part.keypoints.shape[1] for name, part in zip(names, parts)}  # pyright: ignore[reportOptionalMemberAccess]
    known, _ = keypoint_layout(names)
    expected = {len(known)} if known else set()
    found = {count for count in counts.values() if count}
    if len(found | expected) > 1:
        raise ValueError(
            f"objects of DATASETS.TRAIN have different numbers of keypoints: {counts}"
            + (f"; keypoint_names are {known}" if known else "")
        )
