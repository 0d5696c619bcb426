"""Draw the curves of a run, and its detections beside the ground truth."""

from __future__ import annotations

import argparse
from pathlib import Path

from yolor_d2.config import load_run_config
from yolor_d2.d2.data import MetadataCatalog
from yolor_d2.datasets.catalog import register_datasets
from yolor_d2.visualize.curves import plot_curves
from yolor_d2.visualize.results import draw_results
from yolor_d2.wording import counted


def main(args: argparse.Namespace) -> None:
    cfg = load_run_config(args.run)
    register_datasets(cfg)
    pictures = args.run / "pictures"
    plot_curves(args.run / "metrics.json", pictures / "curves.png")
    print(f"curves:     {pictures / 'curves.png'}")
    results = args.run / "inference" / "coco_instances_results.json"
    if not cfg.DATASETS.TEST or not results.is_file():
        print("detections: none, as nothing was evaluated")
        return
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    drawn = draw_results(
        Path(metadata.json_file),
        Path(metadata.image_root),
        results,
        pictures / "detections",
        count=args.count,
        score_threshold=args.threshold,
    )
    print(f"detections: {pictures / 'detections'} ({counted(len(drawn), 'picture')})")
