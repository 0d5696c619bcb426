"""Time and memory of training steps on random images."""

from __future__ import annotations

import argparse
import resource
import statistics
from collections.abc import Callable, Sequence
from functools import partial

import torch

from ..config import load_config
from ..d2.config import CfgNode
from ..d2.structures import Boxes, Instances, Keypoints, PolygonMasks
from ..d2.utils import EventStorage
from ..engine import Trainer
from ..engine.ema import EMAHook
from ..engine.gpu import suit_gpu
from ..engine.step import StepTrainer, precision_from_config
from ..environment import describe_machine
from .data import with_tasks
from .report import Report
from .timing import Clock, alternate

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


def add_random_tasks(batch: list[dict], num_keypoints: int) -> None:
    """Give the objects of a batch an ellipse of 32 corners as their mask, keypoints anywhere in
    their box, and no identity."""
    angles = torch.arange(32) * (2 * torch.pi / 32)
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    for image in batch:
        truth = image["instances"]
        boxes = truth.gt_boxes.tensor
        sides = boxes[:, 2:] - boxes[:, :2]
        ellipses = boxes[:, None, :2] + (circle + 1) / 2 * sides[:, None]
        truth.gt_masks = PolygonMasks([[x.numpy().ravel()] for x in ellipses])
        points = boxes[:, None, :2] + torch.rand(len(boxes), num_keypoints, 2) * sides[:, None]
        visible = torch.full((len(boxes), num_keypoints, 1), 2.0)
        truth.gt_keypoints = Keypoints(torch.cat([points, visible], dim=2))
        truth.gt_identities = torch.full((len(boxes),), -1)


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


def compare_tasks(cfg: CfgNode, batch: list[dict], groups: Sequence[str], count: int) -> list[dict]:
    """CPU time of steps with tasks and of detection alone, one of each in turn.

    Args:
        cfg: the configuration.
        batch: see `random_batch`.
        groups: names of tasks, joined by "+" where a step has several.
        count: timed steps of each, after one that is not.

    Raises:
        ValueError: when there is no such task.
    """
    cfg = cfg.clone()
    cfg.defrost()
    nodes = cfg.MODEL.YOLOR.TASKS
    # What data decide in a training: as in COCO.
    nodes.KEYPOINTS.NUM_KEYPOINTS = nodes.KEYPOINTS.NUM_KEYPOINTS or 17
    nodes.EMBEDDING.NUM_IDENTITIES = nodes.EMBEDDING.NUM_IDENTITIES or 1
    add_random_tasks(batch, nodes.KEYPOINTS.NUM_KEYPOINTS)
    configs = {"none": with_tasks(cfg, ())}
    configs |= {group: with_tasks(cfg, group.split("+")) for group in groups}
    steps = {name: build_step(x, batch, count + 1) for name, x in configs.items()}
    with EventStorage():
        calls = {name: partial(take_step, step) for name, step in steps.items()}
        samples = alternate(calls, rounds=count, clock=Clock(steps["none"].device))
    return [
        {"tasks": name, **x.columns(), "of none": x.ratio(samples["none"])}
        for name, x in samples.items()
    ]


def take_step(step: StepTrainer) -> None:
    """One iteration with the moving average."""
    step.run_step()
    for hook in step._hooks:
        hook.after_step()


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
    settings = {
        "variant": cfg.MODEL.YOLOR.VARIANT,
        "size": size,
        "batch": args.batch,
        "boxes": args.boxes,
        "steps": args.steps,
    }
    if args.tasks:
        rows = compare_tasks(cfg, batch, args.tasks, args.steps)
        return Report("Training step by tasks", settings, rows, describe_machine())
    step = build_step(cfg, batch, args.steps + 1)
    clock = Clock(step.device)
    loss_seconds: list[float] = []
    step.model.forward_training = timed(step.model.forward_training, clock, loss_seconds)

    before, times = peak_bytes(), []
    with EventStorage():
        for step.iter in range(args.steps + 1):  # the first one warms up
            times.append(clock(take_step, step)[1:])
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
    settings["precision"] = step.precision or "float32"
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
