"""The whole chain learns: data, network, loss, optimiser, average, evaluation."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

import torch

from yolor_d2.config import load_config
from yolor_d2.d2.config import CfgNode
from yolor_d2.data.options import use_data
from yolor_d2.datasets.catalog import register_datasets
from yolor_d2.engine import Trainer

# Images whose objects all have a matching anchor at 320 px: others cannot be overfitted.
TWO_IMAGES = {78499, 107438}


def write_subset(source: Path, target: Path, image_ids: set[int]) -> None:
    """A COCO file with some of the images of another."""
    data = json.loads(source.read_text())
    data["images"] = [x for x in data["images"] if x["id"] in image_ids]
    data["annotations"] = [x for x in data["annotations"] if x["image_id"] in image_ids]
    target.write_text(json.dumps(data))


def overfit_config(folder: Path, annotations: Path, images: Path) -> CfgNode:
    cfg = load_config("quick/overfit_cpu.yaml")
    use_data(cfg, *2 * [(str(annotations), str(images))])
    register_datasets(cfg)
    cfg.OUTPUT_DIR = str(folder / "run")
    os.makedirs(cfg.OUTPUT_DIR)
    return cfg


@pytest.fixture(autouse=True)
def one_thread():
    """Tests run side by side, and threads that wait for each other take the time of both."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


def train(cfg: CfgNode) -> Trainer:
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return trainer


@pytest.mark.slow
@pytest.mark.real_data
def test_two_images_are_overfitted(real_data, tmp_path):
    source = real_data / "coco_mini"
    write_subset(source / "instances_train.json", tmp_path / "two.json", TWO_IMAGES)
    cfg = overfit_config(tmp_path, tmp_path / "two.json", source / "train")
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SOLVER.BASE_LR *= 2  # gradients grow with the batch
    cfg.MODEL.YOLOR.WIDTH_FACTOR = 0.5
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD = 200, 200
    trainer = train(cfg)

    assert trainer._last_eval_results["bbox"]["AP50"] > 90


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["yolor_ssss_s2d", "yolov7_tiny"])
def test_loss_falls_on_four_generated_images(toy, tmp_path, variant):
    """YOLOv7's with its assignment, which follows what is predicted."""
    write_subset(toy.train_json, tmp_path / "four.json", {1, 2, 3, 4})
    cfg = overfit_config(tmp_path, tmp_path / "four.json", toy.train_images)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (128,), 128
    cfg.DATASETS.TEST = ()
    if not variant.startswith("yolor"):
        cfg.MODEL.YOLOR.VARIANT, cfg.MODEL.YOLOR.ASSIGN.KIND = variant, "ota"
        cfg.MODEL.YOLOR.WIDTH_FACTOR = 0.5
    cfg.SOLVER.MAX_ITER = 40
    cfg.SOLVER.WARMUP_ITERS = 10
    train(cfg)

    rows = [json.loads(x) for x in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    losses = [row["total_loss"] for row in rows]
    assert len(losses) == 2  # means over iterations 0-19 and 20-39
    assert losses[1] < 0.6 * losses[0]
