r"""Detect objects in images, folders of images, videos, or what a camera sees.

    yolor-d2 predict --config-file output/mine/config.yaml --output found/ \
        --input photo.jpg folder/ film.mp4 MODEL.WEIGHTS output/mine/model_best.pth

Inputs are files, folders, patterns such as "photos/*.jpg", or the number of a camera. Drawn copies
go to the output folder; --json, --coco-json and --csv write the detections as well (or, without
--output, alone). --tile looks at large images piece by piece.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..inputs import expand, require_readable
from .common import (
    add_config_file,
    add_overrides,
    add_paths,
    check_config,
    check_weights,
    new_parser,
    split_overrides,
)

# Least score to report, unless another is wanted.
DEFAULT_THRESHOLD = 0.25


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add_config_file(parser)
    add_paths(parser, "--input", required=True, help="files, folders, patterns, cameras")
    parser.add_argument("--output", type=Path, help="folder for drawn images and videos")
    parser.add_argument("--json", type=Path, help="file for the detections")
    parser.add_argument("--coco-json", type=Path, help="file for COCO results; classes from 1")
    parser.add_argument("--csv", type=Path, help="file for a table, one line a detection")
    parser.add_argument("--batch-size", type=int, default=8, help="images at a time")
    parser.add_argument("--frames", type=int, help="stop a video or camera after so many")
    parser.add_argument(
        "--tile",
        type=int,
        help="side in pixels of tiles in which images are looked at; also reads images above "
        "INPUT.MAX_PIXELS",
    )
    parser.add_argument(
        "--tile-overlap",
        type=int,
        default=64,
        help="pixels that tiles share, at least the size of the objects; default: %(default)s",
    )
    parser.add_argument(
        "--tile-whole",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="also look at the whole image, for objects larger than the overlap; where objects are "
        "then smaller than those trained on, it adds false boxes; default: no",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        help=f"least score to report; {DEFAULT_THRESHOLD}, or none beside --thresholds",
    )
    parser.add_argument(
        "--thresholds",
        type=Path,
        help="report.json of an evaluation: report what exceeds the best threshold of its class",
    )
    add_overrides(parser)
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(argv)
    split_overrides(args, "input")
    if not any((args.output, args.json, args.coco_json, args.csv)):
        parser.error("nothing to write: give --output, --json, --coco-json or --csv")
    for name in ("batch_size", "frames", "tile"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} is {value}, expected at least 1")
    if args.tile is not None and not 0 <= args.tile_overlap < args.tile:
        parser.error(f"--tile-overlap is {args.tile_overlap}, expected 0 to below --tile")
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        parser.error(f"--threshold is {args.threshold}, expected a score from 0 to 1")
    if args.threshold is None:
        args.threshold = DEFAULT_THRESHOLD if args.thresholds is None else 0.0
    return args


def check_inputs(args: argparse.Namespace) -> None:
    check_config(args)
    if args.thresholds is not None:
        require_readable(args.thresholds)
    expand(args.input)
    check_weights(args)
