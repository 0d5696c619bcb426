r"""Train, resume or evaluate a YOLOR model.

    yolor-d2 train --config-file yolor_p6.yaml --num-gpus 8
    yolor-d2 train --config-file quick/ssss_320_cpu.yaml \
        --train train.json images/ --val val.json images/ OUTPUT_DIR output/mine
    yolor-d2 train --config-file output/mine/config.yaml --resume
    yolor-d2 eval --config-file output/mine/config.yaml \
        MODEL.WEIGHTS output/mine/model_best.pth
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..inputs import overridden_weights, require_coco_files, require_weights_or_address
from .common import COCO_FILES, add_config_file, add_overrides, check_config


def build_parser() -> argparse.ArgumentParser:
    """The options of Detectron2's own scripts, and the data sets."""
    parser = argparse.ArgumentParser(
        epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_file(parser, "path, or name in the model zoo", default="", metavar="FILE")
    folder = parser.add_mutually_exclusive_group()
    folder.add_argument("--resume", action="store_true", help="go on with the run in OUTPUT_DIR")
    folder.add_argument(
        "--overwrite", action="store_true", help="delete the run in OUTPUT_DIR and train anew"
    )
    parser.add_argument(
        "--keep-last",
        type=int,
        metavar="N",
        help="numbered checkpoints to keep, the newest ones (SOLVER.KEEP_LAST); 0 keeps all",
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs of each machine")
    parser.add_argument("--num-machines", type=int, default=1, help="machines that train together")
    parser.add_argument(
        "--machine-rank", type=int, default=0, help="number of this machine, from 0"
    )
    parser.add_argument(
        "--dist-url",
        default="auto",
        help="where processes meet, as tcp://HOST:PORT of the machine 0; auto is a free port of "
        "this machine",
    )
    add_overrides(parser)
    parser.add_argument("--train", **COCO_FILES, help="COCO annotations and images to train on")
    parser.add_argument(
        "--val", "--test", **COCO_FILES, help="COCO annotations and images to evaluate on"
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return build_parser().parse_args(argv)


def check_inputs(args: argparse.Namespace) -> None:
    check_config(args)
    if args.eval_only and (args.overwrite or args.keep_last is not None):
        raise ValueError("--overwrite and --keep-last are for training, but this is an evaluation")
    require_coco_files(args.train, args.val)
    weights = overridden_weights(args.opts)
    if weights is not None and not args.resume:  # a run that goes on has its own
        require_weights_or_address(weights)
