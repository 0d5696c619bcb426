r"""Convert weights of other programs for use with Detectron2.

    yolor-d2 convert yolor-p6.pt --config-file yolor_p6_paper.yaml --output p6.pth
    yolor-d2 convert yolov4-csp.weights --config-file yolov4_csp.yaml \
        --output csp.pth
    yolor-d2 convert output/mine/model_best.pth --output mine.safetensors

SOURCE is a file of the authors' branches `paper` (yolor-*.pt) or `main` (yolor_*.pt), of YOLOv7
(training files for yolov7_w6.yaml and the like, deploy files for yolov7_w6_deploy.yaml), of YOLOv5
release 5, of darknet (*.weights), of this project, or safetensors. No code in it is
executed. Every tensor is accounted for; a missing or unused one is an error.
MODEL.WEIGHTS accepts all these files too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..inputs import require_readable
from ..runs import find_run
from .common import add_config_file, add_overrides, check_config, new_parser, use_run


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="file of weights")
    add_config_file(
        parser, "path, or name in the model zoo; default: configuration of the run of SOURCE"
    )
    parser.add_argument("--output", required=True, type=Path, help=".pth or .safetensors")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the names of all tensors to this file"
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="accept missing tensors (they stay random) and unused ones",
    )
    add_overrides(
        parser,
        "keys and values; MODEL.YOLOR.NUM_CLASSES K keeps all but the class rows of the head",
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.config_file is None:
        require_readable(args.source)
    run = find_run(args.source)
    if run is not None and run.weights is not None:
        args.source = run.weights
    args.run = None if run is None or args.config_file is not None else str(run.folder)
    use_run(parser, args, weights=False, missing="no model: give --config-file NAME")
    if args.output.suffix not in (".pth", ".safetensors"):
        parser.error(f"--output is {str(args.output)!r}, expected a name in .pth or .safetensors")
    if args.output.resolve() == args.source.resolve():
        parser.error("--output is SOURCE itself")
    return args


def check_inputs(args: argparse.Namespace) -> None:
    check_config(args)
    require_readable(args.source)
