"""Checkpoints."""

from detectron2.checkpoint import DetectionCheckpointer

__all__ = ["DetectionCheckpointer"]
