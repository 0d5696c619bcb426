"""Processes, training metrics and logging."""

from . import RUNTIME

if RUNTIME == "detectron2":
    from detectron2.utils import comm
    from detectron2.utils.events import (
        CommonMetricPrinter,
        EventStorage,
        EventWriter,
        get_event_storage,
        has_event_storage,
    )
    from detectron2.utils.logger import setup_logger
else:
    from .._builtin import comm
    from .._builtin.events import (
        CommonMetricPrinter,
        EventStorage,
        EventWriter,
        get_event_storage,
        has_event_storage,
    )
    from .._builtin.logger import setup_logger

__all__ = [
    "CommonMetricPrinter",
    "EventStorage",
    "EventWriter",
    "comm",
    "get_event_storage",
    "has_event_storage",
    "setup_logger",
]
