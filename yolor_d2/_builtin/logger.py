"""The log of a run, and what there is to know about the machine."""

from __future__ import annotations

import logging
import os
import platform
import sys
from importlib import metadata

import torch
from tabulate import tabulate

from ..runtime import describe_runtime

PACKAGES = ("torch", "torchvision", "numpy", "Pillow", "fvcore", "iopath", "pycocotools", "yacs")
# Records below this logger are those of the runtime.
ROOT = __package__


# Where each logger writes.
_outputs: dict[str, str | None] = {}


class StandardOutput(logging.StreamHandler):
    """Writes to what is sys.stdout at that time."""

    def __init__(self):
        super().__init__(sys.stdout)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout
        super().emit(record)


def setup_logger(
    output: str | None = None, distributed_rank: int = 0, *, name: str = ROOT
) -> logging.Logger:
    """Let a logger and those below it write to the standard output, and to a file.

    Args:
        output: a file that ends with .txt or .log, or the folder of a log.txt; None writes none.
        distributed_rank: there is only process 0.
        name: the logger. A second call for it replaces the first, unless it is the same.
    """
    logger = logging.getLogger(name)
    if logger.handlers and _outputs.get(name, "") == output:
        return logger
    _outputs[name] = output
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    for handler in [*logger.handlers]:
        logger.removeHandler(handler)
        handler.close()
    form = logging.Formatter("[%(asctime)s %(name)s] %(levelname)s: %(message)s", "%m/%d %H:%M:%S")
    handlers: list[logging.Handler] = [StandardOutput()]
    if output is not None:
        path = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        handlers.append(logging.FileHandler(path, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(form)
        logger.addHandler(handler)
    return logger


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # such as a build that was not installed
        return "unknown"


def collect_env() -> str:
    """A table of the runtime, versions and devices."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows = [
        ("runtime", describe_runtime()),
        ("platform", platform.platform()),
        ("Python", platform.python_version()),
        *((package, version(package)) for package in PACKAGES),
        ("GPU", ", ".join(gpus) or "none"),
    ]
    return tabulate(rows)
