"""The log of a run, and what there is to know about the machine."""

from __future__ import annotations

import logging
import os
import platform
import sys
from importlib import metadata

import torch
from tabulate import tabulate

from ..d2 import describe_runtime

PACKAGES = ("torch", "torchvision", "numpy", "Pillow", "fvcore", "iopath", "pycocotools", "yacs")
# Records below this logger are those of the runtime.
ROOT = __package__


class StandardOutput(logging.StreamHandler):
    """Writes to what is sys.stdout at that time."""

    @property
    def stream(self):
        return sys.stdout

    @stream.setter
    def stream(self, _) -> None:
        """The base class sets one, which is not used."""


class Formatter(logging.Formatter):
    """Marks warnings and errors."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        if record.levelno >= logging.WARNING:
            record.message = f"{record.levelname}: {record.message}"
        return super().formatMessage(record)


def setup_logger(
    output: str | None = None, distributed_rank: int = 0, *, name: str = ROOT
) -> logging.Logger:
    """Let a logger write to the standard output, and to a file.

    Args:
        output: a file that ends with .txt or .log, or the folder of a log.txt; None writes none.
        distributed_rank: only process 0 writes.
        name: the logger; with those below it.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    if distributed_rank > 0:
        return logger
    form = Formatter("[%(asctime)s %(name)s] %(message)s", "%m/%d %H:%M:%S")
    handlers: list[logging.Handler] = []
    if not any(isinstance(handler, StandardOutput) for handler in logger.handlers):
        handlers.append(StandardOutput())
    if output is not None:
        path = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        path = os.path.abspath(path)
        if path not in [getattr(handler, "baseFilename", None) for handler in logger.handlers]:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            handlers.append(logging.FileHandler(path, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(form)
        logger.addHandler(handler)
    return logger


def collect_env() -> str:
    """A table of the runtime, versions and devices."""
    rows = [
        ("runtime", describe_runtime()),
        ("platform", platform.platform()),
        ("Python", sys.version.split()[0]),
    ]
    for package in PACKAGES:
        try:
            rows.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            rows.append((package, "not installed"))
    rows += [
        (f"GPU {i}", torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())
    ] or [("GPU", "none")]
    return tabulate(rows)
