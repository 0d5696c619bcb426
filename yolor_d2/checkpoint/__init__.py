"""Checkpoints, and weights of other programs."""

from .checkpointer import BEST_NAME, FINAL_NAME, YOLORCheckpointer
from .conversion.convert import convert_checkpoint
from .conversion.report import ConversionReport
from .formats.load import ForeignWeights, WeightsFileError, read_weights

__all__ = [
    "BEST_NAME",
    "FINAL_NAME",
    "ConversionReport",
    "ForeignWeights",
    "WeightsFileError",
    "YOLORCheckpointer",
    "convert_checkpoint",
    "read_weights",
]
