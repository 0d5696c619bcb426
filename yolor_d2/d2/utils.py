"""Processes, training figures and logging."""

from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from detectron2.utils.logger import setup_logger

__all__ = ["comm", "get_event_storage", "has_event_storage", "setup_logger"]
