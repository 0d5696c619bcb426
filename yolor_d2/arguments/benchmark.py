r"""Measure speed on this machine, and the other numbers in the documents.

    yolor-d2 benchmark data --config-file yolor_p6.yaml --train train.json images/
    yolor-d2 benchmark data --config-file yolor_p6.yaml --train train.json images/ \
        --workers 0 4 8 --json output/data.json INPUT.CACHE ram
    yolor-d2 benchmark step --config-file yolor_p6.yaml --size 640 --batch 4
    yolor-d2 benchmark model --config-file yolor_p6.yaml --size 640 --batch 1 8 \
        --variants plain fused fused+channels_last fused+compile
    yolor-d2 benchmark predict output/mine --input photos/
    yolor-d2 benchmark nms
    yolor-d2 benchmark evaluation output/mine --val test.json images/
    yolor-d2 benchmark evaluation --generated 5000
    yolor-d2 benchmark export output/mine --onnx model.onnx
    yolor-d2 benchmark border output/mine --val test.json images/
    yolor-d2 benchmark start --polygons
    yolor-d2 benchmark cluster --file-latency 2
    yolor-d2 benchmark gpu --output output/gpu
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path

from ..inputs import require_datasets, require_file, require_readable
from .common import (
    add_config_file,
    add_dataset,
    add_overrides,
    add_run,
    check_config,
    check_weights,
    new_parser,
    use_run,
)

# What a word of --variants sets.
VARIANT_KEYS = {
    "plain": [],
    "fused": ["MODEL.INFERENCE.FUSE", True],
    "channels_last": ["MODEL.INFERENCE.CHANNELS_LAST", True],
    "compile": ["MODEL.INFERENCE.COMPILE", True],
    "bfloat16": ["MODEL.INFERENCE.DTYPE", "bfloat16"],
    "float16": ["MODEL.INFERENCE.DTYPE", "float16"],
}
# Names of `yolor_d2.benchmark.gpu.PARTS`.
GPU_PARTS = (
    *("golden", "training", "inference", "step"),
    *("suppression", "pipeline", "processes", "tests"),
)


def add_timing(parser: argparse.ArgumentParser, *, rounds: int) -> None:
    """What the measurements of inference have in common."""
    parser.add_argument("--rounds", type=int, default=rounds, help="timed rounds")
    parser.add_argument("--threads", type=int, default=1, help="threads on the CPU")


def add_border(parser: argparse.ArgumentParser) -> None:
    """Recall of objects by their distance to the border of the image, with and without a margin.

    Squares are cut out of the images of a data set with one object at a given distance in pixels
    from one side, centred along the other axis as far as the image allows; all distances from a
    side have the same objects. An object counts as detected if a detection of its class has an IoU
    of at least 0.5 with it. Images are cut, not scaled: the side of the square is that of the
    network's input. Both paddings see the same squares.
    """
    add_run(parser)
    add_dataset(parser, "val", "COCO annotations and images")
    parser.add_argument("--size", type=int, default=96, help="side of the squares in pixels")
    parser.add_argument(
        "--distances", type=int, nargs="+", default=[0, 2, 4, 8, 16, 24], help="in pixels"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.25, help="minimum score of a detection"
    )
    parser.add_argument("--picture", type=Path, help="file for a plot of recall over distance")
    parser.add_argument("--threads", type=int, default=1, help="threads on the CPU")


def add_data(parser: argparse.ArgumentParser) -> None:
    """Training images per second from the loader, without a model.

    The loader is that of training: decoding, augmentation, batches, worker processes. CPU time
    is that of this process and its workers; each number is the median of several rounds.
    """
    add_run(parser, "folder of a run: its configuration")
    add_dataset(parser, "train", "COCO annotations and images")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="one row each")
    parser.add_argument(
        "--count", dest="images", type=int, default=200, help="minimum number of images in a round"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="NAME[+NAME]",
        help="samples with the ground truth of these tasks, such as masks or masks+keypoints, in "
        "turn with samples without, in place of the loader",
    )


def add_evaluation(parser: argparse.ArgumentParser) -> None:
    """Images per second of an evaluation in COCO's metrics, and where its time goes.

    The steps are those of `yolor-d2 eval`: loader, model as set by MODEL.INFERENCE,
    evaluator, metrics. Images are read in this process, so that their CPU time is known.
    --generated measures evaluator and report alone, beside pycocotools and Detectron2's evaluator.
    """
    add_run(parser)
    parser.add_argument(
        "--generated",
        type=int,
        metavar="IMAGES",
        help="no model: COCO's metrics and report for this many generated images",
    )
    parser.add_argument("--detections", type=int, default=100, help="in each generated image (100)")
    add_dataset(parser, "val", "COCO annotations and images")
    add_timing(parser, rounds=1)


def add_export(parser: argparse.ArgumentParser) -> None:
    """Time of an exported ONNX file in onnxruntime beside that of the model itself.

    The file is one of yolor-d2 export, for the same configuration. Both get the same
    images of noise, 0-255, and compute what the file computes: decoded rows, or detections where
    the file includes NMS. Eager means the model as set by MODEL.INFERENCE.
    """
    add_run(parser)
    parser.add_argument("--onnx", type=Path, required=True, help="the exported file")
    parser.add_argument(
        "--size", type=int, help="side of the images in pixels; default: from the configuration"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="images at once")
    add_timing(parser, rounds=5)


def add_gpu(parser: argparse.ArgumentParser) -> None:
    """Check and measure everything that needs a GPU, part by part.

    The parts have eight minutes in all: none begins a measurement after its time limit, and each
    lists what it had no time for. A part that fails is recorded, and the next one runs. Under
    --output each part leaves a JSON file before the next one begins, and table.md has all
    tables, as in docs/benchmarks.md. The exit status is 1 if a part has failed.
    --dry-run does the same on a CPU with small sizes: its numbers mean nothing.
    """
    parser.add_argument(
        "--output", type=Path, default=Path("output/gpu"), help="folder for all results"
    )
    parser.add_argument(
        "--golden",
        type=Path,
        help="folder of the golden records; default: that of the checkout",
    )
    parser.add_argument(
        "--parts", nargs="+", metavar="NAME", help=f"some of {', '.join(GPU_PARTS)}; default: all"
    )
    parser.add_argument("--dry-run", action="store_true", help="small sizes on the CPU")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Time of the network on random images: fused or not, by type, memory layout and batch.

    From normalised pixels to logits; `predict` measures the steps before and after. Variants
    are words joined by "+": "plain" as it was trained, "fused", "channels_last", "compile", and
    "bfloat16" or "float16". The others are compared with the first one. Floating-point
    operations are those of the convolutions, two for each multiplication with its addition. The
    matrix peak is what this machine reaches in a large product of square matrices of the same
    type, timed in the same rounds with the same threads.
    """
    add_run(parser)
    parser.add_argument(
        "--size", type=int, help="side of the images in pixels; default: from the configuration"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="images at once")
    parser.add_argument(
        "--variants",
        nargs="+",
        default=["plain", "fused", "fused+channels_last"],
        help="words joined by +: " + ", ".join(VARIANT_KEYS),
    )
    add_timing(parser, rounds=5)


