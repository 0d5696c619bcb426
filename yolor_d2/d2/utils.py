"""Processes, training figures and logging."""

from . import RUNTIME

if RUNTIME == "detectron2":
    from detectron2.utils import comm
    from detectron2.utils.events import EventStorage, get_event_storage, has_event_storage
    from detectron2.utils.logger import setup_logger
else:
    from .._builtin import comm
    from .._builtin.events import EventStorage, get_event_storage, has_event_storage
    from .._builtin.logger import setup_logger

__all__ = ["EventStorage", "comm", "get_event_storage", "has_event_storage", "setup_logger"]
