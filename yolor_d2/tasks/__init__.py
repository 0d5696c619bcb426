"""Tasks beside detection (paper section 5.4; docs/multi_task.md): a row each.

A task is two files: its branch, targets, loss and decoding in `networks/branches/`, on plain
tensors, and here what Detectron2 has to do with it. Nothing else knows a task by its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..networks.branches import TaskBranches, TaskInputs
from ..ops.padding import Placement
from .classification import ClassificationTask
from .embedding import EmbeddingTask
from .keypoints import KeypointsTask
from .masks import MasksTask
from .task import Task

if TYPE_CHECKING:
    from ..d2.config import CfgNode
    from ..d2.structures import Instances
    from ..data.training_data import TrainingData

# By name, in the order of their losses.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (ClassificationTask(), EmbeddingTask(), MasksTask(), KeypointsTask())
}


def register_task(task: Task) -> Task:
    """Add a row, before a configuration is made; see docs/extending.md.

    Raises:
        ValueError: when another task has the name.
    """
    known = TASKS.get(task.name)
    # What the same lines define again, as a notebook does, replaces itself.
    if known is not None and type(known).__qualname__ != type(task).__qualname__:
        raise ValueError(f"task {task.name!r} is {type(known).__name__} already")
    TASKS[task.name] = task
    return task


def add_task_config(cfg: CfgNode) -> None:
    """Add MODEL.YOLOR.TASKS with a node for every task."""
    # Here, as the models, which it registers, need this module.
    from ..d2.config import CfgNode

    nodes = cfg.MODEL.YOLOR.TASKS = CfgNode()
    for name, task in TASKS.items():
        nodes[name.upper()] = CfgNode()
        task.add_config(nodes[name.upper()])


def enabled_tasks(cfg: CfgNode) -> Iterator[tuple[Task, CfgNode]]:
    """The tasks that are switched on, and their nodes."""
    for name, task in TASKS.items():
        node = cfg.MODEL.YOLOR.TASKS[name.upper()]
        if node.ENABLED:
            yield task, node


def ground_truth_needed(cfg: CfgNode) -> set[str]:
    """What the tasks that are switched on need of the data, see `Task.ground_truth`."""
    return {kind for task, _ in enabled_tasks(cfg) for kind in task.ground_truth}


def coco_options(cfg: CfgNode) -> dict[str, dict[str, Any]]:
    """The options of `COCOEvaluator`, see `Task.coco_options`."""
    return {task.metrics: task.coco_options(cfg) for task, _ in enabled_tasks(cfg) if task.metrics}


def settle_tasks(cfg: CfgNode, data: TrainingData) -> None:
    """Before a training: set what its data decide, see `Task.settle`."""
    for task, _ in enabled_tasks(cfg):
        task.settle(cfg, data)


def forget_data(cfg: CfgNode) -> None:
    """The training data are others now, see `Task.forget_data`."""
    for name, task in TASKS.items():
        task.forget_data(cfg.MODEL.YOLOR.TASKS[name.upper()])


def check_tasks(cfg: CfgNode) -> None:
    """Check the values of MODEL.YOLOR.TASKS, also of tasks that are off.

    Raises:
        ValueError: naming the key, its value and what is possible.
    """
    for name, task in TASKS.items():
        node = cfg.MODEL.YOLOR.TASKS[name.upper()]
        for key, least in task.least_values.items():
            if not node[key] >= least:
                raise ValueError(
                    f"MODEL.YOLOR.TASKS.{name.upper()}.{key} is {node[key]}, expected at least "
                    f"{least}"
                )


def build_tasks(cfg: CfgNode, inputs: TaskInputs) -> TaskBranches:
    """The branches of the tasks that are switched on.

    Raises:
        ValueError: when a value is out of its range.
    """
    check_tasks(cfg)
    return TaskBranches({task.name: task.build(node, inputs) for task, node in enabled_tasks(cfg)})


def pack_fields(
    branches: TaskBranches,
    instances: Sequence[Instances],
    placements: Sequence[Placement],
    canvas: tuple[int, int],
) -> dict[str, Tensor]:
    """Ground truth that the branches need, see `Task.pack_truth`."""
    fields = {}
    for name, branch in branches.items():
        fields |= TASKS[name].pack_truth(branch, instances, placements, canvas)
    return fields


__all__ = [
    "TASKS",
    "Task",
    "add_task_config",
    "build_tasks",
    "check_tasks",
    "coco_options",
    "enabled_tasks",
    "forget_data",
    "ground_truth_needed",
    "pack_fields",
    "register_task",
    "settle_tasks",
]
