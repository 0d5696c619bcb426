"""Task branches from a configuration."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..d2.config import CfgNode
from ..d2.modeling import ShapeSpec
from ..networks.tasks import ClassificationBranch, EmbeddingBranch
from .backbone import variant_from_config


def build_tasks(cfg: CfgNode, input_shapes: Sequence[ShapeSpec]) -> nn.ModuleDict:
    """The branches that MODEL.YOLOR.TASKS turns on, by name; empty in a plain detector.

    Args:
        cfg: the configuration.
        input_shapes: outputs of the neck, fine to coarse.
    """
    node, row = cfg.MODEL.YOLOR.TASKS, variant_from_config(cfg)
    shared = {"channels": node.CHANNELS, "form": row.form, "options": row.implicit_options}
    branches = nn.ModuleDict()
    if node.CLASSIFICATION.ENABLED:
        branches["classification"] = ClassificationBranch(
            input_shapes[-1].channels,
            num_classes=cfg.MODEL.YOLOR.NUM_CLASSES,
            implicit=node.CLASSIFICATION.IMPLICIT,
            **shared,
        )
    if node.EMBEDDING.ENABLED:
        branches["embedding"] = EmbeddingBranch(
            [shape.channels for shape in input_shapes],
            dim=node.EMBEDDING.DIM,
            num_identities=node.EMBEDDING.NUM_IDENTITIES,
            implicit=node.EMBEDDING.IMPLICIT,
            **shared,
        )
    return branches
