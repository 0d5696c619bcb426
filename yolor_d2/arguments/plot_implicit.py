r"""Draw the implicit knowledge that a model has learned.

    yolor-d2 implicit --config-file output/mine/config.yaml --output output/implicit \
        MODEL.WEIGHTS output/mine/model_best.pth
    yolor-d2 implicit --config-file output/mine/config.yaml --output output/implicit \
        --images photos/ MODEL.WEIGHTS output/mine/model_best.pth

One picture for each place: on predictions a bar for x, y, width, height, objectness and class of
each anchor, elsewhere the values of the channels. With --images, the feature spaces before and
after their alignment too. During training, VIS_PERIOD N sends these pictures to tensorboard.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..inputs import find_images
from .common import (
    add_config_file,
    add_overrides,
    add_paths,
    check_config,
    check_weights,
    new_parser,
    split_overrides,
)


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add_config_file(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder of the pictures")
    add_paths(parser, "--images", default=[], help="files and folders")
    parser.add_argument("--count", type=int, default=16, help="use at most so many images")
    add_overrides(parser, nargs="*")
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    args = build_parser().parse_intermixed_args(argv)
    split_overrides(args, "images")
    return args


def check_inputs(args: argparse.Namespace) -> None:
    check_config(args)
    check_weights(args)
    if args.images:
        find_images(args.images)
