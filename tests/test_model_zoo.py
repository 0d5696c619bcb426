"""The packaged configurations and the models that they describe."""

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2 import model_zoo
from yolor_d2.config import load_config
from yolor_d2.modeling import YOLOR
from yolor_d2.networks import VARIANTS

NAME = "yolor_ssss_s2d.yaml"


def test_names_are_paths_below_the_root():
    names = model_zoo.list_configs()
    assert {"Base-YOLOR.yaml", "yolor_p6.yaml", NAME, "quick/ssss_320_cpu.yaml"} <= set(names)
    assert names == sorted(names)
    assert all((model_zoo.config_root() / name).is_file() for name in names)


def test_config_file_is_a_path():
    path = Path(model_zoo.get_config_file(NAME))
    assert path.is_file() and path.name == NAME


def test_config_is_merged_with_its_base_and_the_defaults():
    cfg = model_zoo.get_config(NAME)
    assert cfg.MODEL.YOLOR.VARIANT == "yolor_ssss_s2d"  # own line
    assert cfg.SOLVER.BASE_LR == 0.01  # Base-YOLOR.yaml
    assert cfg.MODEL.YOLOR.NMS_THRESHOLD == 0.65  # add_yolor_config
    cfg.MODEL.DEVICE = "cpu"  # the machine's own until then, see test_device.py
    assert cfg == load_config(NAME, ["MODEL.DEVICE", "cpu"])


def test_model_is_built_on_the_asked_device():
    model = model_zoo.get(NAME, device="cpu")
    assert isinstance(model, YOLOR) and model.training
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    # Counted from the authors' configuration of this network with 80 classes.
    assert sum(parameter.numel() for parameter in model.parameters()) == 9_216_634


# Those below evaluation/ go behind that of a model.
COMPLETE = [name for name in model_zoo.list_configs() if not name.startswith("evaluation/")]


@pytest.mark.heavy
@pytest.mark.parametrize("name", COMPLETE)
def test_every_config_builds(name):
    with torch.device("meta"):  # no memory, no time
        model = model_zoo.get(name, trained=False, device="meta")
    assert isinstance(model, YOLOR) and model.training


def test_the_reference_evaluation_goes_behind_a_model(tmp_path):
    root = model_zoo.config_root()
    path = tmp_path / "mine.yaml"
    bases = [str(root / "quick/fast_start.yaml"), str(root / "evaluation/reference.yaml")]
    path.write_text(f"_BASE_: {bases}\nMODEL:\n  DEVICE: cpu\n")
    cfg = load_config(path)
    assert cfg.MODEL.YOLOR.VARIANT == "yolor_ssss_s2d" and cfg.INPUT.MAX_SIZE_TEST == 320
    assert cfg.MODEL.YOLOR.NMS_THRESHOLD == 0.65  # fast_start's own is 0.5
    assert cfg.MODEL.YOLOR.PADDING.PLACE == cfg.INPUT.RESIZE_TEST == "reference"
    assert (cfg.TEST.IMS_PER_BATCH, cfg.TEST.ASPECT_RATIO_ORDER) == (32, True)


@pytest.mark.heavy
def test_every_network_has_a_config_that_names_it():
    variants = [model_zoo.get_config(f"{name}.yaml").MODEL.YOLOR.VARIANT for name in VARIANTS]
    assert variants == list(VARIANTS)


@pytest.mark.parametrize("ask", [model_zoo.get_config_file, model_zoo.get_config, model_zoo.get])
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("yolor_p7.yaml", "did you mean 'yolor_p6.yaml'"),
        ("quick", "'quick/fast_start.yaml'"),
        ("fast_start.yaml", "did you mean 'quick/fast_start.yaml'?"),
        ("", "such as 'yolor_p6.yaml'"),
    ],
)
def test_an_unknown_name_is_shown_with_the_nearest(ask, name, hint):
    with pytest.raises(FileNotFoundError, match=re.escape(f"no configuration {name!r}")) as caught:
        ask(name)
    assert hint in str(caught.value) and len(str(caught.value)) < 200
