r"""Draw training samples as the network sees them, with their boxes: a picture for each batch.

    python tools/visualize_data.py --config-file yolor_p6.yaml --train train.json images/ \
        --output output/samples
    python tools/visualize_data.py --config-file output/mine/config.yaml --output output/samples \
        --start 5000 INPUT.AUGMENT.MOSAIC9 1.0
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from yolor_d2.config import load_config
from yolor_d2.data.loader import build_train_loader, class_names, register_datasets, use_coco_files
from yolor_d2.visualize import draw_batches


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="path, or name in the model zoo")
    parser.add_argument(
        "--train", nargs=2, metavar=("JSON", "FOLDER"), help="COCO annotations and images"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--num", type=int, default=16, help="samples to draw, in whole batches")
    parser.add_argument("--start", type=int, default=0, help="iteration of the first batch")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    # Drawing needs no GPU, and no more than a few batches.
    cfg = load_config(
        args.config_file, [*args.opts, "MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"]
    )
    use_coco_files(cfg, args.train, None)
    register_datasets(cfg)
    loader = build_train_loader(cfg, start_iter=args.start)
    paths = draw_batches(
        loader,
        args.output,
        count=-(-args.num // cfg.SOLVER.IMS_PER_BATCH),
        first=args.start,
        class_names=class_names(cfg),
        channel_order=cfg.INPUT.FORMAT,
    )
    print(f"{len(paths)} pictures in {args.output}")
