"""Pure functions on tensors: boxes, decoding, assignment, losses, suppression."""

from .assign import LevelTargets, assign_targets
from .boxes import cxcywh_to_xyxy, paired_iou, xyxy_to_cxcywh
from .decode import decode, decode_level
from .losses import DetectionLosses, LossGains, detection_losses
from .nms import Detections, detect
from .task_losses import (
    classification_loss,
    embedding_loss,
    gather_embeddings,
    present_classes,
)

__all__ = [
    "DetectionLosses",
    "Detections",
    "LevelTargets",
    "LossGains",
    "assign_targets",
    "classification_loss",
    "cxcywh_to_xyxy",
    "decode",
    "decode_level",
    "detect",
    "detection_losses",
    "embedding_loss",
    "gather_embeddings",
    "paired_iou",
    "present_classes",
    "xyxy_to_cxcywh",
]
