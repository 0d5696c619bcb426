"""Other formats of annotations, read as COCO's."""

from .labels import LabelFault, LabelledSet, read_labelled
from .voc import read_voc
from .yolo import read_yolo

__all__ = ["LabelFault", "LabelledSet", "read_labelled", "read_voc", "read_yolo"]
