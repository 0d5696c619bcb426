r"""Write a model to a file that other runtimes read, and prove that it gives the same boxes.

    python tools/export_model.py --config-file output/mine/config.yaml --output mine.onnx \
        --images photos/ MODEL.WEIGHTS output/mine/model_best.pth

The format is that of the name: .onnx, .torchscript or .pt2, or what --format says. The finished
file is run by its own runtime (onnxruntime, LibTorch, torch.export) on noise of several shapes and
on images, and compared with the model; a file that differs is deleted, and the exit status is 1.
What was compared lies beside the file, in mine.onnx.json.
"""

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
from yolor_d2.data.image import read_image
from yolor_d2.data.loader import load_test_items, register_datasets
from yolor_d2.data.resize import build_test_resize, resize_for_test
from yolor_d2.data.toy import make_scene
from yolor_d2.export import FORMATS, export_model
from yolor_d2.export.verify import Batch
from yolor_d2.predictor import load_model

from .demo import IMAGE_SUFFIXES, split_overrides

# Noise to compare on: images, and sides beyond the least in multiples of the greatest stride.
SHAPES = ((1, 0, 0), (1, 2, 1), (3, 1, 3))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="path, or name in the model zoo")
    parser.add_argument("--output", required=True, type=Path, help="the file")
    parser.add_argument("--format", choices=list(FORMATS), help="default: that of the name")
    parser.add_argument(
        "--no-nms", action="store_true", help="leave suppression to the user of the file"
    )
    parser.add_argument(
        "--images",
        nargs="+",
        type=Path,
        default=[],
        help="files or folders to compare on; default: the test set of the config, or drawn scenes",
    )
    parser.add_argument("--count", type=int, default=4, help="at most so many of the images")
    parser.add_argument("opts", nargs="*", help="KEY VALUE pairs")
    args = parser.parse_intermixed_args(argv)
    args.images, opts = split_overrides(args.images)
    args.opts = [*opts, *args.opts]
    if args.count < 1:
        parser.error(f"--count is {args.count}, expected at least 1")
    if args.format is None:
        known = {kind.SUFFIX: name for name, kind in FORMATS.items()}
        args.format = known.get(args.output.suffix)
        if args.format is None:
            parser.error(
                f"--output is {str(args.output)!r}, expected a name in {', '.join(known)}, or "
                "--format"
            )
    return args


def find_images(sources: Sequence[Path]) -> list[Path]:
    """Image files among files and in folders, in the order of their names.

    Raises:
        FileNotFoundError: when a source does not exist, or there is no image.
    """
    found: list[Path] = []
    for source in sources:
        if not source.exists():
            raise FileNotFoundError(f"--images: no such file or folder {str(source)!r}")
        files = sorted(source.rglob("*")) if source.is_dir() else [source]
        found += [x for x in files if source.is_file() or x.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        raise FileNotFoundError(f"--images: no image in {', '.join(map(str, sources))}")
    return found


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


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
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
