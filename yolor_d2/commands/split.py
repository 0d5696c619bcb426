"""Split a data set into images to train on and images to evaluate with."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from tabulate import tabulate

from yolor_d2.datasets.entries import check_entries
from yolor_d2.datasets.findings import ERROR
from yolor_d2.datasets.formats.convert import read_complete
from yolor_d2.datasets.source import Source, read_coco
from yolor_d2.datasets.split import PARTS, split_coco
from yolor_d2.files.writing import atomic_write


def read_source(args: argparse.Namespace) -> tuple[dict, Path]:
    """Content of a data set in COCO's format, and the folder of its images.

    Raises:
        ValueError: when an entry cannot be meant.
    """
    path = Path(args.source[0])
    if len(args.source) == 1:
        labelled = read_complete(path, "train")
        return labelled.data, labelled.image_root
    source = Source("train", path, Path(args.source[1]), read_coco(path))
    check_entries(source)
    errors = [finding for finding in source.findings if finding.severity == ERROR]
    if errors:
        more = f" ({len(errors)} such findings)" if len(errors) > 1 else ""
        raise ValueError(
            f"{errors[0].describe()}{more}. A cleaned copy: yolor-d2 check --train {path} "
            f"{source.image_root} --fix cleaned.json"
        )
    return source.data, source.image_root


def describe(parts: dict[str, dict]) -> str:
    """A table: images and boxes of each class by part."""
    categories = next(iter(parts.values()))["categories"]
    rows = [["images", *(len(part["images"]) for part in parts.values())]]
    counts = [Counter(x["category_id"] for x in part["annotations"]) for part in parts.values()]
    for category in categories:
        rows.append([f"boxes of {category['name']}", *(x[category["id"]] for x in counts)])
    for row in rows:
        total = sum(row[1:])
        percentages = [f"{count} ({count / total:.0%})" if total else "0" for count in row[1:]]
        row[1:] = percentages
    return tabulate(rows, headers=["", *parts])


def main(args: argparse.Namespace) -> None:
    fractions = dict(zip(PARTS, (1 - args.val - args.test, args.val, args.test)))
    fractions = {name: fraction for name, fraction in fractions.items() if fraction > 0}
    paths = {name: args.output / f"{name}.json" for name in fractions}
    known = [path for path in paths.values() if path.exists()]
    if known and not args.overwrite:
        raise ValueError(
            f"{str(known[0])!r} is there already: choose another --output, or --overwrite"
        )
    data, folder = read_source(args)
    parts = split_coco(
        data, folder, fractions, seed=args.seed, pattern=args.groups, key=args.group_key
    )
    args.output.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        with atomic_write(paths[name]) as file:
            file.write(json.dumps(part).encode())
    print(describe(parts))
    used = [f"--{name} {paths[name]} {folder}" for name in ("train", "val") if name in paths]
    print(f"Train with: yolor-d2 train --config-file quick/fast_start.yaml {' '.join(used)}")
