"""What a model gives beside boxes, which outputs ask before there is any result."""

from __future__ import annotations

from collections.abc import Sequence

from ..d2.config import CfgNode
from ..datasets.catalog import keypoint_layout, keypoint_lines
from ..tasks import enabled_tasks
from ..tasks.keypoints import layout_of
from ..visualize.shapes import Skeleton


def task_node(cfg: CfgNode, name: str) -> CfgNode | None:
    """The keys of a task that is switched on; None if it is not."""
    return next((node for task, node in enabled_tasks(cfg) if task.name == name), None)


def gives_masks(cfg: CfgNode) -> bool:
    return task_node(cfg, "masks") is not None


def skeleton_of(cfg: CfgNode) -> Skeleton | None:
    """The keypoints of a model; None for one without."""
    node = task_node(cfg, "keypoints")
    if node is None:
        return None
    layout = layout_of(node)
    return Skeleton.from_names(layout.names, layout.connections)


def skeleton_of_data(names: Sequence[str]) -> Skeleton | None:
    """The keypoints of data sets that have been read; None if they have none."""
    points, _ = keypoint_layout(names)
    return Skeleton.from_names(points, keypoint_lines(names)) if points else None
