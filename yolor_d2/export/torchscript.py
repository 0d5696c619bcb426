"""TorchScript files, by tracing. PyTorch calls the format deprecated; LibTorch still reads it."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import torch

from ..modeling import YOLOR
from .graph import ExportedDetector, FileOptions, LoadedFile, example_input, on_arrays, survivors

SUFFIX = ".torchscript"
# Least side of an image in cells of the greatest stride.
LEAST_CELLS = 1
METADATA_FILE = "yolor_d2.json"


def serialise(model: YOLOR, *, options: FileOptions, metadata: dict) -> dict[str, bytes]:
    """The file's content by its suffix; arguments as in `export_model`."""
    import torchvision  # noqa: F401  calls operators, which must not become part of the file

    detector = ExportedDetector(
        model, nms=survivors if options.suppress else None, half=options.half
    ).eval()
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # Of deprecation, which the documentation mentions, and of constants that
        # the check at other sizes would find.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(detector, example_input(model, options.canvas), check_trace=False)
        torch.jit.save(traced, buffer, _extra_files={METADATA_FILE: json.dumps(metadata)})
    return {SUFFIX: buffer.getvalue()}


def load(path: str | Path) -> LoadedFile:
    """Read a file."""
    import torchvision  # noqa: F401  registers the operator of NMS

    extra = {METADATA_FILE: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
    return LoadedFile(on_arrays(module), json.loads(extra[METADATA_FILE]))


def versions() -> dict[str, str]:
    """Of packages that take part beside torch: none."""
    return {}
