"""Time from image files to boxes, by stage, and files per second beside `DefaultPredictor`."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch

from ..config import load_config
from ..d2.config import CfgNode
from ..d2.engine import DefaultPredictor
from ..environment import describe_machine
from ..files.images import read_image
from ..modeling import YOLOR
from ..predictor import BatchPredictor
from ..toy import write_toy_dataset
from . import timing
from .model import build
from .report import Report
from .timing import Clock, Stages

# Methods of the predictor and of its model, and the stage that each is.
PREDICTOR_STAGES = {"read": "read and decode file", "to_input": "resize"}
MODEL_STAGES = {
    "stage": "preprocess",
    "preprocess": "preprocess",
    "run": "network",
    "run_network": "network",
    "passing_rows": "decode boxes",
    "detect": "nms",
    "forward_inference": "rescale",
}
NETWORK = MODEL_STAGES["run_network"]


def find_images(args: argparse.Namespace, scratch: Path) -> list[Path]:
    """The files to use.

    Raises:
        ValueError: when the folder holds none.
    """
    if args.images is not None:
        folder = args.images
    else:
        # About the size of COCO's.
        toy = write_toy_dataset(scratch, num_train=1, num_val=args.count, image_size=(480, 640))
        folder = toy.val_images
    suffixes = {".jpg", ".jpeg", ".png"}
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    if not paths:
        raise ValueError(f"--input {str(folder)!r} has no files ending in {sorted(suffixes)}")
    return paths[: args.count]


def use_random_weights(cfg: CfgNode, scratch: Path) -> None:
    """Name a file of random weights where the configuration names none."""
    if not cfg.MODEL.WEIGHTS:
        state = build(cfg).state_dict()
        cfg.MODEL.WEIGHTS = str(scratch / "random.pth")
        torch.save({"model": state}, cfg.MODEL.WEIGHTS)


def measure_stages(predictor: BatchPredictor, files: list[Path], rounds: int) -> Stages:
    """Time of each stage over all files, in each round."""
    model = predictor.model
    if not isinstance(model, YOLOR):
        raise ValueError("TEST.AUG.ENABLED is True, expected False: stages are those of one view")
    names = [*PREDICTOR_STAGES.values(), *MODEL_STAGES.values()]
    stages = Stages(Clock(model.device), names)
    for method, stage in PREDICTOR_STAGES.items():
        stages.wrap(predictor, method, stage)
    for method, stage in MODEL_STAGES.items():
        stages.wrap(model, method, stage)
    for index in range(rounds + 1):
        for file in files:
            inputs = predictor.prepare(file)
            with torch.no_grad():
                model([inputs])
        stages.end_round(counted=index > 0)
    return stages


def run(args: argparse.Namespace) -> Report:
    """Measure stages and files per second.

    Raises:
        ValueError: when an argument is out of range.
    """
    timing.prepare(args, "count", "batch", "workers")
    cfg = load_config(args.config_file, args.opts)
    with tempfile.TemporaryDirectory() as folder:
        files = find_images(args, Path(folder))
        use_random_weights(cfg, Path(folder))
        predictor = BatchPredictor(cfg, batch_size=args.batch, workers=args.workers)
        detections = sum(len(instances) for instances in predictor.stream(files[:8]))
        rows, against = [], {}
        if not args.stages_only:
            default = DefaultPredictor(cfg)
            calls = {
                "loop over DefaultPredictor": lambda: [
                    default(read_image(file, "BGR")) for file in files
                ],
                "BatchPredictor": lambda: predictor(files),
            }
            clock = Clock(torch.device(cfg.MODEL.DEVICE))
            samples = timing.alternate(calls, rounds=args.rounds, clock=clock)
            one_by_one, batched = samples.values()
            wall = statistics.median(a / b for a, b in zip(one_by_one.wall, batched.wall))
            cpu = statistics.median(a / b for a, b in zip(one_by_one.cpu, batched.cpu))
            against = {
                "times the files / s of DefaultPredictor": round(wall, 3),
                "times the files / CPU s of DefaultPredictor": round(cpu, 3),
            }
            rows = [
                {"stage": name, **x.columns(len(files), "image"), "% of all": None}
                for name, x in samples.items()
            ]
        stages = measure_stages(predictor, files, args.rounds).rows(len(files), "image")
    outside = sum(row["% of all"] for row in stages if row["stage"] != NETWORK)
    settings = {
        "model": cfg.MODEL.YOLOR.VARIANT,
        "size": cfg.INPUT.MAX_SIZE_TEST,
        "fused": cfg.MODEL.INFERENCE.FUSE,
        "channels last": cfg.MODEL.INFERENCE.CHANNELS_LAST,
        "files": len(files),
        "batch": args.batch,
        "reading threads": args.workers,
        "rounds": args.rounds,
        "detections in the first 8 files": detections,
        "% outside the network": round(outside, 2),
        **against,
    }
    rows = [
        {**row, "images / s": 1000 / row["ms / image"] if row["ms / image"] else None}
        for row in [*stages, *rows]
    ]
    return Report("From files to boxes", settings, rows, describe_machine())
