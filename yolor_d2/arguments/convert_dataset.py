"""Convert annotations in YOLO or Pascal VOC format to COCO JSON.

    yolor-d2 convert-data data.yaml --split train --output train.json
    yolor-d2 convert-data VOC2012/ --split val --output val.json

It prints the folder to which the image names are relative, and the command to train on the file.
Lines that cannot be read are an error unless --skip leaves them out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..inputs import require_path, require_readable
from .common import new_parser


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.add_argument("source", type=Path, help="data.yaml, YOLO folder, or VOC folder")
    parser.add_argument("--split", default="train", help="train, val or test; default: %(default)s")
    parser.add_argument("--output", type=Path, required=True, help="COCO file to write")
    parser.add_argument("--names", type=Path, help="file with the class names, one per line")
    parser.add_argument("--skip", action="store_true", help="leave out lines that cannot be read")
    parser.add_argument(
        "--voc-zero-based", action="store_true", help="VOC pixel coordinates start at 0"
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return build_parser().parse_args(argv)


def check_inputs(args: argparse.Namespace) -> None:
    if args.names is not None:
        require_readable(args.names)
    require_path(args.source)
