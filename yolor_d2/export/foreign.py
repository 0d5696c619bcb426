"""Run a model file in another runtime, as a process of its own: `python foreign.py NAME FOLDER`.

Such a runtime may crash on a file that it does not take (OpenCV 5.0 does), which must not end the
export. It needs numpy and the runtime alone, so that it starts quickly. In the folder are
model.onnx and inputs.npz, arrays by number; outputs.npz is written, arrays by "input_output". What
the runtime raises goes to error.txt, with exit status 1.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# Name of the input; `graph.INPUT`, which cannot be imported without torch.
INPUT = "images"

MODEL_FILE, INPUTS_FILE, OUTPUTS_FILE = "model.onnx", "inputs.npz", "outputs.npz"
ERROR_FILE = "error.txt"

Run = Callable[[np.ndarray], tuple[np.ndarray, ...]]


def compile_openvino(core: Any, model: Any) -> Run:
    """A model that OpenVINO has read as a function, on the CPU.

    In float32, since OpenVINO computes in less where a processor is faster at that.
    """
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(images: np.ndarray) -> tuple[np.ndarray, ...]:
        results = compiled({INPUT: images})
        return tuple(results[output] for output in compiled.outputs)

    return run


def load_openvino(content: bytes) -> Run:
    import openvino  # type: ignore[import-not-found]

    core = openvino.Core()
    return compile_openvino(core, core.read_model(content))


def load_opencv(content: bytes) -> Run:
    import cv2

    # It prints what it raises.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    net = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
    names = net.getUnconnectedOutLayersNames()

    def run(images: np.ndarray) -> tuple[np.ndarray, ...]:
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


# Content of a file to what it computes; None of a runtime that only looks at the file.
LOADERS: dict[str, Callable[[bytes], Run | None]] = {
    "openvino": load_openvino,
    "opencv": load_opencv,
    "tensorrt": load_tensorrt,
}


def main(name: str, folder: Path) -> int:
    """Returns the exit status."""
    try:
        run = LOADERS[name]((folder / MODEL_FILE).read_bytes())
        if run is None:
            return 0
        outputs = {}
        with np.load(folder / INPUTS_FILE) as inputs:
            for i in range(len(inputs)):
                results = run(inputs[str(i)])
                outputs.update({f"{i}_{j}": x for j, x in enumerate(results)})
        np.savez(folder / OUTPUTS_FILE, **outputs)
        return 0
    except Exception as error:  # each runtime has classes of its own
        message = " ".join(str(error).split()) or type(error).__name__
        (folder / ERROR_FILE).write_text(message, encoding="utf-8")
        return 1


if __name__ == "__main__":
    # Python puts the script's folder first, whose modules are called like the runtimes.
    sys.path.pop(0)
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
