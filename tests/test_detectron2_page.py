"""The blocks of docs/detectron2.md run one after the other, and do what the page describes."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

from yolor_d2.d2 import RUNTIME

if RUNTIME != "detectron2":
    pytest.skip("runs on Detectron2 itself", allow_module_level=True)

from detectron2.data import DatasetCatalog, MetadataCatalog

from yolor_d2.engine import Trainer
from yolor_d2.files.images import read_image

PAGE = (Path(__file__).parents[1] / "docs" / "detectron2.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
def test_the_page(cfg, toy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(toy.train_json, "train.json")
    shutil.copy(toy.val_json, "val.json")
    Path("images").mkdir()
    Path("images/train").symlink_to(toy.train_images)
    Path("images/val").symlink_to(toy.val_images)
    photo = sorted(toy.val_images.iterdir())[0]
    Path("photo.jpg").symlink_to(photo)
    # A run of the tools, with names of classes in its configuration.
    cfg.OUTPUT_DIR = "output/run"
    cfg.SOLVER.MAX_ITER = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    test_sets, cfg.DATASETS.TEST = cfg.DATASETS.TEST, ()
    Trainer(cfg).train()
    cfg.DATASETS.TEST = ("renamed/val",)
    Path("output/run/config.yaml").write_text(cfg.dump(), encoding="utf-8")
    cfg.MODEL.YOLOR.CLASS_NAMES = []
    cfg.DATASETS.TEST = test_sets
    cfg.MODEL.YOLOR.SCORE_THRESHOLD = 1e-6
    Path("mine.yaml").write_text(cfg.dump(), encoding="utf-8")

    told: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())
    logger = logging.getLogger("detectron2")
    logger.addHandler(handler)
    names: dict = {}
    try:
        for block in BLOCKS:
            told.clear()
            exec(block, names)
            outside = [text for text in told if "not trained by yolor_d2.engine" in text]
            assert len(outside) == ("PlainTrainer(plain)" in block), block
    finally:
        logger.removeHandler(handler)
        for name in ("cells_train", "cells_val"):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)

    for folder in ("cells", "plain", "hooked", "mapped"):
        assert Path("output", folder, "model_final.pth").is_file()
    written = Path("output/hooked/metrics.json").read_text()
    # Both ways of adding the hook; the last iteration is there.
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line["iteration"] for line in lines if "weight_norm" in line] == [1]
    assert MetadataCatalog.get("renamed/val").thing_classes == list(toy.classes)
    assert read_image("found.png").shape == read_image(photo).shape
    assert "NetworkImplicit" in capsys.readouterr().out
