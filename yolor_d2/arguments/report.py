r"""Report on an evaluation, or compare two, on one page.

    yolor-d2 report output/mine
    yolor-d2 report output/before output/after --output comparison.html
    yolor-d2 report output/a output/b --names "small images" "large images"
    yolor-d2 report --results coco_instances_results.json --val val.json images/ \
        --output output/report

A run is a folder, OUTPUT_DIR of an evaluation or a training; or, in a comparison, a report.json.
Two runs are compared on the images that both were evaluated on.
The first form writes report.html and report.json into the folder again, from the detections
there. docs/report.md explains the parts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..inputs import require_all
from ..runs import require_run, run_folder
from .common import new_parser

# In the folder of a run.
REPORT_FILE = "report.json"


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        type=run_folder,
        help="one run to report on, or two to compare",
    )
    parser.add_argument(
        "--names",
        nargs=2,
        metavar=("FIRST", "SECOND"),
        help="names for the two runs; default: their folders",
    )
    parser.add_argument("--results", type=Path, help="COCO results, in place of a run")
    parser.add_argument(
        "--val",
        dest="annotations",
        nargs=2,
        type=Path,
        metavar=("JSON", "FOLDER"),
        help="COCO annotations and images of --results",
    )
    parser.add_argument(
        "--output", type=Path, help="folder of the report of --results; file of a comparison"
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(argv)
    loose = args.results is not None
    if loose != (args.annotations is not None):
        parser.error("--results and --val need each other")
    if loose == bool(args.runs) or len(args.runs) > 2:
        parser.error("give one run, two runs, or --results")
    if args.names is not None and len(args.runs) != 2:
        parser.error("--names is for two runs")
    if args.names is not None and len(set(map(str.strip, args.names)) - {""}) < 2:
        parser.error("--names needs two names that differ")
    if loose and args.output is None:
        parser.error("--results needs --output")
    if len(args.runs) == 1 and args.output is not None:
        parser.error("--output is for --results and comparisons: a run gets its report itself")
    return args


def check_inputs(args: argparse.Namespace) -> None:
    if args.results is not None:
        require_all(*args.annotations, args.results)
    elif len(args.runs) == 1:
        require_run(args.runs[0])
    else:
        for path in args.runs:
            if not path.is_file() and not (path / REPORT_FILE).is_file():
                require_run(path)
