"""Find out what is wrong with a data set, before training does."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from yolor_d2.config import load_config
from yolor_d2.d2.config import CfgNode
from yolor_d2.data.settings import training_size
from yolor_d2.datasets.catalog import register_datasets, registered_files
from yolor_d2.datasets.findings import count_severities
from yolor_d2.datasets.formats import has_split, read_labelled
from yolor_d2.datasets.source import read_coco
from yolor_d2.doctor import Source, check_sources
from yolor_d2.doctor.boxes import InputSettings
from yolor_d2.doctor.pictures import draw_findings
from yolor_d2.doctor.repair import changes_path, check_target, write_repaired
from yolor_d2.files.writing import atomic_write, require_writable
from yolor_d2.inputs import require_source
from yolor_d2.modeling.backbone import variant_from_config
from yolor_d2.networks.network import build_backbone
from yolor_d2.tasks import ground_truth_needed
from yolor_d2.wording import counted


def open_source(name: str, paths: Sequence[str], one_based: bool) -> Source:
    """A data set by one path of YOLO's or VOC's format, or two of COCO's.

    Raises:
        ValueError, OSError: when it cannot be read at all.
    """
    require_source(name, paths)
    path = Path(paths[0])
    if len(paths) == 2:
        source = Source(name, path, Path(paths[1]), read_coco(path))
        source.report_encoding()
        return source
    labelled = read_labelled(path, name, one_based=one_based)
    source = Source(name, path, labelled.image_root, labelled.data)
    for fault in labelled.faults:
        source.report(fault.kind, fault.message, file=fault.file)
    return source


def open_sources(args: argparse.Namespace, cfg: CfgNode) -> list[Source]:
    """The data sets of the command line, else those of the configuration."""
    if args.train and not args.val and len(args.train) == 1:
        require_source("train", args.train)
        if has_split(Path(args.train[0]), "val"):  # what training evaluates on then
            args.val = args.train
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
    """Which boxes a configuration can learn."""
    variant = variant_from_config(cfg)
    with torch.device("meta"):  # strides alone
        strides = build_backbone(variant, 3).strides
    return InputSettings(
        size=training_size(cfg),
        anchors=torch.tensor(variant.anchors),
        strides=list(strides),
        max_ratio=cfg.MODEL.YOLOR.ASSIGN_MAX_RATIO,
    )


def main(args: argparse.Namespace) -> int:
    cfg = load_config(args.config_file, [*args.opts, "MODEL.DEVICE", "cpu"])
    sources = open_sources(args, cfg)
    for source in sources:
        source.needed = frozenset(ground_truth_needed(cfg))
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
        paths = draw_findings(sources, args.pictures, count=args.count, channels=channels)
        print(f"{counted(len(paths), 'picture')} in {args.pictures}")
    if args.fix is not None:
        changes = write_repaired(sources[0], args.fix)
        changed = counted(len(changes), "change")
        print(f"{changed}, listed in {changes_path(args.fix)}; cleaned: {args.fix}")
    counts = count_severities(report.findings)
    return int(counts["error"] > 0 or (args.strict and counts["warning"] > 0))
