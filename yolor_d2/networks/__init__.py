"""YOLOR networks on plain tensors: torch only."""

from .backbone import YOLORBackbone
from .head import AnchorHead
from .neck import PANNeck
from .network import YOLORNetwork, build_network
from .tasks import ClassificationBranch, EmbeddingBranch, TaskBranches
from .variants import VARIANTS, Variant, get_variant

__all__ = [
    "VARIANTS",
    "AnchorHead",
    "ClassificationBranch",
    "EmbeddingBranch",
    "PANNeck",
    "TaskBranches",
    "Variant",
    "YOLORBackbone",
    "YOLORNetwork",
    "build_network",
    "get_variant",
]
