"""Exported models: files that other runtimes read, and the proof that they give the same boxes, and
the same of further tasks.

`export_model` writes a file, runs it as its users will, and compares it with the model; a file that
differs does not stay.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from ..d2.config import CfgNode
from ..files.writing import atomic_write
from ..modeling import YOLOR
from . import onnx, openvino, pt2, torchscript
from .graph import FileOptions
from .metadata import describe
from .runtimes import EQUAL, RUNTIMES, Differences, RuntimeResult, ask
from .verify import (
    HALF_TOLERANCE,
    Batch,
    ExportMismatch,
    Tolerance,
    compare,
    merge,
    prepare_case,
)

__all__ = [
    "FORMATS",
    "Batch",
    "ExportMismatch",
    "FileOptions",
    "Tolerance",
    "export_model",
]

FORMATS = {"onnx": onnx, "torchscript": torchscript, "pt2": pt2, "openvino": openvino}
# What runs the file for the proof, as the package is called.
OWN_RUNTIME = {
    "onnx": "onnxruntime",
    "torchscript": "torch",
    "pt2": "torch",
    "openvino": "openvino",
}
DIFFERENCES = ("largest_box_difference", "largest_score_difference")

logger = logging.getLogger(__name__)


def export_model(
    cfg: CfgNode,
    model: YOLOR,
    path: str | Path,
    *,
    file_format: str,
    options: FileOptions = FileOptions(),
    batches: Sequence[Batch],
    tolerance: Tolerance | None = None,
    required: Sequence[str] = (),
) -> dict:
    """Write a file and prove that it computes what the model computes.

    The file appears under its name after the proof; what had the name before stays if it fails.
    OpenVINO's format has a second file, with the weights, beside it.

    Args:
        cfg: the configuration of the model.
        model: on the CPU, in evaluation mode, weights loaded; not changed.
        path: the file.
        file_format: key of `FORMATS`.
        options: what is chosen of the file.
        batches: images to compare on; at least one must have detections if there is NMS,
            as nothing would be compared otherwise.
        tolerance: what rounding may do; by default what `options.half` allows for.
        required: keys of `RUNTIMES` that must take an ONNX file and agree; what the others say
            stands in the report.

    Returns:
        The report, as plain data.

    Raises:
        ExportMismatch: when the file computes something else, or nothing could be compared, or a
            required runtime does not take it.
        ImportError: when a package of the format is missing.
        OSError: when the file cannot be written.
    """
    path, kind = Path(path), FORMATS[file_format]
    if tolerance is None:
        tolerance = HALF_TOLERANCE if options.half else Tolerance()
    for name, branch in model.tasks.items():
        if not branch.file_outputs():
            logger.warning("The file leaves out the task %r, which files cannot hold", name)
    metadata = describe(
        cfg, model, file_format=file_format, options=options, least_cells=kind.LEAST_CELLS
    )
    pad = metadata["input"]["pad"]

    def check(outputs: Iterable[Sequence[np.ndarray]]) -> list[dict]:
        return [
            compare(model, case, output, suppress=options.suppress, tolerance=tolerance)
            for case, output in zip(cases, outputs)
        ]

    logger.info("Tracing the model; this may take a minute")
    contents = kind.serialise(model, options=options, metadata=metadata)
    paths = {suffix: path_of_part(path, kind.SUFFIX, suffix) for suffix in contents}
    with ExitStack() as stack:
        # The file itself is the first to be opened, so that it appears when the others are there.
        files = {suffix: stack.enter_context(atomic_write(paths[suffix])) for suffix in contents}
        for suffix, content in contents.items():
            files[suffix].write(content)
            files[suffix].flush()
        logger.info("Comparing the file with the model on %d batches", len(batches))
        loaded = kind.load(files[kind.SUFFIX].name)
        if loaded.metadata != metadata:
            raise ExportMismatch("the description in the file is not what was written")
        cases = [prepare_case(model, batch, pad) for batch in batches]
        inputs = [case.pixels.numpy() for case in cases]
        checks = check(map(loaded.run, inputs))
        if options.suppress and not any(check["detections"] for check in checks):
            raise ExportMismatch(
                "nothing is detected in any of the images, so nothing could be compared: give "
                "images with objects, or a lower --threshold"
            )
        versions = {"torch": torch.__version__, **kind.versions()}
        own = OWN_RUNTIME[file_format]
        results = [RuntimeResult(own, versions[own], EQUAL, "", largest_differences(checks))]
        if file_format == "onnx":
            for name in RUNTIMES:
                result = ask(
                    name,
                    contents[kind.SUFFIX],
                    inputs,
                    lambda outputs: largest_differences(check(outputs)),
                )
                results.append(result)
                if name in required and not result.accepts:
                    raise ExportMismatch(f"{name} {result.result}: {result.reason}")
    parts = [
        {
            "file": paths[suffix].name,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        for suffix, content in contents.items()
    ]
    return {
        **parts[0],
        "further_files": parts[1:],
        "format": file_format,
        "versions": versions,
        "description": metadata,
        "tolerance": vars(tolerance),
        "checks": checks,
        "runtimes": [x.as_data() for x in results],
    }


def path_of_part(path: Path, main_suffix: str, suffix: str) -> Path:
    """The name of one of a format's files, by that of the first."""
    return path if suffix == main_suffix else path.with_suffix(suffix)


def largest_differences(checks: Sequence[dict]) -> Differences:
    """Over all batches."""
    further: dict[str, float] = {}
    for check in checks:
        merge(further, check.get("further_differences", {}))
    box, score = (max(check[key] for check in checks) for key in DIFFERENCES)
    return Differences(box, score, further)
