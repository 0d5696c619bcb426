"""Checkpoints."""

from . import RUNTIME

if RUNTIME == "detectron2":
    from detectron2.checkpoint import DetectionCheckpointer
else:
    from .._builtin.checkpoint import DetectionCheckpointer

__all__ = ["DetectionCheckpointer"]
