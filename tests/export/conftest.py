"""One small model, and each of its files written once."""

import functools
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


def write_once(model, photos, tmp_path_factory):
    """Path of a file in a format, written once."""

    @functools.cache
    def write(name: str, *options: str) -> Path:
        # The packages of the extras "export" and "openvino".
        needed = {"onnx": ["onnx", "onnxscript", "onnxruntime"]}
        needed["openvino"] = [*needed["onnx"], "openvino"]
        for package in needed.get(name, []):
            pytest.importorskip(package)
        output = tmp_path_factory.mktemp("exported") / f"model{FORMATS[name].SUFFIX}"
        # The model is not trained, so that its scores are low.
        argv = [*model, "--output", str(output), "--images", str(photos), *options]
        assert not partial(execute, "export_model")([*argv, "--score-threshold", "0.001"])
        return output

    return write


@pytest.fixture(scope="session")
def export(small, photos, tmp_path_factory):
    return write_once(small, photos, tmp_path_factory)


@pytest.fixture(scope="session")
def export_joint(joint, photos, tmp_path_factory):
    return write_once(joint, photos, tmp_path_factory)
