"""OpenVINO's own files, an .xml for the graph and a .bin for the weights, by way of ONNX."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..modeling import YOLOR
from . import onnx
from .foreign import compile_openvino
from .graph import FileOptions, LoadedFile
from .runtimes import RUNTIMES

SUFFIX = ".xml"
WEIGHTS_SUFFIX = ".bin"
# Least side of an image in cells of the greatest stride.
LEAST_CELLS = onnx.LEAST_CELLS
# Where the description lies in the model's "rt_info".
METADATA_KEY = "yolor_d2"


def require_openvino() -> Any:
    """Import OpenVINO.

    Raises:
        ImportError: when it is missing, with how to install it.
    """
    try:
        import openvino  # type: ignore[import-not-found]
    except ImportError as error:
        raise ImportError(
            "openvino is needed for its files: pip install 'yolor_d2[export,openvino]'"
        ) from error
    return openvino


def serialise(model: YOLOR, *, options: FileOptions, metadata: dict) -> dict[str, bytes]:
    """The files' contents by their suffixes; arguments as in `export_model`.

    Of `options.half` only the weights know: in what precision is computed OpenVINO decides by the
    device.

    Raises:
        ImportError: when a package is missing.
    """
    openvino = require_openvino()
    as_onnx = onnx.serialise(model, options=replace(options, half=False), metadata=metadata)
    read = openvino.Core().read_model(as_onnx[onnx.SUFFIX])
    read.set_rt_info(json.dumps(metadata, ensure_ascii=False), METADATA_KEY)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"model{SUFFIX}")
        openvino.save_model(read, str(path), compress_to_fp16=options.half)
        return {x: path.with_suffix(x).read_bytes() for x in (SUFFIX, WEIGHTS_SUFFIX)}


def weights_beside(path: Path) -> Path:
    """The .bin of an .xml; also where both are still being written, with an ending behind that."""
    name, suffix, rest = path.name.rpartition(SUFFIX)
    return path.with_name(f"{name}{WEIGHTS_SUFFIX}{rest}" if suffix else path.name + WEIGHTS_SUFFIX)


def load(path: str | Path) -> LoadedFile:
    """Read a file and the one beside it.

    Raises:
        ImportError: when OpenVINO is missing.
    """
    path = Path(path)
    core = require_openvino().Core()
    model = core.read_model(path.read_bytes(), weights_beside(path).read_bytes())
    metadata = json.loads(model.get_rt_info(METADATA_KEY).astype(str))
    return LoadedFile(compile_openvino(core, model), metadata)


def versions() -> dict[str, str]:
    """Versions of the packages that wrote and read the file."""
    return {**onnx.versions(), "openvino": RUNTIMES["openvino"].version}
