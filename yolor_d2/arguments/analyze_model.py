"""Parameters and FLOPs of the network that a configuration describes.

yolor-d2 analyze --config-file yolor_p6.yaml
yolor-d2 analyze output/mine
yolor-d2 analyze --config-file yolor_p6.yaml MODEL.YOLOR.NUM_CLASSES 3
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .common import add_overrides, add_run, check_config, new_parser, use_run


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add_run(parser)
    parser.add_argument(
        "--size",
        type=int,
        help="side of the square input in pixels; default: from the configuration",
    )
    add_overrides(parser)
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(argv)
    use_run(parser, args, weights=False)
    return args


def check_inputs(args: argparse.Namespace) -> None:
    check_config(args)
