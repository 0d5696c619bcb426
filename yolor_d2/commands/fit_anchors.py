"""How well a configuration's anchors fit a data set, and anchors that fit it better."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from torch import Tensor

from yolor_d2.config import apply_overrides, find_config, read_config
from yolor_d2.config_paths import zoo_name
from yolor_d2.d2.config import CfgNode
from yolor_d2.data.dataset import TrainingDataset
from yolor_d2.data.options import use_data
from yolor_d2.data.settings import training_size
from yolor_d2.data.training_data import TrainingData
from yolor_d2.datasets.catalog import register_datasets
from yolor_d2.modeling.backbone import variant_from_config
from yolor_d2.ops.anchors import best_possible_recall, fit_anchors, fitness


def describe(title: str, sizes: Tensor, anchors: Tensor, max_ratio: float) -> str:
    recall = best_possible_recall(sizes, anchors, max_ratio)
    return (
        f"{title}: {100 * recall:.2f} % of {len(sizes)} boxes match at ratio {max_ratio:g}, "
        f"mean fit {fitness(sizes, anchors, max_ratio):.3f}"
    )


def to_levels(anchors: Tensor, num_levels: int) -> list[list[list[float]]]:
    """(A, 2) anchors by rising area, the same number on each level."""
    rounded = [[round(side, 1) for side in pair] for pair in anchors.tolist()]
    per_level = len(rounded) // num_levels
    return [rounded[i : i + per_level] for i in range(0, len(rounded), per_level)]


def as_yaml(levels: list[list[list[float]]], base: str | None = None) -> str:
    """A configuration that sets the anchors, one level a line."""
    lines = [f"_BASE_: {json.dumps(base)}"] if base else []  # quoted alike in both formats
    lines += ["MODEL:", "  YOLOR:", "    ANCHORS:"]
    return "\n".join([*lines, *(f"    - {level}" for level in levels)]) + "\n"


def base_from(output: Path, config: Path) -> str:
    """How a file names its base so that it can be taken to another machine: as the model zoo does,
    else by the way from its own folder."""
    way = os.path.relpath(config.resolve(), output.parent.resolve())
    return zoo_name(config) or Path(way).as_posix()


def load(args: argparse.Namespace) -> CfgNode:
    cfg = read_config(find_config(args.config_file))
    use_data(cfg, args.train, None)
    apply_overrides(cfg, [*args.opts, "MODEL.DEVICE", "cpu"])
    register_datasets(cfg)
    return cfg


def main(args: argparse.Namespace) -> None:
    cfg = load(args)
    before = torch.tensor(variant_from_config(cfg).anchors)  # (L, A, 2)
    num_levels = len(before)
    before = before.flatten(0, 1)
    count = args.count or len(before)
    if count < 1 or count % num_levels:
        raise ValueError(f"--count is {count}, expected a multiple of the {num_levels} levels")
    size = training_size(cfg)
    sizes = TrainingDataset(TrainingData(cfg).read(), size=size, seed=0).box_sizes()
    max_ratio = cfg.MODEL.YOLOR.ASSIGN_MAX_RATIO
    print(describe("now", sizes, before, max_ratio))
    centres = fit_anchors(
        sizes,
        count,
        max_ratio,
        start=before if count == len(before) else None,
        seed=args.seed,
        generations=args.generations,
    )
    levels = to_levels(centres, num_levels)
    fitted = torch.tensor(levels).flatten(0, 1)
    print(describe("fitted", sizes, fitted, max_ratio))
    print(as_yaml(levels), end="")
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        base = base_from(args.output, find_config(args.config_file))
        args.output.write_text(as_yaml(levels, base), encoding="utf-8")
        print(f"written to {args.output}")
