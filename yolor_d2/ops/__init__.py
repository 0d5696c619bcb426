"""Pure functions on tensors: boxes, decoding, assignment, losses, NMS."""

from .assign import Assignment, LevelTargets, assign, assign_targets
from .boxes import cxcywh_to_xyxy, paired_iou, xyxy_to_cxcywh
from .decode import decode, decode_level, decode_passing
from .distillation import DistillationGains, distillation_losses
from .losses import DetectionLosses, LossGains, detection_losses
from .nms import Detections, detect, suppress
from .ota import assign_ota

__all__ = [
    "Assignment",
    "DetectionLosses",
    "Detections",
    "DistillationGains",
    "LevelTargets",
    "LossGains",
    "assign",
    "assign_ota",
    "assign_targets",
    "cxcywh_to_xyxy",
    "decode",
    "decode_level",
    "decode_passing",
    "detect",
    "detection_losses",
    "distillation_losses",
    "paired_iou",
    "suppress",
    "xyxy_to_cxcywh",
]
