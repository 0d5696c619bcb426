"""What this installation consists of, to be pasted into a report of a problem."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path

import torch
from tabulate import tabulate

import yolor_d2
from yolor_d2 import config_paths
from yolor_d2.benchmark import describe_machine
from yolor_d2.runtime import ENVIRONMENT_VARIABLE

# Whose versions matter: what the package stands on, and what only some commands need.
PACKAGES = (
    *("torch", "torchvision", "detectron2", "fvcore", "iopath", "yacs", "numpy", "Pillow"),
    *("opencv-python-headless", "opencv-python", "pycocotools", "safetensors", "matplotlib"),
    *("tensorboard", "pytorch_wavelets", "onnx", "onnxscript", "onnxruntime"),
)


def version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "-"


def collect() -> dict[str, str]:
    """Name and value, as text."""
    machine = {key: str(value) for key, value in describe_machine().items()}
    return {
        "yolor_d2": f"{yolor_d2.__version__} in {Path(yolor_d2.__file__).parent}",
        "configs": str(config_paths.config_root()),
        "system": platform.platform(),
        "python": f"{platform.python_version()} at {sys.executable}",
        **{key: value for key, value in machine.items() if key not in ("python", "torch")},
        "cuda": str(torch.version.cuda),
        "gpus": str(torch.cuda.device_count()),
        ENVIRONMENT_VARIABLE: os.environ.get(ENVIRONMENT_VARIABLE, "-"),
        **{package: version_of(package) for package in PACKAGES},
    }


def main(args: argparse.Namespace) -> None:
    facts = collect()
    print(tabulate(list(facts.items()), tablefmt="plain"))
    if args.json is not None:
        args.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
