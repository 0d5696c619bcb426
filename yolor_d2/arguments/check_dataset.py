"""Find out what is wrong with a data set, before training does.

    yolor-d2 check --train train.json images/ --val val.json images/
    yolor-d2 check --train data.yaml --val data.yaml
    yolor-d2 check --train VOC2012/ --json found.json --pictures found/
    yolor-d2 check --train train.json images/ --fix cleaned.json

A data set is a COCO file and the folder of its images, a data.yaml or folder of YOLO's, or a folder
of Pascal VOC's. Without --train and --val those of the configuration are checked. --fix writes a
cleaned copy of the annotations to train on (of --val where that is given alone), and beside it the
list of what was changed; the source is never touched.

Exit status: 0 if there are no errors, 1 if there are some, or a warning with --strict; 2 if the
command line makes no sense.
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
    add_config_file(parser, "of size and anchors; run, path, or model zoo", default="yolor_p6.yaml")
    parser.add_argument("--json", type=Path, help="file for every finding")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the offenders")
    parser.add_argument("--count", type=int, default=100, help="pictures of each data set, at most")
    parser.add_argument("--fix", type=Path, metavar="OUT.json", help="file for a cleaned copy")
    parser.add_argument("--strict", action="store_true", help="warnings count as errors")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes; default: %(default)s"
    )
    parser.add_argument("--no-images", action="store_true", help="look at annotations alone")
    parser.add_argument("--examples", type=int, default=3, help="findings shown of a kind")
    parser.add_argument("--voc-zero-based", action="store_true", help="VOC corners count from 0")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
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
