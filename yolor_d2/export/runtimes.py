"""Programs of others that read ONNX files: which of them take a file, and compute the same.

A file is kept if its own runtime agrees with the model, see `export_model`. The others are tried
where they are installed, and their results are reported.
"""

from __future__ import annotations

import importlib
import importlib.util
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import foreign

# Results of a runtime; see `RuntimeResult.result`.
EQUAL, DIFFERS, REFUSED, CRASHED = "equal", "differs", "refused", "crashed"
PARSED, MISSING = "parsed", "not installed"

# Arrays that a file gives for each input.
Outputs = list[tuple[np.ndarray, ...]]


class Differences(NamedTuple):
    """Largest differences of a file from the model.

    Attributes:
        box: in pixels.
        score: of boxes.
        further: of outputs of further tasks and of what is drawn of them, by name.
    """

    box: float
    score: float
    further: Mapping[str, float] = {}


@dataclass(frozen=True)
class RuntimeResult:
    """What a runtime makes of a file.

    Attributes:
        name: of the runtime.
        version: of its package; None where it is not installed.
        result: "equal", "differs" from the model by more than rounding, "refused", "crashed",
            "parsed" where it can be looked at but not run, or "not installed".
        reason: what it refuses or where it differs, in one line; "" otherwise.
        differences: None where nothing was compared.
    """

    name: str
    version: str | None
    result: str
    reason: str = ""
    differences: Differences | None = None

    def as_data(self) -> dict:
        """For the report."""
        box, score, further = self.differences or (None, None, {})
        return {
            "name": self.name,
            "version": self.version,
            "result": self.result,
            "reason": self.reason,
            "largest_box_difference": box,
            "largest_score_difference": score,
            **({"further_differences": dict(further)} if further else {}),
        }

    @property
    def accepts(self) -> bool:
        return self.result in (EQUAL, PARSED)


@dataclass(frozen=True)
class Runtime:
    """A program that reads ONNX files.

    Attributes:
        package: what Python imports.
        install: what pip installs.
        script: runs files, see `foreign`.
    """

    package: str
    install: str
    script: Path = Path(foreign.__file__)

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None

    @property
    def version(self) -> str:
        # OpenVINO's is followed by the place where it was built.
        return str(importlib.import_module(self.package).__version__).partition("-")[0]


# By the names of --require; beside onnxruntime, by which ONNX files are proved.
RUNTIMES = {
    "openvino": Runtime("openvino", "openvino"),
    "opencv": Runtime("cv2", "opencv-python-headless"),
    "tensorrt": Runtime("tensorrt", "tensorrt"),
}


def require_installed(names: Sequence[str]) -> None:
    """Raise a ValueError for the first of several runtimes that is not there."""
    for name in names:
        if not RUNTIMES[name].installed:
            raise ValueError(
                f"--require {name}: it is not installed: pip install {RUNTIMES[name].install}"
            )


def name_of_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def ask(
    name: str,
    content: bytes,
    inputs: Sequence[np.ndarray],
    compare: Callable[[Outputs], Differences],
) -> RuntimeResult:
    """Give a file to a runtime, in a process of its own.

    Args:
        name: key of `RUNTIMES`.
        content: of the file.
        inputs: images as the file takes them.
        compare: takes what the file computes of each input; returns the largest differences of
            boxes and scores, or raises `verify.ExportMismatch`.
    """
    runtime = RUNTIMES[name]
    if not runtime.installed:
        return RuntimeResult(name, None, MISSING)
    version = runtime.version
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / foreign.MODEL_FILE).write_bytes(content)
        np.savez(folder / foreign.INPUTS_FILE, **{str(i): x for i, x in enumerate(inputs)})
        done = subprocess.run(
            [sys.executable, str(runtime.script), name, temporary], capture_output=True, text=True
        )
        error = folder / foreign.ERROR_FILE
        if error.is_file():
            return RuntimeResult(name, version, REFUSED, error.read_text(encoding="utf-8"))
        if done.returncode:
            last = " ".join(done.stderr.split())[-200:]
            how = f"exit status {done.returncode}"
            if done.returncode < 0:
                how = name_of_signal(-done.returncode)
            return RuntimeResult(name, version, CRASHED, f"{how}; {last}".rstrip("; "))
        if not (folder / foreign.OUTPUTS_FILE).is_file():
            return RuntimeResult(name, version, PARSED)
        outputs = read_outputs(folder / foreign.OUTPUTS_FILE, len(inputs))
    try:
        return RuntimeResult(name, version, EQUAL, "", compare(outputs))
    except ValueError as error:  # `verify.ExportMismatch`, or shapes that nothing can be made of
        return RuntimeResult(name, version, DIFFERS, " ".join(str(error).split()))


def read_outputs(path: Path, count: int) -> Outputs:
    """What `foreign` has written for so many inputs."""
    with np.load(path) as arrays:
        each = len(arrays.files) // count
        return [tuple(arrays[f"{i}_{j}"] for j in range(each)) for i in range(count)]
