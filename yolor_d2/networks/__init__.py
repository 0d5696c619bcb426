"""YOLOR networks on plain tensors: torch only."""

from .backbone import YOLORBackbone
from .head import AnchorHead
from .neck import PANNeck
from .network import YOLORNetwork, build_network
from .variants import VARIANTS, Variant, get_variant

__all__ = [
    "VARIANTS",
    "AnchorHead",
    "PANNeck",
    "Variant",
    "YOLORBackbone",
    "YOLORNetwork",
    "build_network",
    "get_variant",
]
