"""Boxes, masks, keypoints and instances."""

from . import RUNTIME

if RUNTIME == "detectron2":
    from detectron2.structures import (
        BitMasks,
        Boxes,
        BoxMode,
        Instances,
        Keypoints,
        PolygonMasks,
    )
else:
    from .._builtin.structures import (
        BitMasks,
        Boxes,
        BoxMode,
        Instances,
        Keypoints,
        PolygonMasks,
    )

__all__ = ["BitMasks", "BoxMode", "Boxes", "Instances", "Keypoints", "PolygonMasks"]
