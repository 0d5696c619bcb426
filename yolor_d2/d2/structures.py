"""Boxes, instances and image batches."""

from detectron2.structures import Boxes, BoxMode, ImageList, Instances

__all__ = ["BoxMode", "Boxes", "ImageList", "Instances"]
