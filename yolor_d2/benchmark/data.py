"""Training images per second from the loader, without a model."""

from __future__ import annotations

import argparse
import logging
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import cv2

from ..config import load_config
from ..d2.config import CfgNode
from ..data.loader import build_train_loader, build_training_dataset
from ..data.options import use_data
from ..data.training_data import TrainingData
from ..datasets.catalog import register_datasets
from ..environment import describe_machine
from ..tasks import TASKS, settle_tasks
from .report import Report

MIB = 1024**2
# Samples of each kind before those that are timed.
UNTIMED = 5


def cpu_seconds(pids: list[int]) -> float:
    """CPU time of this process and of others so far; NaN where the system does not tell."""
    total = time.process_time()
    try:
        for pid in pids:
            # Behind the name, which may hold spaces: fields 14 and 15 of the file, in ticks.
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2]
            user, system = fields.split()[11:13]
            total += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    except OSError:  # not Linux
        return math.nan
    return total


def resident_bytes(pids: list[int]) -> float:
    """Memory of the largest of some processes; NaN where the system does not tell."""
    try:
        pages = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
        return max(pages) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return math.nan


def measure_loader(cfg: CfgNode, *, workers: int, images: int, rounds: int) -> dict:
    """Speed of the training loader.

    Args:
        cfg: the configuration; its DATALOADER.NUM_WORKERS is not used.
        workers: worker processes.
        images: images in a round, rounded up to whole batches.
        rounds: rounds after the first, which is not counted.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATALOADER.NUM_WORKERS = workers
    before = set(multiprocessing.active_children())
    batches = iter(build_train_loader(cfg))
    count = -(-images // cfg.SOLVER.IMS_PER_BATCH)
    speeds, costs = [], []
    for _ in range(rounds + 1):
        pids = [x.pid for x in set(multiprocessing.active_children()) - before]
        start, cpu_start = time.perf_counter(), cpu_seconds(pids)
        loaded = sum(len(next(batches)) for _ in range(count))
        costs.append((cpu_seconds(pids) - cpu_start) / loaded * 1000)
        speeds.append(loaded / (time.perf_counter() - start))
    return {
        "workers": workers,
        "images / s": statistics.median(speeds[1:]),
        "CPU ms / image": statistics.median(costs[1:]),
        "MiB of a worker": resident_bytes(pids or [os.getpid()]) / MIB,
    }


def with_tasks(cfg: CfgNode, names: Sequence[str]) -> CfgNode:
    """A configuration with these tasks on and all others off.

    Raises:
        ValueError: when there is no such task.
    """
    for name in names:
        if name not in TASKS:
            raise ValueError(f"--tasks: no task {name!r}, there are {', '.join(TASKS)}")
    cfg = cfg.clone()
    cfg.defrost()
    for name in TASKS:
        cfg.MODEL.YOLOR.TASKS[name.upper()].ENABLED = name in names
    return cfg


def compare_tasks(cfg: CfgNode, groups: Sequence[str], *, images: int) -> list[dict]:
    """CPU time of samples with the ground truth of tasks and without, one of each in turn.

    Args:
        cfg: the configuration.
        groups: names of tasks, joined by "+" where a sample has those of several.
        images: samples that are timed of each, after a few that are not.
    """
    cv2.setNumThreads(0)
    sets = {"none": build_training_dataset(with_tasks(cfg, ()))}
    for group in groups:
        joint = with_tasks(cfg, group.split("+"))
        settle_tasks(joint, TrainingData(joint))
        sets[group] = build_training_dataset(joint)
    spent: dict[str, list[float]] = {name: [] for name in sets}
    for position in range(UNTIMED + images):
        for name, dataset in sets.items():
            start = time.process_time()
            dataset[position, position % len(dataset)]
            spent[name].append(time.process_time() - start)
    rows = []
    for name, times in spent.items():
        ratios = [x / base for x, base in zip(times, spent["none"])]
        rows.append(
            {
                "tasks": name,
                "CPU ms / sample": 1000 * statistics.median(times[UNTIMED:]),
                "of none": statistics.median(ratios[UNTIMED:]),
            }
        )
    return rows


def run(args: argparse.Namespace) -> Report:
    """Measure the loader with each number of workers, or samples of tasks.

    Raises:
        ValueError: when a number is out of range, or there is no such task.
    """
    if min(args.workers) < 0 or min(args.images, args.rounds) < 1:
        raise ValueError("expected --workers of at least 0, --count and --rounds of at least 1")
    cfg = load_config(args.config_file, [*args.opts, "MODEL.DEVICE", "cpu"])
    use_data(cfg, args.train, None)
    register_datasets(cfg)
    logging.getLogger("detectron2").setLevel(logging.WARNING)
    if args.tasks:
        rows = compare_tasks(cfg, args.tasks, images=args.images)
    else:
        rows = [
            measure_loader(cfg, workers=workers, images=args.images, rounds=args.rounds)
            for workers in args.workers
        ]
    augment = cfg.INPUT.AUGMENT
    settings = {
        "data": ", ".join(cfg.DATASETS.TRAIN),
        "size": cfg.INPUT.MAX_SIZE_TRAIN,
        "batch": cfg.SOLVER.IMS_PER_BATCH,
        "cache": cfg.INPUT.CACHE,
        "mosaic": augment.MOSAIC,
        "mosaic9": augment.MOSAIC9,
        "mixup": augment.MIXUP,
        "paste_in": augment.PASTE_IN,
        "scale": augment.SCALE,
        "translate": augment.TRANSLATE,
        "images in a round": args.images,
        "rounds": args.rounds,
    }
    return Report("Training data", settings, rows, describe_machine())
