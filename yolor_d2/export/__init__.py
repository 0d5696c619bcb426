"""Exported models: files that other runtimes read, and the proof that they give the same boxes.

`export_model` writes a file, runs it as its users will, and compares it with the model; a file that
differs does not stay.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from ..checkpoint.files import atomic_write
from ..d2.config import CfgNode
from ..modeling import YOLOR
from . import onnx, pt2, torchscript
from .metadata import describe
from .verify import Batch, ExportMismatch, Tolerance, compare

FORMATS = {"onnx": onnx, "torchscript": torchscript, "pt2": pt2}

logger = logging.getLogger(__name__)


def export_model(
    cfg: CfgNode,
    model: YOLOR,
    path: str | Path,
    *,
    file_format: str,
    suppress: bool,
    batches: Sequence[Batch],
    tolerance: Tolerance = Tolerance(),
) -> dict:
    """Write a file and prove that it computes what the model computes.

    The file appears under its name after the proof; what had the name before stays if it fails.

    Args:
        cfg: the configuration of the model.
        model: on the CPU, in evaluation mode, weights loaded; not changed.
        path: the file.
        file_format: key of `FORMATS`.
        suppress: put suppression into the file, so that it gives detections, not rows.
        batches: images to compare on; at least one must have detections if there is suppression,
            as nothing would be compared otherwise.
        tolerance: what rounding may do.

    Returns:
        The report, as plain data.

    Raises:
        ExportMismatch: when the file computes something else, or nothing could be compared.
        ImportError: when a package of the format is missing.
        OSError: when the file cannot be written.
    """
    path, kind = Path(path), FORMATS[file_format]
    if model.tasks is not None:
        logger.warning("The file detects only: branches of further tasks are left out")
    metadata = describe(cfg, model, suppress=suppress, least_cells=kind.LEAST_CELLS)
    logger.info("Tracing the model; this may take a minute")
    content = kind.serialise(model, suppress=suppress, metadata=metadata)
    with atomic_write(path) as file:
        file.write(content)
        file.flush()
        logger.info("Comparing the file with the model on %d batches", len(batches))
        loaded = kind.load(file.name)
        if loaded.metadata != metadata:
            raise ExportMismatch("the description in the file is not what was written")
        pad = metadata["input"]["pad"]
        checks = [
            compare(model, loaded.run, batch, suppress=suppress, pad=pad, tolerance=tolerance)
            for batch in batches
        ]
        if suppress and not any(check["detections"] for check in checks):
            raise ExportMismatch(
                "nothing is detected in any of the images, so nothing could be compared: give "
                "images with objects, or a lower MODEL.YOLOR.SCORE_THRESHOLD"
            )
    return {
        "file": path.name,
        "format": file_format,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "versions": {"torch": torch.__version__, **kind.versions()},
        "description": metadata,
        "tolerance": vars(tolerance),
        "checks": checks,
    }
