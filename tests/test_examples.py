"""The notebook runs from its first cell to its last; the container builds where docker runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import processes
import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

REPOSITORY = Path(__file__).parents[1]
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("ITERATIONS", "10")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # another test has the other core
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    beside = Path(sys.executable).parent  # where its `python` is
    folders = [str(processes.write_program(tmp_path).parent), str(beside), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(folders))
    notebook = nbformat.read(REPOSITORY / "examples" / "train.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # none is committed
    for cell in notebook.cells:
        small = "--size 64 --batch 4 OUTPUT_DIR output/run MODEL.YOLOR.WIDTH_FACTOR 0.25"
        cell.source = cell.source.replace("OUTPUT_DIR output/run", small)
        # A model that has not learned scores low.
        low = "--output output/model.onnx --score-threshold 0.001"
        cell.source = cell.source.replace("--output output/model.onnx", low)
        cell.source = cell.source.replace("--train 160 --val 40", "--train 16 --val 4")
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert "error:" not in printed and "Traceback" not in printed
    run = tmp_path / "output" / "run"
    assert (run / "report.html").is_file() and (tmp_path / "output" / "model.onnx").is_file()


def test_the_container_installs_what_there_is():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    (commit,) = re.findall(r"^D2_COMMIT := (\w+)", makefile, re.M)
    assert f"detectron2@{commit}'" in DOCKERFILE
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", DOCKERFILE)
    for extra in extras.split(","):  # tomllib is not in Python 3.10
        assert re.search(rf"^{extra} = \[", project, re.M), extra


def has_docker() -> bool:
    program = shutil.which("docker")
    if program is None:
        return False
    return subprocess.run([program, "info"], capture_output=True, timeout=60).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not has_docker(), reason="no docker that runs here")
def test_the_container_builds_and_answers():
    name = "yolor_d2:test"
    # Detectron2 compiles for minutes, and is installed as `make venv` does it.
    build = ["docker", "build", "-t", name, "--build-arg", "DETECTRON2=0", REPOSITORY]
    subprocess.run(build, check=True, timeout=1200)
    done = subprocess.run(
        ["docker", "run", "--rm", name, "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("yolor-d2 ")
