"""Boxes, instances and image batches."""

from . import RUNTIME

if RUNTIME == "detectron2":
    from detectron2.structures import Boxes, BoxMode, Instances
else:
    from .._builtin.structures import Boxes, BoxMode, Instances

__all__ = ["BoxMode", "Boxes", "Instances"]
