"""One small model, and each of its files written once, whichever process of the tests needs it
first."""

import fcntl
import functools
import os
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from export_cases import JOINT, save_model, write_small

from yolor_d2.commands import execute
from yolor_d2.config import load_config
from yolor_d2.export import FORMATS


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> list[str]:
    """With the same weights in all processes of the tests."""
    folder = tmp_path_factory.mktemp("small")
    return save_model(write_small(folder), folder)


@pytest.fixture(scope="session")
def joint(tmp_path_factory) -> list[str]:
    """As `small`, with all further tasks."""
    folder = tmp_path_factory.mktemp("joint")
    return save_model(write_small(folder), folder, JOINT)


@pytest.fixture(scope="session")
def cfg(small):
    return load_config(small[1], small[2:])


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(2):  # noise, as flat areas would give equal scores
        image = np.random.default_rng(i).integers(0, 256, (150, 200, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), image)
    return folder


def write_once(model, photos, folder):
    """Path of a file in a format, written once in this folder."""

    @functools.cache
    def write(name: str, *options: str) -> Path:
        # The packages of the extras "export" and "openvino".
        needed = {"onnx": ["onnx", "onnxscript", "onnxruntime"]}
        needed["openvino"] = [*needed["onnx"], "openvino"]
        for package in needed.get(name, []):
            pytest.importorskip(package)
        output = folder / "_".join([name, *options]) / f"model{FORMATS[name].SUFFIX}"
        # While one process writes it, the others wait.
        with open(f"{output.parent}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # The report is written last.
            if not Path(f"{output}.json").exists():
                output.parent.mkdir(exist_ok=True)
                # The model is not trained, so that its scores are low.
                argv = [*model, "--output", str(output), "--images", str(photos), *options]
                assert not partial(execute, "export_model")([*argv, "--score-threshold", "0.001"])
        return output

    return write


@pytest.fixture(scope="session")
def export(small, photos, tmp_path_factory):
    """In a folder that all processes of the tests have in common."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exported"
    folder.mkdir(exist_ok=True)
    return write_once(small, photos, folder)


@pytest.fixture(scope="session")
def export_joint(joint, photos, tmp_path_factory):
    """Not in common, as a test reads what is logged meanwhile."""
    return write_once(joint, photos, tmp_path_factory.mktemp("joint"))
