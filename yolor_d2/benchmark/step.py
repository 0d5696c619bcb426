"""Time and memory of training steps on random images."""

from __future__ import annotations

import argparse
import resource
import statistics
from collections.abc import Callable

import torch

from ..config import load_config
from ..d2.config import CfgNode
from ..d2.structures import Boxes, Instances
from ..d2.utils import EventStorage
from ..engine import Trainer
from ..engine.ema import EMAHook
from ..engine.gpu import suit_gpu
from ..engine.step import StepTrainer, precision_from_config
from ..environment import describe_machine
from .report import Report
from .timing import Clock

MIB = 1024**2


def random_batch(args: argparse.Namespace, size: int, num_classes: int) -> list[dict]:
    """Images of noise with boxes anywhere."""
    batch = []
    for index in range(args.batch):
        corners = torch.rand(args.boxes, 2, 2).sort(dim=1).values * size  # (M, 2, xy)
        truth = Instances((size, size))
        truth.gt_boxes = Boxes(corners.flatten(1) + torch.tensor([0.0, 0.0, 1.0, 1.0]))
        truth.gt_classes = torch.randint(num_classes, (args.boxes,))
        pixels = torch.randint(256, (3, size, size), dtype=torch.uint8)
        batch.append({"image": pixels, "instances": truth, "file_name": f"random {index}"})
    return batch


def build_step(cfg: CfgNode, batch: list[dict], count: int) -> StepTrainer:
    """A step as in training, with the moving average after it."""
    cfg = suit_gpu(cfg)
    model = Trainer.build_model(cfg)
    step = StepTrainer(
        model,
        [batch] * count,
        Trainer.build_optimizer(cfg, model),
        precision=precision_from_config(cfg),
        clip_norm=cfg.SOLVER.CLIP_NORM,
    )
    if cfg.SOLVER.EMA.ENABLED:
        average = EMAHook(
            model, decay=cfg.SOLVER.EMA.DECAY, ramp=cfg.SOLVER.EMA.RAMP, fused=cfg.SOLVER.FUSED
        )
        step.register_hooks([average])
        average.before_train()
    return step


def run(args: argparse.Namespace) -> Report:
    """Measure training steps.

    Raises:
        ValueError: when a number is out of range.
    """
    if min(args.batch, args.steps, args.threads) < 1 or args.boxes < 0:
        raise ValueError("expected --batch, --steps and --threads of at least 1, --boxes of 0")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    cfg = load_config(args.config_file, args.opts)
    size = args.size or cfg.INPUT.MAX_SIZE_TRAIN
    batch = random_batch(args, size, cfg.MODEL.YOLOR.NUM_CLASSES)
    step = build_step(cfg, batch, args.steps + 1)
    clock = Clock(step.device)
    loss_seconds: list[float] = []
    step.model.forward_training = timed(step.model.forward_training, clock, loss_seconds)

    def one_step() -> None:
        step.run_step()
        for hook in step._hooks:
            hook.after_step()

    before, times = peak_bytes(), []
    with EventStorage():
        for step.iter in range(args.steps + 1):  # the first one warms up
            times.append(clock(one_step)[1:])
    wall, cpu = (statistics.median(column) for column in zip(*times[1:]))
    row = {
        "s / step": wall,
        "CPU s / step": cpu,
        "loss forward, % of it": 100 * statistics.median(loss_seconds[1:]) / wall,
        "peak MiB": peak_bytes() / MIB,
        "of it before, MiB": before / MIB,
    }
    if step.device.type == "cuda":
        row["peak GPU MiB"] = torch.cuda.max_memory_allocated() / MIB
    settings = {
        "variant": cfg.MODEL.YOLOR.VARIANT,
        "size": size,
        "batch": args.batch,
        "boxes": args.boxes,
        "steps": args.steps,
        "precision": step.precision or "float32",
    }
    return Report("Training step", settings, [row], describe_machine())


def timed(function: Callable, clock: Clock, seconds: list[float]) -> Callable:
    """The function, noting the seconds of each call."""

    def call(*args: object) -> object:
        result, wall, _ = clock(function, *args)
        seconds.append(wall)
        return result

    return call


def peak_bytes() -> float:
    """Largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
