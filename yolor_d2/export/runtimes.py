"""Programs of others that read ONNX files: which of them take a file, and compute the same.

What a file's own runtime says decides whether it is kept, see `export_model`. The others are asked
where they are installed, and what they answer is told.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from .graph import INPUT, Run

# Results of a runtime; see `RuntimeResult.result`.
EQUAL, DIFFERS, REFUSED, PARSED, MISSING = "equal", "differs", "refused", "parsed", "not installed"


@dataclass(frozen=True)
class RuntimeResult:
    """What a runtime makes of a file.

    Attributes:
        name: of the runtime.
        version: of its package; None where it is not installed.
        result: "equal", "differs" from the model by more than rounding, "refused", "parsed" where
            it can be looked at but not run, or "not installed".
        reason: what it refuses or where it differs, in one line; "" otherwise.
        largest_box_difference: in pixels; None where nothing was compared.
        largest_score_difference: None where nothing was compared.
    """

    name: str
    version: str | None
    result: str
    reason: str = ""
    largest_box_difference: float | None = None
    largest_score_difference: float | None = None

    @property
    def accepts(self) -> bool:
        return self.result in (EQUAL, PARSED)


@dataclass(frozen=True)
class Runtime:
    """A program that reads ONNX files.

    Attributes:
        package: what Python imports.
        install: what pip installs.
        load: the content of a file to what it computes; None of a runtime that only looks at the
            file. Raises whatever the runtime raises when it refuses.
    """

    package: str
    install: str
    load: Callable[[bytes], Run | None]

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None

    @property
    def version(self) -> str:
        # OpenVINO's goes on with where it was built.
        return str(importlib.import_module(self.package).__version__).partition("-")[0]


def compile_openvino(core: Any, model: Any) -> Run:
    """A model that OpenVINO has read as a function, on the CPU.

    In float32, since OpenVINO computes in less where a processor is faster at that.
    """
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(images: np.ndarray) -> tuple[np.ndarray, ...]:
        found = compiled({INPUT: images})
        return tuple(found[output] for output in compiled.outputs)

    return run


def load_openvino(content: bytes) -> Run:
    import openvino  # type: ignore[import-not-found]

    core = openvino.Core()
    return compile_openvino(core, core.read_model(content))


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Without what OpenCV prints beside raising it."""
    from cv2.utils import logging  # type: ignore[import-not-found]

    level = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)


def load_opencv(content: bytes) -> Run:
    import cv2

    with quiet_opencv():
        net = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
    names = net.getUnconnectedOutLayersNames()

    def run(images: np.ndarray) -> tuple[np.ndarray, ...]:
        with quiet_opencv():
            net.setInput(images, INPUT)
            return tuple(np.array(x) for x in net.forward(names))

    return run


def load_tensorrt(content: bytes) -> None:
    """Let TensorRT's parser look at a file. Building an engine takes minutes and a GPU."""
    import tensorrt  # type: ignore[import-not-found]

    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    network = tensorrt.Builder(logger).create_network(0)
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(content):
        errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        raise ValueError("; ".join(errors))


# By the names of --require; beside onnxruntime, by which ONNX files are proved.
RUNTIMES = {
    "openvino": Runtime("openvino", "openvino", load_openvino),
    "opencv": Runtime("cv2", "opencv-python-headless", load_opencv),
    "tensorrt": Runtime("tensorrt", "tensorrt", load_tensorrt),
}


def require_installed(names: Sequence[str]) -> None:
    """Raise a ValueError for the first of several runtimes that is not there."""
    for name in names:
        if not RUNTIMES[name].installed:
            raise ValueError(
                f"--require {name}: it is not installed: pip install {RUNTIMES[name].install}"
            )


def in_one_line(error: Exception) -> str:
    """The message of a runtime, whose lines are often those of its own source."""
    return " ".join(str(error).split()) or type(error).__name__


def ask(name: str, content: bytes, compare: Callable[[Run], tuple[float, float]]) -> RuntimeResult:
    """Give a file to a runtime.

    Args:
        name: key of `RUNTIMES`.
        content: of the file.
        compare: takes what the file computes; returns the largest differences of boxes and scores,
            or raises `verify.ExportMismatch`.
    """
    # Here, as it imports what is not needed to list the runtimes.
    from .verify import ExportMismatch

    runtime = RUNTIMES[name]
    if not runtime.installed:
        return RuntimeResult(name, None, MISSING)
    version = runtime.version
    try:
        run = runtime.load(content)
        if run is None:
            return RuntimeResult(name, version, PARSED)
        return RuntimeResult(name, version, EQUAL, "", *compare(run))
    except ExportMismatch as error:
        return RuntimeResult(name, version, DIFFERS, in_one_line(error))
    except Exception as error:  # each has classes of its own
        return RuntimeResult(name, version, REFUSED, in_one_line(error))
