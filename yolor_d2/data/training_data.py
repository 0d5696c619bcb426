"""What data a run has: DATASETS.TRAIN and the settings that apply to it, in one object."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from tabulate import tabulate

from ..d2.config import CfgNode
from ..d2.data import MetadataCatalog
from ..datasets.catalog import (
    check_classes,
    class_names,
    count_images,
    keypoint_layout,
    keypoint_lines,
    load_ground_truth,
)
from ..datasets.fingerprint import take_fingerprint
from ..datasets.ground_truth import GroundTruth
from ..modeling.backbone import variant_from_config
from ..ops.anchors import best_possible_recall
from ..structures.keypoints import KeypointLayout, flip_order
from ..tasks import ground_truth_needed
from ..wording import counted
from .dataset import TrainingDataset

logger = logging.getLogger(__name__)

# Training warns when a smaller fraction of the boxes than this matches an anchor.
LEAST_RECALL = 0.98


class TrainingData:
    """The training data of a run, read when they are first asked for.

    The lengths of the run, its tasks, its loader and the record of what it was trained on all take
    them from here.

    Args:
        cfg: the configuration, whose data sets are registered.

    Attributes:
        names: DATASETS.TRAIN.
        channels: of the images.
        needed: what the tasks learn beside boxes and classes, see `Task.ground_truth`.
    """

    def __init__(self, cfg: CfgNode):
        self.cfg = cfg
        self.names = list(cfg.DATASETS.TRAIN)
        self.channels = len(cfg.MODEL.PIXEL_MEAN)
        self.needed = ground_truth_needed(cfg)

    @property
    def with_polygons(self) -> bool:
        """Whether polygons of objects are read: for a task, or to augment with them."""
        augment = self.cfg.INPUT.AUGMENT
        return augment.PASTE_IN > 0 or augment.BOX_FROM_MASK or "polygons" in self.needed

    @cached_property
    def truth(self) -> GroundTruth:
        """Images and objects, with all that training needs of them; errors as in `read`."""
        return self.read(self.with_polygons, "keypoints" in self.needed)

    def read(self, polygons: bool = False, keypoints: bool = False) -> GroundTruth:
        """Images and objects.

        Args:
            polygons: whether to read those of the objects.
            keypoints: the same.

        Raises:
            ValueError: when classes do not fit the model, when no image has a usable box, or when
                data sets have different keypoints.
        """
        names, num_classes = self.names, self.cfg.MODEL.YOLOR.NUM_CLASSES
        if not names:
            raise ValueError("DATASETS.TRAIN is empty: there is nothing to train on")
        parts = [load_ground_truth(name, self.channels, polygons, keypoints) for name in names]
        if keypoints:
            check_layout(names, parts)
        for name in names:
            check_classes(self.cfg, name)
        classes = [MetadataCatalog.get(name).get("thing_classes") for name in names]
        if any(x != classes[0] for x in classes):
            raise ValueError(f"DATASETS.TRAIN {names} have different classes: {classes}"[:400])
        truth = GroundTruth.join(parts)
        check_labels(truth, num_classes)
        left = len(truth.labels)
        if left == 0:
            raise ValueError(
                f"DATASETS.TRAIN {names}: no image has a box of positive size inside it"
            )
        if left < truth.num_given:
            logger.warning(
                "DATASETS.TRAIN %s: %d of %d boxes are left out: empty, or outside their image",
                *(names, truth.num_given - left, truth.num_given),
            )
        return truth.without_empty() if self.cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS else truth

    def count_images(self) -> int:
        """Images of an epoch, without reading objects unless images without any are left out."""
        if self.cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
            return len(self.read())
        return sum(map(count_images, self.names))

    def prepare_copies(self) -> None:
        """Write the prepared copies of polygons and keypoints that other processes will read."""
        if self.with_polygons or "keypoints" in self.needed:
            _ = self.truth

    @cached_property
    def keypoints(self) -> KeypointLayout:
        """Names of the keypoints, lines between them, pairs that a mirror exchanges."""
        names, pairs = keypoint_layout(self.names)
        return KeypointLayout(tuple(names), tuple(keypoint_lines(self.names)), tuple(pairs))

    @property
    def flip_order(self) -> np.ndarray | None:
        """Which keypoints a mirror exchanges; None where they have no names."""
        layout = self.keypoints
        return flip_order(layout.names, layout.pairs) if layout.names else None

    # ---- Log

    def log_contents(self) -> None:
        """Log how many images there are, objects of each class, and what tasks learn from.

        Raises:
            ValueError: when no object has what a task needs.
        """
        truth, names = self.truth, class_names(self.cfg, self.names)
        counts = np.bincount(truth.labels, minlength=len(names)).tolist()
        pairs = [*zip(names, counts), ("all", len(truth.labels))]
        cells = [cell for pair in pairs for cell in pair]
        rows = [cells[i : i + 6] for i in range(0, len(cells), 6)]
        table = tabulate(rows, ["class", "objects"] * min(3, len(names) + 1), tablefmt="pipe")
        logger.info("DATASETS.TRAIN: %s\n%s", counted(len(truth), "image"), table)
        self.log_polygons()
        self.log_keypoints()

    def log_polygons(self) -> None:
        """Log how many objects have polygons, if they are needed; warn if none has."""
        truth, augment = self.truth, self.cfg.INPUT.AUGMENT
        if truth.polygons is None:
            return
        count = np.count_nonzero(truth.polygons.counts)
        if count:
            logger.info("%d of %d objects have polygons", count, len(truth.labels))
        elif "polygons" in self.needed:
            raise ValueError(
                f"no object of DATASETS.TRAIN {self.names} has a mask ('segmentation')"
            )
        elif augment.PASTE_IN:
            logger.warning(
                "INPUT.AUGMENT.PASTE_IN is %s, but no object of DATASETS.TRAIN %s has polygons "
                "('segmentation'): nothing is pasted",
                *(augment.PASTE_IN, self.names),
            )
        else:
            logger.warning(
                "INPUT.AUGMENT.BOX_FROM_MASK is True, but no object of DATASETS.TRAIN %s has "
                "polygons ('segmentation'): boxes stay as they are",
                self.names,
            )

    def log_keypoints(self) -> None:
        """Log how many objects have keypoints, if they are needed."""
        truth = self.truth
        if truth.keypoints is None:
            return
        count = np.count_nonzero((truth.keypoints[..., 2] > 0).any(axis=1))
        if not count:
            raise ValueError(
                f"no object of DATASETS.TRAIN {self.names} has keypoints ('keypoints')"
            )
        points, pairs = self.keypoints.names, self.keypoints.pairs
        logger.info(
            "%d of %d objects have keypoints: %s; mirrored images exchange %s",
            *(count, len(truth.labels), ", ".join(points) or truth.keypoints.shape[1]),
            ", ".join(f"{a} and {b}" for a, b in pairs) or "none",
        )

    def check_anchors(self, dataset: TrainingDataset) -> None:
        """Warn if many boxes match no anchor, and so cannot be learned."""
        anchors = torch.tensor(variant_from_config(self.cfg).anchors).flatten(0, 1)
        sizes = dataset.box_sizes()
        recall = best_possible_recall(sizes, anchors, self.cfg.MODEL.YOLOR.ASSIGN_MAX_RATIO)
        if recall < LEAST_RECALL:
            logger.warning(
                "%.1f %% of the %d boxes match an anchor (MODEL.YOLOR.ANCHORS); the others cannot "
                "be learned. Anchors that fit: yolor-d2 anchors --config-file %s/config.yaml",
                *(100 * recall, len(sizes), self.cfg.OUTPUT_DIR),
            )

    def fingerprint(self, dataset: TrainingDataset) -> tuple[dict, Sequence[str]]:
        """What the run is trained on, see `take_fingerprint`, and the names of its images."""
        roots = [MetadataCatalog.get(name).get("image_root") for name in self.names]
        classes = MetadataCatalog.get(self.names[0]).get("thing_classes") or []
        taken = take_fingerprint(dataset, classes, [root for root in roots if root])
        return taken, dataset.truth.file_names


def check_labels(truth: GroundTruth, num_classes: int) -> None:
    """Raise a ValueError where an object is of a class beyond those of the model."""
    beyond = np.flatnonzero((truth.labels < 0) | (truth.labels >= num_classes))
    if len(beyond):
        image = int(np.searchsorted(truth.starts, beyond[0], side="right")) - 1
        raise ValueError(
            f"image {truth.file_names[image]!r} has an object of class {truth.labels[beyond[0]]}, "
            f"but MODEL.YOLOR.NUM_CLASSES is {num_classes}"
        )


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
