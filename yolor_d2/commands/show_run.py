"""Draw the curves of a run, and its detections beside the ground truth.

    python tools/show_run.py output/mine

Writes pictures/curves.png and pictures/detections/*.png into the run's folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from yolor_d2.config import load_run_config
from yolor_d2.d2.data import MetadataCatalog
from yolor_d2.data.loader import register_datasets
from yolor_d2.visualize import draw_results, plot_curves


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="OUTPUT_DIR of the run")
    parser.add_argument("--count", type=int, default=12, help="pictures of detections")
    parser.add_argument("--threshold", type=float, default=0.3, help="least score that is drawn")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
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
    print(f"detections: {pictures / 'detections'} ({len(drawn)} pictures)")
