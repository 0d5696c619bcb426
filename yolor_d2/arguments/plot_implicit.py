r"""Draw the implicit knowledge of a trained model.

    yolor-d2 implicit output/mine --output output/implicit
    yolor-d2 implicit output/mine --output output/implicit --input photos/
    yolor-d2 implicit --config-file yolor_p6_paper.yaml --weights yolor-p6.pt --output implicit/

One picture for each place: on predictions a bar for x, y, width, height, objectness and class of
each anchor, elsewhere the values of the channels. With --input, the feature spaces before and
after their alignment too. During training, VIS_PERIOD N sends these pictures to tensorboard.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..inputs import find_images
from .common import (
    add_keys,
    add_overrides,
    add_paths,
    add_run,
    check_config,
    check_weights,
    new_parser,
    use_run,
)


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add_run(parser)
    add_keys(parser, "weights")
    parser.add_argument("--output", type=Path, required=True, help="folder for the pictures")
    add_paths(parser, "--input", dest="images", default=[], help="files and folders")
    parser.add_argument("--count", type=int, default=16, help="maximum number of images")
    add_overrides(parser)
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(argv)
    use_run(parser, args)
    return args


def check_inputs(args: argparse.Namespace) -> None:
    check_config(args)
    check_weights(args)
    if args.images:
        find_images(args.images)
