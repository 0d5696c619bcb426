"""Write annotations of YOLO's or Pascal VOC's format as a COCO file."""

from __future__ import annotations

import argparse
import json

from yolor_d2.checkpoint.files import atomic_write
from yolor_d2.data.formats import read_labelled
from yolor_d2.data.formats.labels import read_names
from yolor_d2.wording import counted


def main(args: argparse.Namespace) -> None:
    names = read_names(args.names) if args.names is not None else None
    labelled = read_labelled(
        args.source, args.split, names=names, one_based=not args.voc_zero_based
    )
    data = labelled.data
    faults = [f"{x.file}: {x.message}" for x in labelled.faults]
    faults += [
        f"{x['file_name']}: its size cannot be read" for x in data["images"] if "height" not in x
    ]
    if faults and not args.skip:
        more = f" ({len(faults)} such in all)" if len(faults) > 1 else ""
        raise ValueError(f"{faults[0]}{more}; --skip leaves out what cannot be read")
    for fault in faults:
        print(f"left out: {fault}")
    data["images"] = [x for x in data["images"] if "height" in x]
    if not data["images"]:
        raise ValueError(f"{str(args.source)!r} has no images to write")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(args.output) as file:
        file.write(json.dumps(data).encode())
    print(
        f"{counted(len(data['images']), 'image')}, "
        f"{counted(len(data['annotations']), 'box', 'boxes')} and "
        f"{counted(len(data['categories']), 'category', 'categories')} written to {args.output}; "
        "use it as\n"
        f"  --train {args.output} {labelled.image_root}"
    )
