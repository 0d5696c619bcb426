r"""Train, resume or evaluate a YOLOR model.

    yolor-d2 train --config-file yolor_p6.yaml --num-gpus 8
    yolor-d2 train --config-file quick/fast_start.yaml \
        --train train.json images/ --val val.json images/ OUTPUT_DIR output/mine
    yolor-d2 train output/mine --resume
    yolor-d2 train --config-file quick/fast_start.yaml --train data.yaml --epochs 50 --batch 8
    yolor-d2 eval output/mine
    yolor-d2 eval --config-file yolor_p6_paper.yaml --weights yolor-p6.pt --val val.json images/

Any key of the configuration can be set anywhere, as KEY VALUE: docs/config.md lists them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..inputs import overridden_weights, require_datasets, require_weights_or_address
from .common import (
    NO_CONFIGURATION,
    NO_MODEL,
    add_dataset,
    add_keys,
    add_overrides,
    add_run,
    check_config,
    new_parser,
    use_run,
)


def build_parser() -> argparse.ArgumentParser:
    """The options of Detectron2's own scripts, and the data sets."""
    parser = new_parser(__doc__)
    parser.trains, parser.folder, parser.batch_key = True, "OUTPUT_DIR", "SOLVER.IMS_PER_BATCH"
    add_run(parser, "folder of a run to resume or to evaluate")
    add_dataset(parser, "train", "COCO annotations and images to train on")
    add_dataset(parser, "val", "COCO annotations and images to evaluate on")
    add_keys(parser, "weights", "epochs", "batch", "size", "device")
    folder = parser.add_mutually_exclusive_group()
    folder.add_argument("--resume", action="store_true", help="resume the run in OUTPUT_DIR")
    folder.add_argument(
        "--overwrite", action="store_true", help="delete the run in OUTPUT_DIR and train again"
    )
    parser.add_argument(
        "--keep-last",
        type=int,
        metavar="N",
        help="number of newest checkpoints to keep (SOLVER.KEEP_LAST); 0 keeps all",
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs of each machine")
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument(
        "--machine-rank", type=int, default=0, help="number of this machine, from 0"
    )
    parser.add_argument(
        "--dist-url",
        default="auto",
        help="rendezvous address, tcp://HOST:PORT of machine 0; auto is a free port of "
        "this machine",
    )
    add_overrides(parser)
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(argv)
    anew = not (args.eval_only or args.resume or args.overwrite)
    given, folder_given = args.run, "OUTPUT_DIR" in args.opts[::2]
    use_run(
        parser,
        args,
        weights=args.eval_only and not args.resume,
        folder=True,
        missing=NO_MODEL if args.eval_only else NO_CONFIGURATION,
    )
    if anew and given is not None and args.run is not None and not folder_given:
        parser.error(
            f"{given!r} is a run: --resume continues it, --overwrite deletes it and trains "
            "anew, OUTPUT_DIR and another folder train anew beside it"
        )
    return args


def check_inputs(args: argparse.Namespace) -> None:
    check_config(args)
    if args.eval_only and (args.overwrite or args.keep_last is not None):
        raise ValueError("--overwrite and --keep-last are for training, but this is an evaluation")
    require_datasets(args.train, args.val)
    weights = overridden_weights(args.opts)
    if weights is not None and not args.resume:  # a run that goes on has its own
        require_weights_or_address(weights)
