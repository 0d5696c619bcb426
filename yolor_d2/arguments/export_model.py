r"""Write a model to a file that other runtimes read, and prove that it gives the same boxes.

    yolor-d2 export output/mine
    yolor-d2 export output/mine --output mine.onnx --input photos/
    yolor-d2 export --config-file yolor_p6_paper.yaml --weights yolor-p6.pt --output p6.onnx

The format is that of the name: .onnx, .torchscript or .pt2, or what --format says; without --output
the file goes beside the weights of the run. The finished
file is run by its own runtime (onnxruntime, LibTorch, torch.export) on noise of several shapes and
on images, and compared with the model; a file that differs is deleted, and the exit status is 1.
What was compared lies beside the file, in mine.onnx.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..inputs import find_images, overridden_weights
from .common import (
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

# Names of `yolor_d2.export.FORMATS` by the endings of their files.
FORMATS = {".onnx": "onnx", ".torchscript": "torchscript", ".pt2": "pt2"}


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add_run(parser)
    parser.add_argument("--output", type=Path, help="the file")
    parser.add_argument(
        "--format", choices=list(FORMATS.values()), help="default: that of the name"
    )
    parser.add_argument(
        "--no-nms", action="store_true", help="leave suppression to the user of the file"
    )
    add_paths(
        parser,
        "--input",
        dest="images",
        default=[],
        help="files or folders to compare on; default: the test set of the config, or drawn scenes",
    )
    parser.add_argument("--count", type=int, default=4, help="at most so many of the images")
    add_keys(parser, "weights", "iou")
    add_overrides(parser)
    return parser


def default_output(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Path:
    """A file beside the weights of a run, named like them."""
    weights = overridden_weights(args.opts)
    if args.run is None and not is_model(args.config_file):
        return Path("model.onnx")  # there is no such configuration, which is told later
    if args.run is None or not weights:
        parser.error("--output is missing: the file to write")
    suffixes = {name: suffix for suffix, name in FORMATS.items()}
    path = Path(weights).with_suffix(suffixes.get(args.format or "onnx", ".onnx"))
    tell(parser, args, f"--output {path}")
    return path


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(argv)
    use_run(parser, args)
    if args.output is None:
        args.output = default_output(parser, args)
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
