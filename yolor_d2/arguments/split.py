"""Split a data set into images to train on and images to evaluate with.

    yolor-d2 split all.json images/ --output parts/
    yolor-d2 split data.yaml --val 0.1 --test 0.1 --output parts/
    yolor-d2 split all.json images/ --groups "^(.*)_frame" --output parts/

Each part gets its fraction of the boxes of every class, as nearly as possible. Images of one group
stay together, for example those of one video or one patient: --groups is a regular expression
whose match in the name of an image, or its first group in parentheses, names the group; --group-key
is a key of the image entries. Copies of one file stay together too. The images stay where they are;
train.json, val.json and test.json are written.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..inputs import require_source
from .common import new_parser


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.add_argument(
        "source",
        nargs="+",
        metavar="PATH",
        help="COCO file and image folder, or data.yaml, YOLO folder, VOC folder",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the parts")
    parser.add_argument(
        "--val", type=float, default=0.2, help="fraction to validate with; default: %(default)s"
    )
    parser.add_argument("--test", type=float, default=0.0, help="fraction to test with")
    parser.add_argument(
        "--groups", metavar="PATTERN", help="regular expression for the group in image names"
    )
    parser.add_argument("--group-key", metavar="KEY", help="key of the image entries, instead")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split")
    parser.add_argument("--overwrite", action="store_true", help="overwrite existing parts")
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(argv)
    if len(args.source) > 2:
        parser.error(f"{len(args.source)} paths, expected a COCO file and a folder, or one path")
    for name in ("val", "test"):
        if not 0 <= getattr(args, name) < 1:
            parser.error(
                f"--{name} is {getattr(args, name)}, expected a fraction from 0 to below 1"
            )
    if not 0 < args.val + args.test < 1:
        parser.error(
            f"--val and --test sum up to {args.val + args.test}, expected below 1, above 0"
        )
    if args.groups is not None and args.group_key is not None:
        parser.error("--groups and --group-key exclude each other")
    if args.seed < 0:
        parser.error(f"--seed is {args.seed}, expected at least 0")
    return args


def check_inputs(args: argparse.Namespace) -> None:
    require_source("source", args.source)
