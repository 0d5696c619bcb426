r"""Draw training samples as the network sees them, with their boxes: a picture for each batch.

    yolor-d2 samples --config-file yolor_p6.yaml --train train.json images/ \
        --output output/samples
    yolor-d2 samples --config-file output/mine/config.yaml --output output/samples \
        --start 5000 INPUT.AUGMENT.MOSAIC9 1.0
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..inputs import require_coco_files
from .common import COCO_FILES, add_config_file, add_overrides, check_config, new_parser


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add_config_file(parser)
    parser.add_argument("--train", **COCO_FILES, help="COCO annotations and images")
    parser.add_argument("--output", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--num", type=int, default=16, help="samples to draw, in whole batches")
    parser.add_argument("--start", type=int, default=0, help="iteration of the first batch")
    add_overrides(parser)
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return build_parser().parse_args(argv)


def check_inputs(args: argparse.Namespace) -> None:
    check_config(args)
    require_coco_files(args.train)
