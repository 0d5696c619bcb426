"""Draw the curves of a run, and its detections beside the ground truth.

    yolor-d2 show output/mine

Writes pictures/curves.png and pictures/detections/*.png into the run's folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..runs import require_run, run_folder
from .common import new_parser


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.add_argument("run", metavar="RUN", type=run_folder, help="OUTPUT_DIR of the run")
    parser.add_argument("--count", type=int, default=12, help="number of pictures with detections")
    parser.add_argument("--threshold", type=float, default=0.3, help="minimum score to draw")
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return build_parser().parse_args(argv)


def check_inputs(args: argparse.Namespace) -> None:
    require_run(args.run)
