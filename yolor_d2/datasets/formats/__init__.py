"""Other formats of annotations, read as COCO's."""

from .convert import convert_to_coco
from .labels import LabelFault, LabelledSet
from .read import has_split, read_labelled
from .voc import read_voc
from .yolo import read_yolo

__all__ = [
    "LabelFault",
    "LabelledSet",
    "convert_to_coco",
    "has_split",
    "read_labelled",
    "read_voc",
    "read_yolo",
]
