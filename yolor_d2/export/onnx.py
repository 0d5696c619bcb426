"""ONNX files, by the exporter that goes through torch.export; read by onnxruntime."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..modeling import YOLOR
from .graph import (
    INPUT,
    ExportedDetector,
    FileOptions,
    LoadedFile,
    dynamic_shapes,
    example_input,
    survivors,
)

SUFFIX = ".onnx"
# Least side of an image in cells of the greatest stride.
LEAST_CELLS = 1
# Where the description lies in the file's metadata.
METADATA_KEY = "yolor_d2"


def require(module: str) -> Any:
    """Import a package of the extra "export".

    Raises:
        ImportError: when it is missing, with how to install it.
    """
    try:
        return __import__(module)
    except ImportError as error:
        raise ImportError(
            f"{module} is needed for ONNX files: pip install 'yolor_d2[export]'"
        ) from error


@functools.cache
def opaque_nms() -> Callable:
    """`survivors` as one operator, which the exporter need not look into."""
    operator = torch.library.custom_op(
        "yolor_d2::survivors",
        survivors,
        mutates_args=(),
        schema="(Tensor boxes, Tensor scores, float iou_threshold, int most) -> Tensor",
    )
    operator.register_fake(lambda boxes, scores, iou_threshold, most: torch.empty_like(scores))
    return operator


def nms_in_onnx(boxes: Any, scores: Any, iou_threshold: float, most: int) -> Any:
    """`survivors` in ONNX's own operators.

    One row more, without area and with next to no score, always survives and is cut off again:
    where nothing survives, OpenCV 5.0 divides by zero and ends the process.
    """
    from onnxscript import opset18 as op

    by_class = op.Transpose(scores, perm=[0, 2, 1])  # (N, K, R)
    boxes = op.Pad(boxes, op.Constant(value_ints=[0, 0, 0, 0, 1, 0]))
    least_score = op.Constant(value_float=1e-30)
    by_class = op.Pad(by_class, op.Constant(value_ints=[0, 0, 0, 0, 0, 1]), least_score)
    chosen = op.NonMaxSuppression(  # (S, 3) image, class, row
        boxes,
        by_class,
        op.Constant(value_ints=[most]),
        op.Constant(value_floats=[iou_threshold]),
        op.Constant(value_floats=[0.0]),
    )
    nothing = op.Mul(by_class, op.Constant(value_float=0.0))
    kept = op.ScatterND(nothing, chosen, op.GatherND(by_class, chosen))
    start, end, axis = (op.Constant(value_ints=[x]) for x in (0, -1, 2))
    return op.Transpose(op.Slice(kept, start, end, axis), perm=[0, 2, 1])


def serialise(model: YOLOR, *, options: FileOptions, metadata: dict) -> dict[str, bytes]:
    """The file's content by its suffix; arguments as in `export_model`.

    Raises:
        ImportError: when the exporter's packages are missing.
    """
    require("onnx")
    require("onnxscript")
    detector = ExportedDetector(
        model,
        nms=opaque_nms() if options.suppress else None,
        half=options.half,
    )
    with warnings.catch_warnings():
        # Parts of torch and of the exporter tell each other what is deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        program = torch.onnx.export(
            detector.eval(),
            (example_input(model, options.canvas),),
            dynamo=True,
            dynamic_shapes=dynamic_shapes(model, LEAST_CELLS, options.canvas),
            input_names=[INPUT],
            output_names=detector.outputs,
            opset_version=options.opset,
            custom_translation_table={
                torch.ops.yolor_d2.survivors.default: nms_in_onnx  # type: ignore[attr-defined]
            }
            if options.suppress
            else None,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props[METADATA_KEY] = json.dumps(metadata, ensure_ascii=False)
    return {SUFFIX: program.model_proto.SerializeToString()}


def load(path: str | Path) -> LoadedFile:
    """Read a file.

    Raises:
        ImportError: when onnxruntime is missing.
    """
    onnxruntime = require("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return LoadedFile(
        lambda images: tuple(session.run(None, {INPUT: images})),
        json.loads(session.get_modelmeta().custom_metadata_map[METADATA_KEY]),
    )


def versions() -> dict[str, str]:
    """Versions of the packages that wrote and read the file."""
    names = ("onnx", "onnxscript", "onnxruntime")
    return {name: require(name).__version__ for name in names}
