"""The command `python -m yolor_d2.toy`."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from .dataset import OBJECTS, write_toy_dataset

logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> None:
    """Write a toy data set from the command line."""
    parser = argparse.ArgumentParser(
        description="Write a generated detection data set in the COCO format."
    )
    parser.add_argument("out", type=Path, help="folder of the data set")
    parser.add_argument("--train", type=int, default=400, help="number of training images")
    parser.add_argument("--val", type=int, default=100, help="number of validation images")
    parser.add_argument("--seed", type=int, default=0, help="equal seeds give equal data sets")
    parser.add_argument(
        "--identities", type=int, default=0, help="individuals that recur, with their instance_id"
    )
    parser.add_argument(
        "--keypoints", action="store_true", help="three keypoints of triangles and crosses"
    )
    parser.add_argument(
        "--objects",
        type=int,
        nargs=2,
        default=OBJECTS,
        metavar=("FEWEST", "MOST"),
        help="objects of an image",
    )
    parser.add_argument("--force", action="store_true", help="overwrite a data set that is there")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    toy = write_toy_dataset(
        options.out,
        num_train=options.train,
        num_val=options.val,
        seed=options.seed,
        identities=options.identities,
        keypoints=options.keypoints,
        objects=tuple(options.objects),
        force=options.force,
    )
    logger.info(
        "%s: %d train and %d val images, classes %s",
        toy.root,
        options.train,
        options.val,
        toy.classes,
    )