def add_nms(parser: argparse.ArgumentParser) -> None:
    """Time of NMS on generated rows, beside torchvision's on the best 30,000 candidates.

    Two cases. "trained": few rows have high scores, in few classes, as from a trained
    network. "all": every row passes the threshold with one class, the largest possible number. By
    default the rows are those of YOLOR-P6 at 1280 px for COCO; timing begins with decoded
    rows.
    """
    parser.add_argument("--rows", type=int, default=102_000, help="anchors of an image")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--threshold", dest="score_threshold", type=float, default=0.001)
    parser.add_argument("--iou", dest="iou_threshold", type=float, default=0.65)
    parser.add_argument("--device", default="cpu")
    add_timing(parser, rounds=15)


def add_predict(parser: argparse.ArgumentParser) -> None:
    """Time from image files to boxes, by stage, and files per second beside `DefaultPredictor`.

    The stages are those of `BatchPredictor`, one image after the other in one thread. Then all
    files go through `BatchPredictor`, whose threads read ahead, and in turn through a loop that
    reads a file and calls Detectron2's `DefaultPredictor`, which computes the plain model.
    Without MODEL.WEIGHTS the weights are random, and NMS has next to nothing to do,
    see `nms`.
    """
    add_run(parser)
    parser.add_argument(
        "--input", dest="images", type=Path, help="folder of image files; default: generated"
    )
    parser.add_argument("--count", type=int, default=64, help="maximum number of files")
    parser.add_argument("--batch", type=int, default=8, help="batch size of BatchPredictor")
    parser.add_argument("--workers", type=int, default=2, help="threads that read files")
    parser.add_argument(
        "--stages-only", action="store_true", help="leave out the loop over DefaultPredictor"
    )
    add_timing(parser, rounds=3)


