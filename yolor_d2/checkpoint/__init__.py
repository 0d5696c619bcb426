"""Checkpoints."""

from .checkpointer import BEST_NAME, YOLORCheckpointer

__all__ = ["BEST_NAME", "YOLORCheckpointer"]
