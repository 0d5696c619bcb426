"""What a benchmark found, as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import torch
from tabulate import tabulate

from ..d2 import describe_runtime


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


@dataclass(frozen=True)
class Report:
    """Result of a benchmark.

    Attributes:
        title: what was measured.
        settings: what the numbers depend on, by name.
        rows: one dict of numbers for each measurement; all have the same keys, with units.
        machine: see `describe_machine`.
        failed: what of it could not be measured.
    """

    title: str
    settings: dict
    rows: list[dict]
    machine: dict
    failed: list[str] = field(default_factory=list)

    def table(self) -> str:
        """For people."""
        machine = ", ".join(f"{key} {value}" for key, value in self.machine.items() if value)
        settings = ", ".join(f"{key} {value}" for key, value in self.settings.items())
        table = tabulate(self.rows, headers="keys", floatfmt=".2f", missingval="-")
        return f"{self.title}\n{settings}\n{machine}\n\n{table}"

    def write_json(self, path: Path) -> None:
        """For programs."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
