"""The C++ example gives what the Python example and `predict` give; docs/export.md is followed to
the letter.

It needs a compiler and onnxruntime's headers: in a usual place, or in the folder include/ of
what YOLOR_D2_ONNXRUNTIME names, such as an unpacked release. The library is that of lib/ there, or
that of the Python package.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import processes
import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime
pytest.importorskip("onnxruntime")

import onnxruntime
from export_cases import save_model, write_small

ROOT = Path(__file__).parents[2]
HEADER = "onnxruntime_cxx_api.h"
PLACES = ("", "onnxruntime", "onnxruntime/core/session")


def find_headers() -> Path | None:
    own = os.environ.get("YOLOR_D2_ONNXRUNTIME")
    folders = [Path(own, "include")] if own else [Path("/usr/include"), Path("/usr/local/include")]
    found = (folder / place for folder in folders for place in PLACES)
    return next((x for x in found if (x / HEADER).is_file()), None)


def find_library() -> Path | None:
    own = os.environ.get("YOLOR_D2_ONNXRUNTIME")
    folders = [Path(own, "lib")] if own else []
    folders.append(Path(onnxruntime.__file__).parent / "capi")
    found = (x for folder in folders for x in sorted(folder.glob("libonnxruntime.so*")))
    return next(found, None)


HEADERS, LIBRARY = find_headers(), find_library()
pytestmark = pytest.mark.skipif(
    not (shutil.which("g++") and HEADERS and LIBRARY),
    reason="needs g++, and onnxruntime's headers: YOLOR_D2_ONNXRUNTIME names a release's folder",
)


def lay_out_release(folder: Path) -> Path:
    """Headers and library as a release of onnxruntime has them."""
    assert HEADERS is not None and LIBRARY is not None
    folder.mkdir(parents=True)
    (folder / "include").symlink_to(HEADERS)
    (folder / "lib").mkdir()
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / "lib" / name).symlink_to(LIBRARY)
    return folder


def blocks_of(heading: str) -> list[str]:
    """The commands of a section of docs/export.md."""
    text = (ROOT / "docs/export.md").read_text()
    section = re.split(r"^## ", text.partition(f"# {heading}\n")[2], flags=re.MULTILINE)[0]
    blocks = re.findall(r"(?:^    .*\n)+", section, flags=re.MULTILINE)
    return [re.sub("^    ", "", block, flags=re.MULTILINE) for block in blocks]


def write_photo(path: Path) -> None:
    image = np.random.default_rng(7).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    cv2.imwrite(str(path), image)


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """A folder with a run, photos and onnxruntime, and a function that runs a block of the docs."""
    folder = tmp_path_factory.mktemp("walk")
    (folder / "examples").symlink_to(ROOT / "examples")
    environment = {**os.environ, "ORT": str(lay_out_release(folder / "onnxruntime"))}
    (folder / "bin").mkdir()
    program = processes.write_program(folder / "bin")
    environment["PATH"] = f"{program.parent}:{environment['PATH']}"
    environment["PYTHONPATH"] = f"{ROOT}:{environment.get('PYTHONPATH', '')}"

    def run(block: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", block], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
        return done.stdout

    return folder, run


@pytest.fixture(scope="module")
def compiled(walk):
    [compile_block, _] = blocks_of("In C++")
    folder, run = walk
    run(compile_block.replace("g++", "g++ -Wall -Wextra -Werror"))
    return folder / "onnx_predict"


@pytest.mark.heavy
def test_it_says_what_the_python_example_says(export, compiled, tmp_path):
    write_photo(tmp_path / "photo.ppm")
    write_photo(tmp_path / "other.ppm")
    photos = [str(tmp_path / name) for name in ("photo.ppm", "other.ppm")]
    # Any size, and one size of canvas alone.
    for options in ([], ["--size", "96", "128", "--half", "--opset", "20"]):
        model = str(export("onnx", *options))
        command = [str(compiled), model, *photos]
        ours = subprocess.run(command, capture_output=True, text=True, check=True)
        theirs = processes.run([ROOT / "examples/onnx_predict.py", model, *photos])
        lines = ours.stdout.splitlines()
        assert len(lines) > 20 and lines == theirs.stdout.splitlines(), theirs.stderr


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.ppm"], "nowhere.ppm is not an image of a supported format"),
        (["short.ppm"], "short.ppm is truncated"),
        ([], "expected model.onnx image"),
    ],
)
def test_it_says_what_is_wrong(export, compiled, tmp_path, arguments, message):
    (tmp_path / "short.ppm").write_bytes(b"P6\n4 4\n255\nabc")
    done = subprocess.run(
        [str(compiled), str(export("onnx")), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and message in done.stderr


@pytest.mark.slow
def test_from_a_run_to_boxes_in_cpp(walk, compiled):
    """What somebody does who has a run and docs/export.md."""
    folder, run = walk
    mine = folder / "output/mine"
    mine.mkdir(parents=True)
    save_model(write_small(mine), mine, bias=0.0)
    (mine / "small.yaml").rename(mine / "config.yaml")
    (mine / "model.pth").rename(mine / "model_best.pth")
    (folder / "photos").mkdir()
    write_photo(folder / "photos/photo.png")
    write_photo(folder / "photo.ppm")

    [install, export_block] = re.split("(?=yolor-d2)", blocks_of("Exporting")[0])
    assert "pip install" in install
    told = run(export_block)
    assert "onnx, opset 18, float32, scores above 0.25; " in told
    [_, predict_block] = blocks_of("In C++")
    lines = [line.split() for line in run(predict_block).splitlines()]

    run(
        "yolor-d2 predict --config-file output/mine/config.yaml --input photo.ppm "
        "--json found.json MODEL.WEIGHTS output/mine/model_best.pth"
    )
    [record] = json.loads((folder / "found.json").read_text())
    expected = [(x["class"], x["score"], *x["bbox"]) for x in record["detections"]]
    assert len(lines) == len(expected) > 10
    # In any order, as equal scores are; printed to 0.1 pixels and 0.0001.
    same = 0
    for name, score, x, y, width, height in expected:
        theirs = pytest.approx((score, x, y, x + width, y + height), abs=0.06)
        same += any(line[1] == name and tuple(map(float, line[2:])) == theirs for line in lines)
    # The file is folded: of boxes that overlap just about as much as allowed, rounding decides.
    assert same > 0.95 * len(expected), f"{same} of {len(expected)}"
