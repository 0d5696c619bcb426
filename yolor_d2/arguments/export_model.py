r"""Write a model to a file that other runtimes read, and prove that it gives the same boxes.

    yolor-d2 export --config-file output/mine/config.yaml --output mine.onnx \
        --images photos/ MODEL.WEIGHTS output/mine/model_best.pth

The format is that of the name: .onnx, .torchscript or .pt2, or what --format says. The finished
file is run by its own runtime (onnxruntime, LibTorch, torch.export) on noise of several shapes and
on images, and compared with the model; a file that differs is deleted, and the exit status is 1.
What was compared lies beside the file, in mine.onnx.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..inputs import find_images
from .common import (
    add_config_file,
    add_overrides,
    add_paths,
    check_config,
    check_weights,
    new_parser,
    split_overrides,
)

# Names of `yolor_d2.export.FORMATS` by the endings of their files.
FORMATS = {".onnx": "onnx", ".torchscript": "torchscript", ".pt2": "pt2"}


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add_config_file(parser)
    parser.add_argument("--output", required=True, type=Path, help="the file")
    parser.add_argument(
        "--format", choices=list(FORMATS.values()), help="default: that of the name"
    )
    parser.add_argument(
        "--no-nms", action="store_true", help="leave suppression to the user of the file"
    )
    add_paths(
        parser,
        "--images",
        default=[],
        help="files or folders to compare on; default: the test set of the config, or drawn scenes",
    )
    parser.add_argument("--count", type=int, default=4, help="at most so many of the images")
    add_overrides(parser, nargs="*")
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_intermixed_args(argv)
    split_overrides(args, "images")
    if args.count < 1:
        parser.error(f"--count is {args.count}, expected at least 1")
    if args.format is None:
        args.format = FORMATS.get(args.output.suffix)
        if args.format is None:
            parser.error(
                f"--output is {str(args.output)!r}, expected a name in {', '.join(FORMATS)}, or "
                "--format"
            )
    return args


def check_inputs(args: argparse.Namespace) -> None:
    check_config(args)
    check_weights(args)
    if args.images:
        find_images(args.images)
