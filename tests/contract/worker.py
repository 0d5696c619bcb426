"""What `test_runtimes.py` runs in processes of their own, since the runtime is chosen at import.

python worker.py train CONFIG          trains or resumes what is in OUTPUT_DIR
python worker.py predict CONFIG        evaluates MODEL.WEIGHTS, writes found.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from yolor_d2.config import load_config
from yolor_d2.d2.config import CfgNode
from yolor_d2.d2.data import DatasetCatalog
from yolor_d2.d2.engine import DefaultPredictor, default_setup
from yolor_d2.datasets.catalog import register_datasets
from yolor_d2.engine import Trainer
from yolor_d2.files.images import read_image


def train(cfg: CfgNode) -> None:
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()


def predict(cfg: CfgNode) -> None:
    predictor = DefaultPredictor(cfg)
    found = {}
    for item in DatasetCatalog.get(cfg.DATASETS.TEST[0]):
        instances = predictor(read_image(item["file_name"], "BGR"))["instances"]
        found[item["image_id"]] = [
            instances.pred_boxes.tensor.tolist(),
            instances.scores.tolist(),
            instances.pred_classes.tolist(),
        ]
    figures = Trainer.test(cfg, predictor.model)["bbox"]
    text = json.dumps({"figures": figures, "found": found})
    Path(cfg.OUTPUT_DIR, "found.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    command, config_file = sys.argv[1:]
    config = load_config(config_file)
    register_datasets(config)
    default_setup(config, argparse.Namespace(config_file="", eval_only=False))
    {"train": train, "predict": predict}[command](config)
