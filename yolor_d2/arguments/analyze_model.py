"""Parameters and FLOPs of the network that a configuration describes.

yolor-d2 analyze --config-file configs/yolor_p6.yaml
yolor-d2 analyze --config-file yolor_p6.yaml MODEL.YOLOR.NUM_CLASSES 3
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .common import add_config_file, add_overrides, check_config, new_parser


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add_config_file(parser)
    parser.add_argument("--size", type=int, help="side of the square input; default: the config's")
    add_overrides(parser)
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return build_parser().parse_args(argv)


def check_inputs(args: argparse.Namespace) -> None:
    check_config(args)
