"""Images per second of an evaluation in COCO's metrics, and where its time goes."""

from __future__ import annotations

import argparse
import logging
import tempfile

import torch

from ..config import load_config
from ..data.loader import build_test_loader
from ..data.options import use_data
from ..datasets.catalog import register_datasets
from ..engine import Trainer
from ..environment import describe_machine
from ..modeling import YOLOR
from ..modeling.inference import prepare_for_inference
from . import generated_evaluation, timing
from .model import build
from .report import Report
from .timing import Clock, Stages

# Methods of the model, and the stage that each is.
MODEL_STAGES = {
    "stage": "network",
    "preprocess": "network",
    "run": "network",
    "run_network": "network",
    "passing_rows": "post-processing",
    "detect": "post-processing",
    "forward_inference": "post-processing",
}
STAGES = ["read and resize", "network", "post-processing", "collect detections", "COCO's metrics"]


def run(args: argparse.Namespace) -> Report:
    """Measure evaluations of the first data set of DATASETS.TEST.

    Raises:
        ValueError: when an argument is out of range, or there is no data set.
    """
    timing.prepare(args, "generated", "detections")
    for runtime in ("detectron2", "yolor_d2"):
        logging.getLogger(runtime).setLevel(logging.WARNING)
    if args.generated is not None:
        return generated_evaluation.run(args)
    cfg = load_config(args.config_file, [*args.opts, "DATALOADER.NUM_WORKERS", "0"])
    use_data(cfg, None, args.val)
    register_datasets(cfg)
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty: name COCO files with --val JSON FOLDER")
    name = cfg.DATASETS.TEST[0]
    model = prepare_for_inference(build(cfg), cfg)
    if not isinstance(model, YOLOR):
        raise ValueError("TEST.AUG.ENABLED is True, expected False: stages are those of one view")
    with tempfile.TemporaryDirectory() as folder:
        cfg.OUTPUT_DIR = folder
        loader = build_test_loader(cfg, name)
        evaluator = Trainer.build_evaluator(cfg, name)
        stages = Stages(Clock(model.device), STAGES)
        for method, stage in MODEL_STAGES.items():
            stages.wrap(model, method, stage)
        stages.wrap(evaluator, "process", STAGES[3])
        stages.wrap(evaluator, "evaluate", STAGES[4])
        read = stages.timed(next, STAGES[0])
        images, metrics = 0, {}
        for _ in range(args.rounds):
            evaluator.reset()
            batches, images = iter(loader), 0
            while (inputs := read(batches, None)) is not None:
                with torch.no_grad():
                    evaluator.process(inputs, model(inputs))
                images += len(inputs)
            metrics = evaluator.evaluate()
            stages.end_round()
    rows = stages.rows(images, "image")
    settings = {
        "model": cfg.MODEL.YOLOR.VARIANT,
        "data": name,
        "images": images,
        "size": cfg.INPUT.MAX_SIZE_TEST,
        "fused": cfg.MODEL.INFERENCE.FUSE,
        "channels last": cfg.MODEL.INFERENCE.CHANNELS_LAST,
        "rounds": args.rounds,
        "images / s": round(1000 / sum(row["ms / image"] for row in rows), 2),
        "AP": round(metrics["bbox"]["AP"], 3),
    }
    return Report("Evaluation", settings, rows, describe_machine())
