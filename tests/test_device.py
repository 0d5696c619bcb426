"""The device is found unless it is given, and a run's folder may move to another machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2 import model_zoo
from yolor_d2.config import add_yolor_config, describe_device, load_config, save_config
from yolor_d2.d2.config import get_cfg
from yolor_d2.d2.engine import DefaultPredictor
from yolor_d2.engine import lengths

NAME = "quick/ssss_320_cpu.yaml"


@pytest.fixture
def with_gpu(monkeypatch):
    """Lets torch find a GPU, or none."""

    def pretend(found: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: found)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")

    return pretend


@pytest.mark.parametrize("name", model_zoo.list_configs())
def test_no_configuration_gives_a_device(name):
    content = yaml.safe_load(Path(model_zoo.get_config_file(name)).read_text(encoding="utf-8"))
    assert "DEVICE" not in content.get("MODEL", {})


@pytest.mark.parametrize(("found", "device"), [(True, "cuda"), (False, "cpu")])
def test_the_device_is_found(found, device, with_gpu, tmp_path):
    with_gpu(found)
    assert device == load_config(NAME).MODEL.DEVICE
    assert device == load_config(NAME, ["MODEL.DEVICE", "auto"]).MODEL.DEVICE
    path = tmp_path / "auto.yaml"
    path.write_text("MODEL:\n  DEVICE: auto\n")
    assert device == load_config(path).MODEL.DEVICE
    # As scripts for Detectron2 do it.
    cfg = get_cfg()
    add_yolor_config(cfg)
    cfg.merge_from_file(model_zoo.get_config_file(NAME))
    assert device == cfg.MODEL.DEVICE


def test_a_device_that_is_given_is_not_replaced(with_gpu, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("MODEL:\n  DEVICE: cuda\n")
    with_gpu(True)
    assert load_config(path).MODEL.DEVICE == "cuda"
    assert load_config(NAME, ["MODEL.DEVICE", "cpu"]).MODEL.DEVICE == "cpu"
    with_gpu(False)
    with pytest.raises(ValueError, match=r"'cuda', but torch finds no GPU.*`MODEL\.DEVICE cpu`"):
        load_config(path)


def test_a_plain_predictor_takes_what_is_found():
    cfg = get_cfg()
    add_yolor_config(cfg)
    cfg.merge_from_file(model_zoo.get_config_file(NAME))
    cfg.DATASETS.TEST = ()
    cfg.MODEL.YOLOR.WIDTH_FACTOR = 0.125
    predictor = DefaultPredictor(cfg)
    found = "cuda" if torch.cuda.is_available() else "cpu"
    assert {p.device.type for p in predictor.model.parameters()} == {found}


@pytest.mark.heavy
def test_a_run_on_a_gpu_is_read_where_there_is_none(with_gpu, tmp_path):
    path = tmp_path / "config.yaml"
    with_gpu(True)
    save_config(load_config(NAME, ["SEED", "5"]), path)
    assert load_config(path).MODEL.DEVICE == "cuda"
    with_gpu(False)
    cfg = load_config(path)
    assert (cfg.MODEL.DEVICE, cfg.SEED) == ("cpu", 5)
    with_gpu(True)
    save_config(load_config(NAME, ["MODEL.DEVICE", "cpu"]), path)
    assert load_config(path).MODEL.DEVICE == "cpu"  # asked for where there is a GPU


def test_the_device_is_described(with_gpu):
    with_gpu(True)
    assert describe_device(load_config(NAME)) == "Device: cuda (NVIDIA H200)"
    cfg = load_config(NAME, ["MODEL.DEVICE", "cpu"])
    assert describe_device(cfg) == "Device: cpu (MODEL.DEVICE), although torch finds a GPU"
    with_gpu(False)
    assert describe_device(cfg) == "Device: cpu, as torch finds no GPU of CUDA"


# Detectron2's default_setup does not close the configuration that it copies into the log.
@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_command_says_device_and_what_it_fitted(toy, tmp_path, monkeypatch, capsys):
    """Up to the start of the training, in this process."""
    from yolor_d2.arguments.train_net import parse_args
    from yolor_d2.commands import train_net

    folder = tmp_path / "run"
    monkeypatch.setattr(lengths.TrainingData, "count_images", lambda _: 205)
    monkeypatch.setattr(train_net, "train_or_evaluate", lambda *_: None)
    words = ["--config-file", "quick/fast_start.yaml", "--train", toy.train_json, toy.train_images]
    words += ["SOLVER.IMS_PER_BATCH", 32, "OUTPUT_DIR", folder, "MODEL.DEVICE", "cpu"]
    train_net.work(parse_args([str(x) for x in words]))
    log = capsys.readouterr().out
    for line in (
        "Device: cpu",
        "Rates for 32 images an iteration instead of 4 (SOLVER.REFERENCE_BATCH)",
        "fewer than SOLVER.MIN_ITERS",
        "Moving average shortened",
    ):
        assert line in log
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert ("DEVICE" in saved["MODEL"]) == torch.cuda.is_available()
    assert saved["SOLVER"]["REFERENCE_BATCH"] == 32
