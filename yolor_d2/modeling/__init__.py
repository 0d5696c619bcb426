"""YOLOR as Detectron2 models: importing this registers them."""

from ..own_modules import import_announced
from .assigner import Assigner
from .backbone import YOLORPAN, YOLORBottomUp, build_yolor_backbone, build_yolor_pan_backbone
from .head import YOLOR_HEAD_REGISTRY, ImplicitAnchorHead, build_head
from .meta_arch import YOLOR

__all__ = [
    "YOLOR",
    "YOLORPAN",
    "YOLOR_HEAD_REGISTRY",
    "Assigner",
    "ImplicitAnchorHead",
    "YOLORBottomUp",
    "build_head",
    "build_yolor_backbone",
    "build_yolor_pan_backbone",
]

# They add to the registries of these modules, and of the core.
import_announced()
