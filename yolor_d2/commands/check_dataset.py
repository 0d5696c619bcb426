"""Find out what is wrong with a data set, before training does.

    python tools/check_dataset.py --train train.json images/ --val val.json images/
    python tools/check_dataset.py --train data.yaml --val data.yaml
    python tools/check_dataset.py --train VOC2012/ --json found.json --pictures found/
    python tools/check_dataset.py --train train.json images/ --fix cleaned.json

A data set is a COCO file and the folder of its images, a data.yaml or folder of YOLO's, or a folder
of Pascal VOC's. Without --train and --val those of the configuration are checked. --fix writes a
cleaned copy of the annotations to train on (of --val where that is given alone), and beside it the
list of what was changed; the source is never touched.

Exit status: 0 if there are no errors, 1 if there are some, or a warning with --strict; 2 if the
command line makes no sense.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from yolor_d2.checkpoint.files import atomic_write, require_writable
from yolor_d2.config import load_config
from yolor_d2.d2.config import CfgNode
from yolor_d2.data.check import Source, check_sources
from yolor_d2.data.check.boxes import InputSettings
from yolor_d2.data.check.doctor import EXAMPLES
from yolor_d2.data.check.findings import count_severities
from yolor_d2.data.check.pictures import draw_findings
from yolor_d2.data.check.repair import changes_path, check_target, write_repaired
from yolor_d2.data.check.source import read_coco
from yolor_d2.data.formats import read_labelled
from yolor_d2.data.loader import register_datasets, registered_files
from yolor_d2.data.settings import training_size
from yolor_d2.modeling.backbone import variant_from_config
from yolor_d2.networks.network import build_backbone

DATA = {"nargs": "+", "metavar": ("PATH", "FOLDER")}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", **DATA, help="data set to train on")
    parser.add_argument("--val", "--test", **DATA, help="data set to evaluate on")
    parser.add_argument(
        "--config-file", default="yolor_p6.yaml", help="of size and anchors; path, or model zoo"
    )
    parser.add_argument("--json", type=Path, help="file for every finding")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the offenders")
    parser.add_argument("--num-pictures", type=int, default=100, help="at most, of each data set")
    parser.add_argument("--fix", type=Path, metavar="OUT.json", help="file for a cleaned copy")
    parser.add_argument("--strict", action="store_true", help="warnings count as errors")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes; default: %(default)s"
    )
    parser.add_argument("--no-images", action="store_true", help="look at annotations alone")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="findings shown of a kind")
    parser.add_argument("--voc-zero-based", action="store_true", help="VOC corners count from 0")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("opts", nargs="*", help="KEY VALUE pairs of the configuration")
    args = parser.parse_args(argv)
    for name in ("train", "val"):
        given = getattr(args, name)
        if given and len(given) > 2:  # overrides behind it
            setattr(args, name, given[:2])
            args.opts = [*given[2:], *args.opts]
    if args.workers < 1:
        parser.error(f"--workers is {args.workers}, expected at least 1")
    return args


def open_source(name: str, paths: Sequence[str], one_based: bool) -> Source:
    """A data set by one path of YOLO's or VOC's format, or two of COCO's.

    Raises:
        ValueError, OSError: when it cannot be read at all.
    """
    path = Path(paths[0])
    if len(paths) == 2:
        if not Path(paths[1]).is_dir():
            raise FileNotFoundError(f"--{name}: no folder {paths[1]!r}")
        if not path.exists():
            raise FileNotFoundError(f"--{name}: no annotation file {paths[0]!r}")
        return Source(name, path, Path(paths[1]), read_coco(path))
    if path.suffix.lower() == ".json":
        raise ValueError(f"--{name} {paths[0]!r}: a COCO file needs the folder of its images too")
    labelled = read_labelled(path, name, one_based=one_based)
    source = Source(name, path, labelled.image_root, labelled.data)
    for fault in labelled.faults:
        source.report(fault.kind, fault.message, file=fault.file)
    return source


def open_sources(args: argparse.Namespace, cfg: CfgNode) -> list[Source]:
    """The data sets of the command line, else those of the configuration."""
    given = [(name, getattr(args, name)) for name in ("train", "val")]
    if not any(paths for _, paths in given):
        register_datasets(cfg)
        known = [
            (split, name, registered_files(name))
            for split, names in (("train", cfg.DATASETS.TRAIN), ("val", cfg.DATASETS.TEST))
            for name in names
        ]
        missing = [name for _, name, files in known if files is None or None in files]
        if missing or not known:
            raise ValueError(
                f"no data set: give --train or --val, or a configuration that has some (no COCO "
                f"files are known of {missing})"
            )
        several = len(cfg.DATASETS.TRAIN) > 1 or len(cfg.DATASETS.TEST) > 1
        given = [(f"{split}:{name}" if several else split, files) for split, name, files in known]
    one_based = not args.voc_zero_based
    return [open_source(name, paths, one_based) for name, paths in given if paths]


def input_settings(cfg: CfgNode) -> InputSettings:
    """What a configuration says about the boxes that it can learn."""
    variant = variant_from_config(cfg)
    with torch.device("meta"):  # strides alone
        strides = build_backbone(variant, 3).strides
    return InputSettings(
        size=training_size(cfg),
        anchors=torch.tensor(variant.anchors),
        strides=list(strides),
        max_ratio=cfg.MODEL.YOLOR.ASSIGN_MAX_RATIO,
    )


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    cfg = load_config(args.config_file, [*args.opts, "MODEL.DEVICE", "cpu"])
    sources = open_sources(args, cfg)
    if args.fix is not None:
        check_target(args.fix, sources)
    for path in (args.json, args.fix):
        if path is not None:
            require_writable(path)
    channels = len(cfg.MODEL.PIXEL_MEAN)
    report = check_sources(
        sources,
        settings=input_settings(cfg),
        channels=channels,
        workers=args.workers,
        read_images=not args.no_images,
        progress=not args.quiet,
    )
    # A name in a file may be no text that a terminal can show.
    print(report.as_text(args.examples).encode("utf-8", "backslashreplace").decode())
    if args.json is not None:
        with atomic_write(args.json) as file:
            file.write(json.dumps(report.as_record(), indent=1, default=str).encode())
    if args.pictures is not None:
        paths = draw_findings(sources, args.pictures, count=args.num_pictures, channels=channels)
        print(f"{len(paths)} pictures in {args.pictures}")
    if args.fix is not None:
        changes = write_repaired(sources[0], args.fix)
        print(f"{len(changes)} changes, listed in {changes_path(args.fix)}; cleaned: {args.fix}")
    counts = count_severities(report.findings)
    return int(counts["error"] > 0 or (args.strict and counts["warning"] > 0))
