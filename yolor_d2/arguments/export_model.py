r"""Export a model to a file for other runtimes, and verify that its results are the same.

    yolor-d2 export output/mine
    yolor-d2 export output/mine --output mine.onnx --input photos/
    yolor-d2 export --config-file yolor_p6_paper.yaml --weights yolor-p6.pt --output p6.onnx

The suffix selects the format: .onnx, .torchscript, .pt2 or .xml (OpenVINO); --format overrides it.
Without --output the file is written beside the weights of the run. The finished file is run by its
own runtime (onnxruntime, LibTorch, torch.export, OpenVINO) on noise of several shapes and on
images, and compared with the model, in boxes and in masks and keypoints where it has them; a file
that differs is deleted, and the exit status is 1.
ONNX files are also tried with OpenVINO, OpenCV and TensorRT's parser, where those are installed: a
table shows the results, and --require makes them count. The comparison is recorded beside the file,
in mine.onnx.json.
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
from .predict import DEFAULT_THRESHOLD

# Names of `yolor_d2.export.FORMATS` by the endings of their files.
FORMATS = {".onnx": "onnx", ".torchscript": "torchscript", ".pt2": "pt2", ".xml": "openvino"}
# Names of `yolor_d2.export.runtimes.RUNTIMES`.
RUNTIMES = ("openvino", "opencv", "tensorrt")
# ONNX's operator sets that torch writes.
DEFAULT_OPSET, LAST_OPSET = 18, 23


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add_run(parser)
    parser.add_argument("--output", type=Path, help="file to write")
    parser.add_argument(
        "--format", choices=list(FORMATS.values()), help="default: by the suffix of --output"
    )
    parser.add_argument(
        "--no-nms",
        action="store_true",
        help="leave NMS out: the file gives decoded rows",
    )
    parser.add_argument(
        "--threshold",
        dest="score_threshold",
        type=float,
        help="minimum score; default: MODEL.YOLOR.CLASS_SCORE_THRESHOLDS where they are "
        f"set, else MODEL.YOLOR.SCORE_THRESHOLD if given here, else {DEFAULT_THRESHOLD}",
    )
    parser.add_argument(
        "--size",
        nargs="+",
        metavar="PIXELS",
        help="one number: length of the longer side of images, as INPUT.MIN_SIZE_TEST and "
        "INPUT.MAX_SIZE_TEST, which are the default; two, height and width: the file accepts only "
        "canvases of that size",
    )
    parser.add_argument(
        "--half",
        action="store_true",
        help="weights and network in float16; in OpenVINO files only the weights",
    )
    parser.add_argument(
        "--opset",
        type=int,
        default=DEFAULT_OPSET,
        help=f"operator set of an ONNX file, {DEFAULT_OPSET} to {LAST_OPSET}; default: %(default)s",
    )
    parser.add_argument(
        "--require",
        nargs="+",
        default=[],
        metavar="RUNTIME",
        help=f"delete an ONNX file that these runtimes reject; some of {', '.join(RUNTIMES)}",
    )
    add_paths(
        parser,
        "--input",
        dest="images",
        default=[],
        help="files or folders to compare on; default: the test set, or generated scenes",
    )
    parser.add_argument(
        "--count", type=int, default=4, help="maximum number of images to compare on"
    )
    add_keys(parser, "weights", "iou")
    add_overrides(parser)
    return parser


def default_output(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Path:
    """A file beside the weights of a run, named like them."""
    weights = overridden_weights(args.opts)
    if args.run is None and not is_model(args.config_file):
        return Path("model.onnx")  # there is no such configuration, which is reported later
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
    args.size = read_size(parser, args.size)
    if args.score_threshold is not None and not 0 <= args.score_threshold < 1:
        parser.error(f"--threshold is {args.score_threshold}, expected a score from 0 to below 1")
    if not DEFAULT_OPSET <= args.opset <= LAST_OPSET:
        parser.error(f"--opset is {args.opset}, expected {DEFAULT_OPSET} to {LAST_OPSET}")
    for name in args.require:
        if name not in RUNTIMES:
            parser.error(f"--require is {name!r}, expected some of {', '.join(RUNTIMES)}")
    if args.count < 1:
        parser.error(f"--count is {args.count}, expected at least 1")
    if args.format is None:
        args.format = FORMATS.get(args.output.suffix)
        if args.format is None:
            parser.error(
                f"--output is {str(args.output)!r}, expected a name in {', '.join(FORMATS)}, or "
                "--format"
            )
    check_format(parser, args)
    return args


def read_size(parser: argparse.ArgumentParser, words: Sequence[str] | None) -> list[int] | None:
    """--size as one or two numbers."""
    if words is None:
        return None
    if not 1 <= len(words) <= 2 or not all(str(x).isdecimal() and int(x) for x in words):
        parser.error(
            f"--size is {' '.join(map(str, words))!r}, expected one or two numbers of pixels"
        )
    return [int(x) for x in words]


def check_format(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End where an option says something of another format."""
    if args.format != "onnx":
        for name, given in (("opset", args.opset != DEFAULT_OPSET), ("require", args.require)):
            if given:
                parser.error(f"--{name} is for ONNX files; the format is {args.format!r}")
    if args.format == "openvino" and args.output.suffix != ".xml":
        parser.error(
            f"--output is {str(args.output)!r}, expected .xml for OpenVINO, by which it "
            "finds the weights beside it"
        )


def check_inputs(args: argparse.Namespace) -> None:
    check_config(args)
    check_weights(args)
    if args.images:
        find_images(args.images)
