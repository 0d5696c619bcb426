"""Registries and the contracts of models."""

from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    Backbone,
    build_backbone,
    build_model,
    detector_postprocess,
)
from detectron2.utils.registry import Registry

__all__ = [
    "BACKBONE_REGISTRY",
    "META_ARCH_REGISTRY",
    "Backbone",
    "Registry",
    "ShapeSpec",
    "build_backbone",
    "build_model",
    "detector_postprocess",
]
