"""Make weights of other programs readable for Detectron2."""

from __future__ import annotations

import argparse
import json
import logging
import sys

import safetensors.torch
import torch

from yolor_d2.checkpoint.conversion.convert import convert_file
from yolor_d2.checkpoint.conversion.parts import to_meta_arch
from yolor_d2.config import load_config
from yolor_d2.files.writing import atomic_write
from yolor_d2.modeling.backbone import variant_from_config
from yolor_d2.networks import YOLORNetwork, build_network
from yolor_d2.wording import counted


def main(args: argparse.Namespace) -> None:
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
    if args.json is not None:
        args.json.write_text(json.dumps(report.to_dict(), indent=1) + "\n")
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
    classes = counted(num_classes, "class", "classes")
    print(f"{args.output}: {counted(len(state), 'tensor')}, {classes}, {size:.0f} MiB")
