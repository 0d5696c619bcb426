"""Which runtime is used, and what the built-in one refuses."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2._builtin import (
    checkpoint,
    comm,
    config,
    data,
    engine,
    modeling,
    structures,
)
from yolor_d2.d2 import INSTALL_COMMAND, choose_runtime, is_installed

REPOSITORY = Path(__file__).parents[1]
HIDE = "import sys; sys.modules['detectron2'] = None\n"


def run(code: str, runtime: str | None = None, *folders: Path) -> subprocess.CompletedProcess:
    """Run code in a process of its own, with folders before the installed packages."""
    environment = {"PYTHONPATH": ":".join(map(str, (*folders, REPOSITORY)))}
    if runtime is not None:
        environment["YOLOR_D2_RUNTIME"] = runtime
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )


# ---- The choice


@pytest.mark.parametrize(
    ("wanted", "installed", "expected"),
    [
        ("auto", True, "detectron2"),
        ("auto", False, "builtin"),
        ("detectron2", True, "detectron2"),
        ("builtin", True, "builtin"),
        ("builtin", False, "builtin"),
    ],
)
def test_choice(wanted, installed, expected):
    assert choose_runtime(wanted, installed) == expected


def test_an_unknown_choice_is_shown_with_the_known_ones():
    with pytest.raises(ValueError, match=r"YOLOR_D2_RUNTIME is 'd2'.*auto.*detectron2.*builtin"):
        choose_runtime("d2", True)


def test_detectron2_that_is_wanted_and_missing_names_the_command():
    with pytest.raises(ModuleNotFoundError) as caught:
        choose_runtime("detectron2", False)
    assert INSTALL_COMMAND in str(caught.value)


@pytest.mark.heavy
def test_without_detectron2_one_line_says_so():
    done = run(f"{HIDE}import yolor_d2.d2; print(yolor_d2.d2.RUNTIME)")
    assert done.stdout == "builtin\n"
    (line,) = done.stderr.splitlines()
    assert "Detectron2 is not installed" in line and "built-in runtime" in line


@pytest.mark.heavy
def test_who_asks_for_the_built_in_runtime_is_not_warned():
    done = run("import yolor_d2.d2; print(yolor_d2.d2.RUNTIME)", "builtin")
    assert (done.stdout, done.stderr) == ("builtin\n", "")


@pytest.mark.heavy
@pytest.mark.parametrize("runtime", ["auto", "detectron2"])
def test_a_broken_detectron2_is_not_replaced(tmp_path, runtime):
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").write_text("raise ImportError('no _C in here')")
    done = run("import yolor_d2.config", runtime, tmp_path)
    assert done.returncode != 0 and "no _C in here" in done.stderr


def test_a_folder_called_detectron2_is_no_installation(monkeypatch):
    # A checkout in the working directory is found as a name without a file.
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: ModuleSpec(name, None))
    assert not is_installed()


@pytest.mark.heavy
def test_the_built_in_runtime_imports_nothing_before_it_is_needed():
    code = f"""{HIDE}
import yolor_d2, yolor_d2.engine, yolor_d2.d2.engine, yolor_d2.d2.evaluation
early = {{"matplotlib", "tensorboard", "torchvision"}} & sys.modules.keys()
assert not early, early
"""
    done = run(code, "builtin")
    assert done.returncode == 0, done.stderr


# ---- What the built-in runtime leaves out


def test_several_processes_name_the_command():
    for gpus, machines in ((2, 1), (1, 2)):
        with pytest.raises(RuntimeError, match="one process, not 2") as caught:
            engine.launch(print, gpus, num_machines=machines)
        assert INSTALL_COMMAND in str(caught.value)
    with pytest.raises(RuntimeError, match="one process, not 2"):
        engine.DefaultTrainer.auto_scale_workers(config.get_cfg(), 2)
    comm.require_one_process(1)


def test_another_version_of_configuration_files(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text("VERSION: 1\n")
    with pytest.raises(ValueError, match=r"old\.yaml: VERSION is 1.*Detectron2"):
        config.get_cfg().merge_from_file(str(path))


def test_weights_as_pickle(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(b"")
    with pytest.raises(NotImplementedError, match=r"model\.pkl.*\.pth"):
        checkpoint.DetectionCheckpointer(torch.nn.Linear(1, 1)).load(str(path))


def test_grouping_by_aspect_ratio():
    with pytest.raises(NotImplementedError, match="ASPECT_RATIO_GROUPING"):
        data.build_detection_train_loader([1], mapper=None, sampler=[0], total_batch_size=1)


def test_images_other_than_bytes():
    resize = data.ResizeShortestEdge([8, 8], 8)
    for image in (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 12), np.uint8)):
        with pytest.raises(NotImplementedError, match="uint8"):
            resize.get_transform(image).apply_image(image)


def test_masks():
    found = structures.Instances((8, 8), pred_boxes=structures.Boxes([[0, 0, 1, 1]]))
    found.pred_masks = torch.zeros(1, 8, 8)
    with pytest.raises(NotImplementedError, match="pred_masks"):
        modeling.detector_postprocess(found, 4, 4)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("TEST.PRECISE_BN.ENABLED", True),
        ("MODEL.MASK_ON", True),
        ("MODEL.KEYPOINT_ON", True),
        ("SOLVER.REFERENCE_WORLD_SIZE", 8),
    ],
)
def test_keys_without_effect_here_are_refused(key, value):
    cfg = config.get_cfg()
    cfg.merge_from_list([key, value])
    with pytest.raises(NotImplementedError, match=key):
        engine.DefaultTrainer.auto_scale_workers(cfg, 1)
