"""Write annotations of YOLO's or Pascal VOC's format as a COCO file."""

from __future__ import annotations

import argparse

from yolor_d2.d2.utils import setup_logger
from yolor_d2.datasets.formats import convert_to_coco
from yolor_d2.datasets.formats.labels import read_names
from yolor_d2.wording import counted


def main(args: argparse.Namespace) -> None:
    setup_logger(name="yolor_d2")
    labelled = convert_to_coco(
        args.source,
        args.split,
        args.output,
        names=read_names(args.names) if args.names is not None else None,
        one_based=not args.voc_zero_based,
        skip=args.skip,
    )
    data = labelled.data
    option = "train" if args.split.startswith("train") else "val"
    objects = data["annotations"]
    more = {
        "outline": sum("segmentation" in x for x in objects),
        "keypoint": sum(x.get("num_keypoints", 0) for x in objects),
    }
    parts = [counted(len(data["images"]), "image"), counted(len(objects), "box", "boxes")]
    parts += [counted(count, name) for name, count in more.items() if count]
    print(
        f"{', '.join(parts)} and "
        f"{counted(len(data['categories']), 'category', 'categories')} written to {args.output}; "
        "use it as\n"
        f"  --{option} {args.output} {labelled.image_root}"
    )
