"""Registries and the contracts of models."""

from fvcore.common.registry import Registry

from . import RUNTIME

if RUNTIME == "detectron2":
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import (
        BACKBONE_REGISTRY,
        META_ARCH_REGISTRY,
        Backbone,
        build_backbone,
        build_model,
        detector_postprocess,
    )
else:
    from .._builtin.modeling import (
        BACKBONE_REGISTRY,
        META_ARCH_REGISTRY,
        Backbone,
        ShapeSpec,
        build_backbone,
        build_model,
        detector_postprocess,
    )

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
