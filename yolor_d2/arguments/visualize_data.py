r"""Draw training samples as the network sees them, with their boxes: one picture per batch.

    yolor-d2 samples --config-file yolor_p6.yaml --train train.json images/ \
        --output output/samples
    yolor-d2 samples output/mine --output output/samples \
        --start 5000 INPUT.AUGMENT.MOSAIC9 1.0
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..inputs import require_datasets
from .common import add_dataset, add_overrides, add_run, check_config, new_parser, use_run


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.trains = True
    add_run(parser, "folder of a run: its configuration")
    add_dataset(parser, "train", "COCO annotations and images")
    parser.add_argument("--output", type=Path, required=True, help="folder of the pictures")
    parser.add_argument(
        "--count", type=int, default=16, help="number of samples to draw, in whole batches"
    )
    parser.add_argument("--start", type=int, default=0, help="iteration of the first batch")
    add_overrides(parser)
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(argv)
    use_run(parser, args, weights=False)
    return args


def check_inputs(args: argparse.Namespace) -> None:
    check_config(args)
    require_datasets(args.train)
