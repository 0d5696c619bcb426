r"""Detect objects in images, folders of images, videos, or camera streams.

    yolor-d2 predict output/mine photo.jpg folder/ video.mp4
    yolor-d2 predict output/mine photos/ --output found/ --csv found.csv --threshold 0.4
    yolor-d2 predict --config-file yolor_p6_paper.yaml --weights yolor-p6.pt --input photos/

Inputs are images, videos, folders of both, patterns such as "photos/*.jpg", addresses such as
rtsp://camera/stream, or the number of a camera. Drawn copies go to the output folder; --json,
--coco-json, --csv, --yolo-txt and --crops write the detections as well (or, without --output,
alone). Without all of these, drawn copies go to predictions/, predictions_2/ and so on. Results
are written as they are computed: after Ctrl-C or a crash the same command with --resume continues,
and gives the same files. --tile processes large images in tiles.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

from ..completion import complete_file_or_key
from ..inputs import overridden_weights, require_readable
from ..prediction.extras import require_pyav, require_trackers
from ..prediction.sources import expand
from ..runs import find_run
from .common import (
    NO_MODEL,
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

# Least score to report, unless another is wanted.
DEFAULT_THRESHOLD = 0.25
# Folder of drawn copies where nothing else is to be written.
DEFAULT_OUTPUT = Path("predictions")


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.folder = "--output"
    add_run(parser)
    # As text: a path would make rtsp:/ of rtsp://.
    action = parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="images, videos, folders, patterns, addresses, cameras",
    )
    action.completer = complete_file_or_key
    add_paths(parser, "--input", type=str, default=[], help="inputs, as above")
    add_keys(parser, "weights", "size", "device", "iou")
    add_outputs(parser.add_argument_group("outputs"))
    parser.add_argument("--resume", action="store_true", help="resume an interrupted run")
    parser.add_argument(
        "--overwrite", action="store_true", help="start again and replace existing output"
    )
    parser.add_argument("--batch", dest="batch_size", type=int, default=8, help="batch size")
    parser.add_argument("--classes", nargs="+", help="names or numbers of the classes to report")
    parser.add_argument("--frames", type=int, help="maximum number of frames of a video or camera")
    parser.add_argument("--stride", type=int, default=1, help="process every N-th frame of a video")
    parser.add_argument(
        "--track", action="store_true", help="track objects over the frames of a video"
    )
    parser.add_argument(
        "--tile",
        type=int,
        help="side in pixels of the tiles in which images are processed; also reads images above "
        "INPUT.MAX_PIXELS",
    )
    parser.add_argument(
        "--tile-overlap",
        type=int,
        default=64,
        help="pixels that tiles share, at least the size of the objects; default: %(default)s",
    )
    parser.add_argument(
        "--tile-whole",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="also process the whole image, for objects larger than the overlap; where objects are "
        "then smaller than those trained on, it adds false boxes; default: no",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        help=f"minimum score to report; {DEFAULT_THRESHOLD}, or none beside --thresholds",
    )
    parser.add_argument(
        "--thresholds",
        type=Path,
        help="report.json with the best threshold of each class, above which to report",
    )
    add_overrides(parser)
    return parser


def add_outputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--output", type=Path, help="folder for images and videos with drawn detections"
    )
    group.add_argument(
        "--no-labels", dest="labels", action="store_false", help="draw boxes without labels"
    )
    group.add_argument("--line-width", type=int, help="line width of drawn boxes, in pixels")
    group.add_argument(
        "--json", type=Path, help="JSON file for the detections; JSON lines if it ends in .jsonl"
    )
    group.add_argument("--csv", type=Path, help="CSV file with one row per detection")
    group.add_argument(
        "--coco-json",
        type=Path,
        help="file for COCO results; FILE.images.json beside it lists the image of each image_id",
    )
    group.add_argument(
        "--coco-images",
        type=Path,
        help="annotation file whose image and category ids the COCO results use",
    )
    group.add_argument(
        "--yolo-txt",
        type=Path,
        help="folder for labels in YOLO format, one file per image or frame",
    )
    group.add_argument("--crops", type=Path, help="folder for a crop of each box")


def take_inputs(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Tell the model from the inputs among the words without option."""
    first, rest = args.run, list(args.inputs)
    if first is not None and not is_model(first):
        if (
            args.config_file is not None
            or find_run(overridden_weights(args.opts) or "") is not None
        ):
            args.run, rest = None, [first, *rest]
        elif not rest or Path(first).exists():
            parser.error(NO_MODEL)
    args.input = [*rest, *args.input]


def default_output(*, anew: bool) -> Path:
    """The first of predictions, predictions_2, ... that is not there yet, or the last that is."""
    numbered = (Path(f"{DEFAULT_OUTPUT}_{i}") for i in itertools.count(2))
    last = DEFAULT_OUTPUT
    for path in itertools.chain([DEFAULT_OUTPUT], numbered):
        if not path.exists():
            return path if anew else last
        last = path
    raise AssertionError("numbers do not end")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(argv)
    take_inputs(parser, args)
    use_run(parser, args)
    if not args.input:
        parser.error("no input: give files, folders, patterns, or a camera's number")
    if not any((args.output, args.json, args.coco_json, args.csv, args.yolo_txt, args.crops)):
        args.output = default_output(anew=not (args.resume or args.overwrite))
        tell(parser, args, f"--output {args.output}")
    files = [path for path in (args.json, args.coco_json, args.csv) if path is not None]
    if len(set(files)) < len(files):
        parser.error(f"two outputs are the same file, {str(files[0])!r}")
    if args.coco_images is not None and args.coco_json is None:
        parser.error("--coco-images belongs to --coco-json")
    if args.resume and args.overwrite:
        parser.error("--resume continues and --overwrite starts again: give one of them")
    for option, value in (
        ("--batch", args.batch_size),
        ("--frames", args.frames),
        ("--stride", args.stride),
        ("--line-width", args.line_width),
        ("--tile", args.tile),
    ):
        if value is not None and value < 1:
            parser.error(f"{option} is {value}, expected at least 1")
    if args.tile is not None and not 0 <= args.tile_overlap < args.tile:
        parser.error(f"--tile-overlap is {args.tile_overlap}, expected 0 to below --tile")
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        parser.error(f"--threshold is {args.threshold}, expected a score from 0 to 1")
    if args.threshold is None:
        args.threshold = DEFAULT_THRESHOLD if args.thresholds is None else 0.0
    return args


def check_inputs(args: argparse.Namespace) -> None:
    check_config(args)
    if args.thresholds is not None:
        require_readable(args.thresholds)
    if args.coco_images is not None:
        require_readable(args.coco_images)
    sources = expand(args.input)
    if args.output is not None and any(source.kind != "image" for source in sources):
        require_pyav("--output with videos")
    if args.track:
        require_trackers()
    check_weights(args)
