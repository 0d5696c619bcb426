r"""Train the rows of a table of the paper with the same seeds and budget, and compare them.

    yolor-d2 ablation 2 --scale toy
    yolor-d2 ablation 4 --scale bccd --seeds 5 --train train.json images/ \
        --val val.json images/
    yolor-d2 ablation 2 --scale coco --num-gpus 8

TABLE is 1 to 8, A1 or A2, or T: tasks on one representation, which the paper does not have. "toy"
trains the rows' networks, made small, on a generated data set;
"bccd" the small network with the implicit knowledge of each row on a small data set of yours;
"coco" the rows of the paper unchanged. Called again, it resumes where it stopped; rows that
tables have in common are trained once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..inputs import require_datasets, require_overrides
from .common import add_dataset, add_overrides, new_parser

# Names of `yolor_d2.ablation.SCALES`.
SCALES = ("toy", "bccd", "coco")


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.add_argument("table", metavar="TABLE", help="1 to 8, A1, A2 or T")
    parser.add_argument("--scale", choices=SCALES, default="toy")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each row")
    parser.trains = True
    add_dataset(parser, "train", "COCO annotations and images to train on")
    add_dataset(parser, "val", "COCO annotations and images to evaluate on")
    parser.add_argument("--output", type=Path, default=Path("output/ablations"))
    parser.add_argument("--num-gpus", type=int, default=1)
    add_overrides(parser, "keys and values for all rows, anywhere")
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.seeds < 1:
        parser.error(f"--seeds is {args.seeds}, expected at least 1")
    if (args.train is None) != (args.val is None):
        parser.error("--train and --val go together")
    if args.scale == "bccd" and args.train is None:
        parser.error("--scale bccd needs --train and --val")
    if args.scale == "toy" and args.train is not None:
        parser.error("--scale toy generates its data; --train and --val are for the others")
    return args


def check_inputs(args: argparse.Namespace) -> None:
    require_datasets(args.train, args.val)
    require_overrides(args.opts)
