"""Keypoints of objects, see `networks.branches.keypoints`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..networks.branches import KeypointBranch, TaskBranch, TaskInputs
from ..networks.branches.keypoint_losses import sigmas_of
from ..ops.padding import Placement
from ..structures.keypoints import COCO_PERSON, KeypointLayout, flip_order
from .task import Task

if TYPE_CHECKING:
    from ..d2.config import CfgNode
    from ..d2.structures import Instances
    from ..data.dataset import TrainingDataset
    from ..data.training_data import TrainingData


def to_canvas(points: Tensor, placement: Placement) -> Tensor:
    """Keypoints of one image on the canvas; those that are not labelled, or lie outside of the
    image, become zeros.

    Args:
        points: (M, K, 3) x, y in pixels of the image, visibility.
        placement: of the image.

    Returns:
        (M, K, 3).
    """
    x, y, visibility = points.unbind(dim=2)
    (height, width), (top, left) = placement.size, placement.offset
    inside = (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
    moved = torch.stack([x + left, y + top, visibility], dim=2)
    return moved.where((inside & (visibility > 0))[..., None], 0.0)


def layout_of(node: CfgNode) -> KeypointLayout:
    """Names of the points and the lines between them; points without names have numbers.

    Raises:
        ValueError: when there are names, but not one for each point.
    """
    count = node.NUM_KEYPOINTS
    if not node.NAMES:
        if count == len(COCO_PERSON.names):
            return COCO_PERSON
        return KeypointLayout(tuple(f"point_{i}" for i in range(count)), (), ())
    if len(node.NAMES) != count:
        raise ValueError(
            f"MODEL.YOLOR.TASKS.KEYPOINTS.NAMES has {len(node.NAMES)} names, expected none or one "
            f"for each of {count} points (NUM_KEYPOINTS)"
        )
    lines, pairs = ([(a, b) for a, b in x] for x in (node.SKELETON, node.FLIP_PAIRS))
    return KeypointLayout(tuple(node.NAMES), tuple(lines), tuple(pairs))


def exchanged(node: CfgNode) -> list[int]:
    """Which point of an object each one of the mirrored object is."""
    layout = layout_of(node)
    return flip_order(layout.names, layout.pairs).tolist()


class KeypointsTask(Task):
    """In: gt_keypoints, Detectron2's `Keypoints` (M, K, 3) x, y, visibility. Out: pred_keypoints,
    (D, K, 3) x, y, score, in the pixels of the boxes."""

    name: ClassVar = "keypoints"
    ground_truth: ClassVar = ("keypoints",)
    metrics: ClassVar = "keypoints"
    least_values: ClassVar = {
        "LAYERS": 0,
        "CHANNELS": 0,
        "NUM_KEYPOINTS": 0,
        "GAIN": 0,
        "REFINEMENTS": 0,
        "REFINEMENT_GAIN": 0,
        "VISIBILITY_GAIN": 0,
    }

    def add_config(self, node: CfgNode) -> None:
        # Named points of each object, such as corners or joints, as in YOLOv7's pose network.
        node.ENABLED = False
        # Implicit operator in the branch, before its last convolution, "none" or such as "add".
        node.IMPLICIT = "none"
        # 3x3 convolutions on each level.
        node.LAYERS = 1
        # Their width, and that of the map's; 0: a quarter of that of the feature, but at least 32.
        # Depthwise ones are as wide as the feature.
        node.CHANNELS = 0
        # Whether LAYERS are pairs of a depthwise and a 1x1 convolution, as the authors' 5 are,
        # which learn more slowly.
        node.DEPTHWISE = False
        # Points of an object; 0 lets yolor-d2 train take the number from the training set.
        node.NUM_KEYPOINTS = 0
        # Their names, the pairs of names that a mirror exchanges, and those between which lines are
        # drawn; [] lets yolor-d2 train take all three from the training set. 17 points without
        # names are COCO's.
        node.NAMES = []
        node.FLIP_PAIRS = []
        node.SKELETON = []
        # Numbers of the classes whose objects have points; those of others get scores of 0. [] is
        # all of them; yolor-d2 train takes them from the training set.
        node.CLASSES = []
        # How far off each point may be as a fraction of the object's size (COCO's OKS), in the loss
        # and in the evaluation. [] takes COCO's for 17 points, 0.1 each for any other number.
        node.SIGMAS = []
        # What a point costs: "huber", which pulls at it from anywhere, or "oks", the authors',
        # which teaches little until points are nearly right.
        node.LOSS = "huber"
        # Weight of the loss of the points. The authors' is 0.1, for "oks"; "huber" is large where
        # points are far off.
        node.GAIN = 0.04
        # How often points are corrected by a map of the finest level, which says from every cell
        # near a point where it lies; 0, the authors', is without it.
        node.REFINEMENTS = 4
        # Weight of the loss of that map.
        node.REFINEMENT_GAIN = 0.36
        # Weight of the loss of their scores, that is of which points are labelled.
        node.VISIBILITY_GAIN = 0.01
        # Which channels belong to which anchor: "" its own, "yolov7" as the authors' weights need
        # them.
        node.LAYOUT = ""
        # What points are relative to: "box", the middle and sides of the anchor's box, or "cell",
        # the authors', the cell and its size.
        node.ORIGIN = "box"

    def build(self, node: CfgNode, inputs: TaskInputs) -> KeypointBranch:
        branch = KeypointBranch(
            inputs.channels,
            strides=inputs.strides,
            num_anchors=inputs.num_anchors,
            num_keypoints=node.NUM_KEYPOINTS,
            layers=node.LAYERS,
            channels=node.CHANNELS,
            depthwise=node.DEPTHWISE,
            implicit=node.IMPLICIT,
            options=inputs.options,
            sigmas=node.SIGMAS,
            loss=node.LOSS,
            gain=node.GAIN,
            refinements=node.REFINEMENTS,
            refinement_gain=node.REFINEMENT_GAIN,
            visibility_gain=node.VISIBILITY_GAIN,
            layout=node.LAYOUT,
            origin=node.ORIGIN,
            anchors=inputs.anchors,
            form=inputs.form,
        )
        branch.flip_order = exchanged(node)
        branch.classes = list(node.CLASSES)
        return branch

    def pack_truth(
        self,
        branch: TaskBranch,
        instances: Sequence[Instances],
        placements: Sequence[Placement],
        canvas: tuple[int, int],
    ) -> dict[str, Tensor]:
        assert isinstance(branch, KeypointBranch)
        packed = []
        for targets, placement in zip(instances, placements):
            if len(targets) == 0:  # Detectron2's mapper gives no keypoints where there is no object
                packed.append(torch.zeros(0, branch.num_keypoints, 3))
                continue
            if not targets.has("gt_keypoints"):
                raise KeyError(
                    "the keypoints task needs 'gt_keypoints' in the instances of every input; "
                    "annotations give them by 'keypoints'"
                )
            points = targets.gt_keypoints.tensor.cpu().float()
            if points.shape[1:] != (branch.num_keypoints, 3):
                raise ValueError(
                    f"an object has {points.shape[1]} keypoints, but "
                    f"MODEL.YOLOR.TASKS.KEYPOINTS.NUM_KEYPOINTS is {branch.num_keypoints}"
                )
            packed.append(to_canvas(points, placement))
        return {"keypoints": torch.cat(packed)}

    def add_results(self, result: dict[str, Any], decoded: Tensor) -> None:
        result["instances"].pred_keypoints = decoded

    def mirror(self, branch: TaskBranch, decoded: Tensor, size: tuple[int, int]) -> Tensor:
        assert isinstance(branch, KeypointBranch)
        x, y, score = decoded.unbind(dim=2)
        return torch.stack([size[1] - x, y, score], dim=2)[:, branch.flip_order]

    def describe_file(self, cfg: CfgNode, branch: TaskBranch) -> dict[str, Any]:
        """What the points are called, which a mirror exchanges, which a line connects."""
        layout = layout_of(cfg.MODEL.YOLOR.TASKS.KEYPOINTS)
        return {
            "names": list(layout.names),
            "flip_pairs": [list(pair) for pair in layout.pairs],
            "skeleton": [list(line) for line in layout.connections],
            "classes": list(cfg.MODEL.YOLOR.TASKS.KEYPOINTS.CLASSES),
        }

    def coco_options(self, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.YOLOR.TASKS.KEYPOINTS
        return {"kpt_oks_sigmas": list(sigmas_of(node.NUM_KEYPOINTS, node.SIGMAS))}

    def settle(self, cfg: CfgNode, data: TrainingData) -> None:
        node = cfg.MODEL.YOLOR.TASKS.KEYPOINTS
        if node.NUM_KEYPOINTS:
            return
        truth = data.read(keypoints=True)
        keypoints = truth.keypoints
        node.NUM_KEYPOINTS = 0 if keypoints is None else keypoints.shape[1]
        if node.NUM_KEYPOINTS == 0:
            raise ValueError(
                f"MODEL.YOLOR.TASKS.KEYPOINTS.ENABLED is True, but DATASETS.TRAIN "
                f"{list(cfg.DATASETS.TRAIN)} has no keypoints: its categories and annotations need "
                "the key 'keypoints'"
            )
        assert keypoints is not None
        classes = np.unique(truth.labels[(keypoints[..., 2] > 0).any(axis=1)]).tolist()
        node.CLASSES = classes if len(classes) < cfg.MODEL.YOLOR.NUM_CLASSES else []
        if not node.NAMES:
            layout = data.keypoints
            if len(layout.names) == node.NUM_KEYPOINTS:
                node.NAMES = list(layout.names)
                node.FLIP_PAIRS = [list(pair) for pair in layout.pairs]
                node.SKELETON = [list(line) for line in layout.connections]

    def forget_data(self, node: CfgNode) -> None:
        node.NUM_KEYPOINTS = 0
        node.NAMES, node.FLIP_PAIRS, node.SKELETON, node.CLASSES = [], [], [], []

    def check_data(self, cfg: CfgNode, dataset: TrainingDataset) -> None:
        wanted, keypoints = cfg.MODEL.YOLOR.TASKS.KEYPOINTS.NUM_KEYPOINTS, dataset.truth.keypoints
        count = 0 if keypoints is None else keypoints.shape[1]
        if count != wanted:
            raise ValueError(
                f"MODEL.YOLOR.TASKS.KEYPOINTS.NUM_KEYPOINTS is {wanted}, but the objects of "
                f"DATASETS.TRAIN {list(cfg.DATASETS.TRAIN)} have {count} keypoints"
            )
