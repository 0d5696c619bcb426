r"""Detect objects in images, folders of images, videos, or what a camera sees.

    yolor-d2 predict output/mine photo.jpg folder/ film.mp4
    yolor-d2 predict output/mine photos/ --output found/ --csv found.csv --threshold 0.4
    yolor-d2 predict --config-file yolor_p6_paper.yaml --weights yolor-p6.pt --input photos/

Inputs are files, folders, patterns such as "photos/*.jpg", or the number of a camera. Drawn copies
go to the output folder; --json, --coco-json and --csv write the detections as well (or, without
--output, alone). Without all of these, drawn copies go to predictions/. --tile looks at large
images piece by piece.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..completion import complete_file_or_key
from ..inputs import expand, find_run, overridden_weights, require_readable
from .common import (
    NO_MODEL,
    add_keys,
    add_overrides,
    add_paths,
    add_run,
    check_config,
    check_weights,
    is_model,
    new_parser,
    tell,
    use_run,
)

# Least score to report, unless another is wanted.
DEFAULT_THRESHOLD = 0.25
# Folder of drawn copies where nothing else is to be written.
DEFAULT_OUTPUT = Path("predictions")


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.folder = "--output"
    add_run(parser)
    action = parser.add_argument(
        "inputs", nargs="*", metavar="INPUT", type=Path, help="files, folders, patterns, cameras"
    )
    action.completer = complete_file_or_key
    add_paths(parser, "--input", default=[], help="the same")
    add_keys(parser, "weights", "size", "device", "iou")
    parser.add_argument("--output", type=Path, help="folder for drawn images and videos")
    parser.add_argument("--json", type=Path, help="file for the detections")
    parser.add_argument("--coco-json", type=Path, help="file for COCO results; classes from 1")
    parser.add_argument("--csv", type=Path, help="file for a table, one line a detection")
    parser.add_argument("--batch", dest="batch_size", type=int, default=8, help="images at a time")
    parser.add_argument("--frames", type=int, help="stop a video or camera after so many")
    parser.add_argument("--tile", type=int, help="side in pixels of the tiles of an image")
    parser.add_argument("--tile-overlap", type=int, default=64, help="pixels that tiles share")
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


def take_inputs(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Tell the model from the inputs among the words without option."""
    first, rest = args.run, list(args.inputs)
    if first is not None and not is_model(first):
        if (
            args.config_file is not None
            or find_run(overridden_weights(args.opts) or "") is not None
        ):
            args.run, rest = None, [Path(first), *rest]
        elif not rest or Path(first).exists():
            parser.error(NO_MODEL)
    args.input = [*rest, *args.input]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(argv)
    take_inputs(parser, args)
    use_run(parser, args)
    if not args.input:
        parser.error("nothing to look at: give files, folders, patterns, or a camera's number")
    if not any((args.output, args.json, args.coco_json, args.csv)):
        args.output = DEFAULT_OUTPUT
        tell(parser, args, f"--output {DEFAULT_OUTPUT}")
    for option, value in (
        ("--batch", args.batch_size),
        ("--frames", args.frames),
        ("--tile", args.tile),
    ):
        if value is not None and value < 1:
            parser.error(f"{option} is {value}, expected at least 1")
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
