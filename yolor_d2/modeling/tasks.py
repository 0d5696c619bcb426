"""The branches of further tasks that MODEL.YOLOR.TASKS switches on."""

from __future__ import annotations

from ..d2.config import CfgNode
from ..d2.modeling import ShapeSpec
from ..networks import ClassificationBranch, EmbeddingBranch, TaskBranches
from .backbone import variant_from_config

# Below these names stand the switches of the tasks, beside MODEL.YOLOR.TASKS.
TASKS = ("CLASSIFICATION", "EMBEDDING")


def check_tasks(cfg: CfgNode) -> None:
    """Check the values of MODEL.YOLOR.TASKS.

    Raises:
        ValueError: naming the key, its value and what is possible.
    """
    for task in TASKS:
        for key, value in cfg.MODEL.YOLOR.TASKS[task].items():
            least = {"CHANNELS": 1, "DIMENSION": 1, "NUM_IDENTITIES": 0, "GAIN": 0}.get(key)
            if least is not None and not value >= least:
                raise ValueError(
                    f"MODEL.YOLOR.TASKS.{task}.{key} is {value}, expected at least {least}"
                )


def build_tasks(cfg: CfgNode, input_shapes: list[ShapeSpec]) -> TaskBranches | None:
    """Branches on these features, fine to coarse; None when all tasks are switched off.

    Raises:
        ValueError: when a value is out of its range.
    """
    check_tasks(cfg)
    node = cfg.MODEL.YOLOR.TASKS
    channels = [shape.channels for shape in input_shapes]
    row = variant_from_config(cfg)
    shared = {"form": row.form, "options": row.implicit_options}
    classification = embedding = None
    if node.CLASSIFICATION.ENABLED:
        classification = ClassificationBranch(
            channels,
            strides=[shape.stride for shape in input_shapes],
            num_classes=cfg.MODEL.YOLOR.NUM_CLASSES,
            channels=node.CLASSIFICATION.CHANNELS,
            implicit=node.CLASSIFICATION.IMPLICIT,
            **shared,
        )
    if node.EMBEDDING.ENABLED:
        embedding = EmbeddingBranch(
            channels,
            dimension=node.EMBEDDING.DIMENSION,
            num_identities=node.EMBEDDING.NUM_IDENTITIES,
            channels=node.EMBEDDING.CHANNELS,
            implicit=node.EMBEDDING.IMPLICIT,
            **shared,
        )
    if classification is None and embedding is None:
        return None
    return TaskBranches(classification=classification, embedding=embedding)