def add_step(parser: argparse.ArgumentParser) -> None:
    """Time and memory of training steps on random images.

    A step is forward, loss, backward, optimiser and moving average. Assignment and loss are
    also timed alone, without their part of the backward pass. Memory is the largest that the
    whole process had: weights, gradients, optimiser, average and Python itself; on a GPU, what
    torch had allocated there.
    """
    add_run(parser)
    parser.add_argument(
        "--size", type=int, help="side of the images in pixels; default: from the configuration"
    )
    parser.add_argument("--batch", type=int, default=4, help="images per step")
    parser.add_argument("--boxes", type=int, default=8, help="boxes per image")
    parser.add_argument("--steps", type=int, default=3, help="timed steps")
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="NAME[+NAME]",
        help="steps with these tasks, such as masks or masks+keypoints, in turn with steps of "
        "detection alone",
    )
    parser.add_argument("--threads", type=int, default=1, help="threads on the CPU")


def add_start(parser: argparse.ArgumentParser) -> None:
    """From the command to the first iteration on a set of COCO's size, beside plain Detectron2.

    The data set is generated: sizes and numbers as in COCO's train2017, its images a few files
    under many names. Each row is a process of its own that makes one iteration of a small model
    on the CPU: `train_net.py`, the same with `--resume`, and Detectron2's own trainer with its
    own loader. CPU time and peak memory are those that the system counted for the process.
    """
    parser.add_argument(
        "--count", dest="images", type=int, default=118_287, help="images; default: as in train2017"
    )
    parser.add_argument("--boxes", type=int, default=860_588)
    parser.add_argument("--polygons", action="store_true", help="annotations have polygons")
    parser.add_argument(
        "--folder", type=Path, help="folder to keep the data set in and reuse it from"
    )
    parser.add_argument("--rounds", type=int, default=1)


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """A simulated cluster: what 8, 64 and 512 processes cost, from what a few cost here.

    Measured are the start of the data (of the first process of a machine, of its others, of
    process 0) on a file system each question to which takes --file-latency, how processes meet,
    vote and add up gradients through gloo, and a checkpoint. The table follows from that with
    8 processes a machine: votes grow with the rounds that they take, gradients go round a ring.
    """
    add_config_file(parser, default="yolor_p6.yaml")
    parser.add_argument(
        "--count", dest="images", type=int, default=118_287, help="images; default: as in train2017"
    )
    parser.add_argument("--boxes", type=int, default=860_588)
    parser.add_argument(
        "--folder", type=Path, help="folder to keep the data set in and reuse it from"
    )
    parser.add_argument("--file-latency", type=float, default=1.0, help="ms (1)")
    parser.add_argument("--network-latency", type=float, default=0.02, help="ms (0.02)")
    parser.add_argument("--bandwidth", type=float, default=25.0, help="GB/s of a machine (25)")


# Each adds the options of a measurement, a module of `yolor_d2.benchmark`; its docstring is the
# help.
MEASUREMENTS = {
    "border": add_border,
    "cluster": add_cluster,
    "data": add_data,
    "evaluation": add_evaluation,
    "export": add_export,
    "gpu": add_gpu,
    "model": add_model,
    "nms": add_nms,
    "predict": add_predict,
    "start": add_start,
    "step": add_step,
}

WITHOUT_WEIGHTS = ("cluster", "data", "step", "start", "nms", "gpu")


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    parser.measurements = commands.choices
    for name, add_arguments in MEASUREMENTS.items():
        text = inspect.cleandoc(add_arguments.__doc__ or "")
        command = commands.add_parser(name, help=text.splitlines()[0], description=text)
        command.trains = name in ("data", "step", "start")
        add_arguments(command)
        command.add_argument("--json", type=Path, help="also write the report to this file")
        add_overrides(command)
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    words = list(map(str, sys.argv[1:] if argv is None else argv))
    parser = build_parser()
    choices = parser.measurements
    if not words or words[0] not in choices:
        return parser.parse_args(words[:1])  # help, or what is wrong
    command = choices[words[0]]
    args = command.parse_args(words[1:])
    args.command = words[0]
    if hasattr(args, "run"):
        generated = getattr(args, "generated", None) is not None
        if generated and (args.run is not None or args.config_file is not None):
            command.error("--generated needs no model")
        if not generated:
            use_run(command, args, weights=args.command not in WITHOUT_WEIGHTS)
    return args


def check_inputs(args: argparse.Namespace) -> None:
    if getattr(args, "config_file", None) is not None:
        check_config(args)
    require_datasets(getattr(args, "train", None), getattr(args, "val", None))
    if args.command not in WITHOUT_WEIGHTS:
        check_weights(args)
    if args.command == "export":
        require_file("--onnx", args.onnx)
    if args.command == "predict" and args.images is not None:
        require_readable(args.images)
