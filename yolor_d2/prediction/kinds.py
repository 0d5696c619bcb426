"""What a model gives beside boxes, which outputs ask before there is any result."""

from __future__ import annotations

from pathlib import Path

from ..d2.config import CfgNode
from ..d2.data import MetadataCatalog
from ..data.annotations import SMALL_FILE, read_annotations
from ..data.catalog import describe
from ..shapes import Skeleton
from ..tasks import enabled_tasks


def task_node(cfg: CfgNode, name: str) -> CfgNode | None:
    """The keys of a task that is switched on; None if it is not."""
    return next((node for task, node in enabled_tasks(cfg) if task.name == name), None)


def gives_masks(cfg: CfgNode) -> bool:
    return task_node(cfg, "masks") is not None


def skeleton_of(cfg: CfgNode) -> Skeleton | None:
    """The keypoints of a model: what the metadata or annotation files of its data sets say of them;
    where that is not known, or of another number of points, points are numbered. None for a model
    without keypoints."""
    node = task_node(cfg, "keypoints")
    if node is None:
        return None
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        metadata = MetadataCatalog.get(name)
        path = metadata.get("json_file")
        if metadata.get("keypoint_names") is None and path is not None and is_small(Path(path)):
            describe(name, read_annotations(path))
        names = metadata.get("keypoint_names") or ()
        if len(names) == node.NUM_KEYPOINTS:
            return Skeleton.from_names(names, metadata.get("keypoint_connection_rules"))
    return Skeleton.of_points(node.NUM_KEYPOINTS)


def is_small(path: Path) -> bool:
    """Whether it is a file that takes no more than a second to read."""
    return path.is_file() and path.stat().st_size <= SMALL_FILE
