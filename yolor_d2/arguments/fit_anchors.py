r"""How well a configuration's anchors fit a data set, and anchors that fit it better.

    yolor-d2 anchors --config-file yolor_p6.yaml
    yolor-d2 anchors --config-file quick/ssss_320_cpu.yaml \
        --train train.json images/ --output anchors.yaml
    yolor-d2 train --config-file anchors.yaml ...

Boxes are measured as training sees them: the longer side of each image is INPUT.MAX_SIZE_TRAIN. The
file written with --output is a configuration on top of the given one.
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
    parser.add_argument("--count", type=int, help="anchors in all; default: as many as there are")
    parser.add_argument("--generations", type=int, default=1000, help="length of the search")
    parser.add_argument("--seed", type=int, default=0, help="of the search")
    parser.add_argument("--output", type=Path, help="YAML file to write")
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
