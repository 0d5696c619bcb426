"""Check a data set for errors before training.

    yolor-d2 check --train train.json images/ --val val.json images/
    yolor-d2 check --train data.yaml --val data.yaml
    yolor-d2 check --train VOC2012/ --json found.json --pictures found/
    yolor-d2 check --train train.json images/ --fix cleaned.json

A data set is a COCO file and the folder of its images, a data.yaml or folder in YOLO format, or a
folder in Pascal VOC format. Without --train and --val those of the configuration are checked. --fix
writes a cleaned copy of the annotations to train on (of --val if only that is given), and beside it
a list of the changes; the source is never modified.

Exit status: 0 if there are no errors, 1 if there are some, or a warning with --strict; 2 if the
command line is invalid.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from ..inputs import require_source
from .common import MOST_PATHS, add_config_file, add_overrides, check_config, new_parser

DATA = {"nargs": "+", "metavar": ("PATH", "FOLDER")}


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.trains = True
    parser.add_argument("--train", **DATA, help="data set to train on").most = MOST_PATHS
    parser.add_argument("--val", **DATA, help="data set to evaluate on").most = MOST_PATHS
    add_config_file(
        parser,
        "configuration for size and anchors: run, path, or name in the model zoo",
        default="yolor_p6.yaml",
    )
    parser.add_argument("--json", type=Path, help="JSON file for all findings")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the affected images")
    parser.add_argument(
        "--count", type=int, default=100, help="maximum number of pictures for each data set"
    )
    parser.add_argument(
        "--fix", type=Path, metavar="OUT.json", help="file for a cleaned copy of the annotations"
    )
    parser.add_argument("--strict", action="store_true", help="treat warnings as errors")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes; default: %(default)s"
    )
    parser.add_argument(
        "--no-images", action="store_true", help="check only the annotations, not the image files"
    )
    parser.add_argument(
        "--examples", type=int, default=3, help="number of findings to show of each kind"
    )
    parser.add_argument(
        "--voc-zero-based", action="store_true", help="VOC pixel coordinates start at 0"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    add_overrides(parser)
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error(f"--workers is {args.workers}, expected at least 1")
    return args


def check_inputs(args: argparse.Namespace) -> None:
    check_config(args)
    for name in ("train", "val"):
        if getattr(args, name):
            require_source(name, getattr(args, name))
