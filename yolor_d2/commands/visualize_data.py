"""Draw training samples as the network sees them, with their boxes: a picture for each batch."""

from __future__ import annotations

import argparse

from yolor_d2.config import load_config
from yolor_d2.data.loader import build_train_loader
from yolor_d2.data.options import use_data
from yolor_d2.datasets.catalog import class_names, register_datasets
from yolor_d2.prediction.kinds import skeleton_of_data
from yolor_d2.visualize.batches import draw_batches
from yolor_d2.wording import counted


def main(args: argparse.Namespace) -> None:
    # Drawing needs no GPU, and no more than a few batches.
    cfg = load_config(
        args.config_file, [*args.opts, "MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"]
    )
    use_data(cfg, args.train, None)
    register_datasets(cfg)
    loader = build_train_loader(cfg, start_iter=args.start)
    paths = draw_batches(
        loader,
        args.output,
        count=-(-args.count // cfg.SOLVER.IMS_PER_BATCH),
        first=args.start,
        class_names=class_names(cfg),
        channel_order=cfg.INPUT.FORMAT,
        skeleton=skeleton_of_data(cfg.DATASETS.TRAIN),
    )
    print(f"{counted(len(paths), 'picture')} in {args.output}")
