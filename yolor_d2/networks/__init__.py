"""YOLOR networks on plain tensors: torch only."""

from .backbone import STAGES, STEM_LAYERS, YOLORBackbone, register_stem_layer
from .branches import (
    ClassificationBranch,
    EmbeddingBranch,
    KeypointBranch,
    MaskBranch,
    TaskBranches,
)
from .head import AnchorHead
from .neck import OUTPUTS, PANNeck
from .network import YOLORNetwork, build_network
from .variant import Variant
from .variants import VARIANTS, get_variant

__all__ = [
    "OUTPUTS",
    "STAGES",
    "STEM_LAYERS",
    "VARIANTS",
    "AnchorHead",
    "ClassificationBranch",
    "EmbeddingBranch",
    "KeypointBranch",
    "MaskBranch",
    "PANNeck",
    "TaskBranches",
    "Variant",
    "YOLORBackbone",
    "YOLORNetwork",
    "build_network",
    "get_variant",
    "register_stem_layer",
]
