"""The machine and the software that a number depends on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import cv2
import torch

from .d2 import describe_runtime


def describe_machine() -> dict:
    """Processor, software and threads: what a number depends on."""
    processor = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.split(":", 1)[1].strip()
                break
    except OSError:  # not Linux
        pass
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "opencv": cv2.__version__,
        "runtime": describe_runtime(),
    }
