r"""Make weights of other programs readable for Detectron2.

    python tools/convert_weights.py yolor-p6.pt --config-file yolor_p6_paper.yaml --output p6.pth
    python tools/convert_weights.py yolov4-csp.weights --config-file yolov4_csp.yaml \
        --output csp.pth
    python tools/convert_weights.py output/mine/model_best.pth \
        --config-file output/mine/config.yaml --output mine.safetensors

SOURCE is a file of the authors' branches `paper` (yolor-*.pt) or `main` (yolor_*.pt), of YOLOv7's
code, of darknet (*.weights), of this project, or safetensors. Nothing that it says is executed.
Every tensor is accounted for; one that is missing or left over is an error. MODEL.WEIGHTS takes
all these files too.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch

from yolor_d2.checkpoint.convert import convert_file, to_meta_arch
from yolor_d2.checkpoint.files import atomic_write
from yolor_d2.config import load_config
from yolor_d2.modeling.backbone import variant_from_config
from yolor_d2.networks import YOLORNetwork, build_network


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="file of weights")
    parser.add_argument("--config-file", required=True, help="path, or name in the model zoo")
    parser.add_argument("--output", required=True, type=Path, help=".pth or .safetensors")
    parser.add_argument("--report", type=Path, metavar="JSON", help="write every name to this file")
    parser.add_argument(
        "--partial",
        action="store_true",
        help="accept missing tensors (they stay random) and others",
    )
    parser.add_argument(
        "opts",
        nargs="*",
        help="KEY VALUE pairs; MODEL.YOLOR.NUM_CLASSES K keeps all but the class rows of the head",
    )
    args = parser.parse_intermixed_args(argv)
    if args.output.suffix not in (".pth", ".safetensors"):
        parser.error(f"--output is {str(args.output)!r}, expected a name in .pth or .safetensors")
    if args.output.resolve() == args.source.resolve():
        parser.error("--output is SOURCE itself")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    cfg = load_config(args.config_file, [*args.opts, "MODEL.DEVICE", "cpu"])

    def build(num_classes: int) -> YOLORNetwork:
        return build_network(
            variant_from_config(cfg), num_classes, in_channels=len(cfg.MODEL.PIXEL_MEAN)
        )

    asked = "MODEL.YOLOR.NUM_CLASSES" in args.opts
    num_classes = cfg.MODEL.YOLOR.NUM_CLASSES if asked else None  # None: those of the file
    # The report is written also when the file does not fit.
    state, report = convert_file(args.source, build, num_classes=num_classes, partial=True)
    if args.report is not None:
        args.report.write_text(json.dumps(report.to_dict(), indent=1) + "\n")
    if not args.partial:
        report.check()
    state = to_meta_arch(state)
    with atomic_write(args.output) as file:
        if args.output.suffix == ".pth":
            torch.save({"model": state}, file)
        else:
            file.write(safetensors.torch.save(state))
    size = args.output.stat().st_size / 2**20
    num_classes = num_classes or report.num_classes
    print(f"{args.output}: {len(state)} tensors, {num_classes} classes, {size:.0f} MiB")
