"""Write a model to a file that other runtimes read, and prove that it gives the same boxes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from yolor_d2.checkpoint.files import atomic_write, require_writable
from yolor_d2.config import load_config
from yolor_d2.d2.config import CfgNode
from yolor_d2.d2.data import MetadataCatalog
from yolor_d2.d2.utils import setup_logger
from yolor_d2.data.catalog import load_test_items, register_datasets
from yolor_d2.data.image import read_image
from yolor_d2.data.resize import build_test_resize, resize_for_test
from yolor_d2.data.toy import make_scene
from yolor_d2.export import FORMATS, export_model
from yolor_d2.export.verify import Batch
from yolor_d2.inputs import find_images
from yolor_d2.predictor import load_model

# Noise to compare on: images, and sides beyond the least in multiples of the greatest stride.
SHAPES = ((1, 0, 0), (1, 2, 1), (3, 1, 3))


def images_to_compare(cfg: CfgNode, sources: Sequence[Path], count: int) -> list[Batch]:
    """Real images where there are any, at the test size of the config."""
    channels = len(cfg.MODEL.PIXEL_MEAN)

    def read(path: str) -> tuple[str, np.ndarray]:
        return path, read_image(path, cfg.INPUT.FORMAT, channels)

    if sources:
        files = [read(str(x)) for x in find_images(sources)[:count]]
    elif cfg.DATASETS.TEST and Path(MetadataCatalog.get(cfg.DATASETS.TEST[0]).json_file).is_file():
        files = [read(x["file_name"]) for x in load_test_items(cfg.DATASETS.TEST[0])[:count]]
    elif channels == 3:
        rng = np.random.default_rng(0)
        scenes = [make_scene(rng, (480, 640), num_objects=12)[0] for _ in range(count)]
        order = slice(None, None, -1 if cfg.INPUT.FORMAT == "RGB" else 1)
        files = [(f"drawn scene {i}", x[:, :, order]) for i, x in enumerate(scenes)]
    else:
        files = []  # nothing but noise has any number of channels
    resize = build_test_resize(cfg)
    batches = []
    for name, image in files:
        image = resize_for_test(resize, image)
        batches.append(Batch(name, [torch.from_numpy(image.transpose(2, 0, 1).copy())]))
    return batches


def main(args: argparse.Namespace) -> None:
    setup_logger(name="yolor_d2")
    # The proof needs one device and full precision.
    cfg = load_config(args.config_file, [*args.opts, "MODEL.DEVICE", "cpu"])
    register_datasets(cfg)
    require_writable(args.output)
    model = load_model(cfg)
    side, channels = model.stride, len(cfg.MODEL.PIXEL_MEAN)
    generator = torch.Generator().manual_seed(0)
    least = FORMATS[args.format].LEAST_CELLS
    shapes = [(n, channels, (least + h) * side, (least + w) * side) for n, h, w in SHAPES]
    batches = [Batch("noise", 255 * torch.rand(shape, generator=generator)) for shape in shapes]
    batches += images_to_compare(cfg, args.images, args.count)
    report = export_model(
        cfg,
        model,
        args.output,
        file_format=args.format,
        suppress=not args.no_nms,
        batches=batches,
    )
    report = {"config_file": str(args.config_file), "weights": cfg.MODEL.WEIGHTS, **report}
    with atomic_write(args.output.with_name(args.output.name + ".json")) as file:
        file.write((json.dumps(report, indent=1) + "\n").encode())
    checks = report["checks"]
    box, score = (
        max(check[key] for check in checks)
        for key in ("largest_box_difference", "largest_score_difference")
    )
    what = "rows" if args.no_nms else "detections"
    print(
        f"{args.output}: {report['bytes'] / 2**20:.1f} MiB, {sum(x[what] for x in checks)} {what} "
        f"of {sum(x['shape'][0] for x in checks)} images in {len(checks)} batches are those of the "
        f"model: boxes within {box:.2g} px, scores within {score:.2g}"
    )
