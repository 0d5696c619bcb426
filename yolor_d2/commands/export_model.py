"""Write a model to a file that other runtimes read, and prove that it gives the same."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

from yolor_d2.arguments.predict import DEFAULT_THRESHOLD
from yolor_d2.config import load_config
from yolor_d2.d2.config import CfgNode
from yolor_d2.d2.data import MetadataCatalog
from yolor_d2.d2.utils import setup_logger
from yolor_d2.data.resize import ResizeForTest, build_test_resize, resize_for_test
from yolor_d2.datasets.catalog import load_test_items, register_datasets
from yolor_d2.export import DIFFERENCES, FORMATS, export_model
from yolor_d2.export.graph import FileOptions
from yolor_d2.export.metadata import largest_image
from yolor_d2.export.runtimes import require_installed
from yolor_d2.export.verify import Batch
from yolor_d2.files.images import read_image
from yolor_d2.files.writing import atomic_write, require_writable
from yolor_d2.inputs import find_images
from yolor_d2.modeling import YOLOR
from yolor_d2.predictor import load_model
from yolor_d2.toy import make_scene

# Noise to compare on: images, and sides beyond the least in multiples of the greatest stride.
SHAPES = ((1, 0, 0), (1, 2, 1), (3, 1, 3))


def set_score_threshold(cfg: CfgNode, wanted: float | None, opts: Sequence[str]) -> None:
    """Write --threshold into the configuration; thresholds by class hold all the same.

    Files are for use, so the default is that of `yolor-d2 predict`, and not the configuration's,
    which is for evaluation; one that is given on the command line counts.
    """
    settings = cfg.MODEL.YOLOR
    if wanted is None and (
        settings.CLASS_SCORE_THRESHOLDS or "MODEL.YOLOR.SCORE_THRESHOLD" in opts[::2]
    ):
        return
    least = max(DEFAULT_THRESHOLD, settings.SCORE_THRESHOLD) if wanted is None else wanted
    settings.SCORE_THRESHOLD = least
    settings.CLASS_SCORE_THRESHOLDS = [max(x, least) for x in settings.CLASS_SCORE_THRESHOLDS]


def read_images(cfg: CfgNode, sources: Sequence[Path], count: int) -> list[tuple[str, np.ndarray]]:
    """Real images with their names where there are any, (H, W, C) each."""
    channels = len(cfg.MODEL.PIXEL_MEAN)

    def read(path: str) -> tuple[str, np.ndarray]:
        return path, read_image(path, cfg.INPUT.FORMAT, channels)

    if sources:
        return [read(str(x)) for x in find_images(sources)[:count]]
    if cfg.DATASETS.TEST and Path(MetadataCatalog.get(cfg.DATASETS.TEST[0]).json_file).is_file():
        return [read(x["file_name"]) for x in load_test_items(cfg.DATASETS.TEST[0])[:count]]
    if channels != 3:
        return []  # nothing but noise has any number of channels
    rng = np.random.default_rng(0)
    scenes = [make_scene(rng, (480, 640), num_objects=12)[0] for _ in range(count)]
    order = slice(None, None, -1 if cfg.INPUT.FORMAT == "RGB" else 1)
    return [(f"drawn scene {i}", x[:, :, order]) for i, x in enumerate(scenes)]


def images_to_compare(
    cfg: CfgNode, model: YOLOR, sources: Sequence[Path], count: int, canvas: tuple[int, int] | None
) -> list[Batch]:
    """Images at the test size of the config, or as large as a fixed canvas lets them be."""
    resize = build_test_resize(cfg)
    batches = []
    for name, image in read_images(cfg, sources, count):
        if canvas is not None:
            sides = image.shape[:2]
            scale = min(x / side for x, side in zip(largest_image(model, canvas), sides))
            longer = max(int(max(sides) * scale), 1)
            resize = ResizeForTest([longer, longer], longer)
        resized = resize_for_test(resize, image)
        batches.append(Batch(name, [torch.from_numpy(resized.transpose(2, 0, 1).copy())]))
    return batches


def noise_to_compare(
    model: YOLOR, least_cells: int, channels: int, canvas: tuple[int, int] | None
) -> list[Batch]:
    """Batches of random images, of several sizes where the file takes several."""
    generator = torch.Generator().manual_seed(0)
    side = model.stride
    batches = []
    for n, h, w in SHAPES:
        size = ((least_cells + h) * side, (least_cells + w) * side)
        if canvas is not None:
            size = largest_image(model, canvas)
        images = 255 * torch.rand((n, channels, *size), generator=generator)
        batches.append(Batch("noise", images))
    return batches


def describe_file(path: Path, report: dict) -> str:
    """What was written, in one line."""
    parts = [report, *report["further_files"]]
    names = " and ".join([str(path), *(x["file"] for x in parts[1:])])
    about, checks = report["description"], report["checks"]
    what = "detections" if about["suppression"]["in_graph"] else "rows"
    kind = f"{about['format']}, opset {about['opset']}" if "opset" in about else about["format"]
    least = about["suppression"]["score_thresholds"]
    scores = f"scores above {least}" if what == "detections" else "without NMS"
    return (
        f"{names}: {sum(x['bytes'] for x in parts) / 2**20:.1f} MiB, {kind}, {about['weights']}, "
        f"{scores}; {sum(x[what] for x in checks)} {what} of "
        f"{sum(x['shape'][0] for x in checks)} images in {len(checks)} batches are those of the "
        "model"
    )


def describe_runtimes(report: dict) -> str:
    """A table of what each runtime makes of the file, then why those that refuse it do."""
    # The first is the file's own, which has compared all.
    further = list(report["runtimes"][0].get("further_differences", ()))

    def figures(x: dict) -> Iterator[float | None]:
        yield from (x[key] for key in DIFFERENCES)
        yield from (x.get("further_differences", {}).get(name) for name in further)

    rows = [
        (
            x["name"],
            x["version"] or "-",
            x["result"],
            *("-" if figure is None else f"{figure:.2g}" for figure in figures(x)),
        )
        for x in report["runtimes"]
    ]
    head = ["runtime", "version", "result", "boxes within (px)", "scores within"]
    if further:  # narrow columns, as there may be many
        head += [name.replace(", ", "\n").replace("_", "\n") for name in further]
    reasons = [
        f"{x['name']} {x['result']}: {textwrap.shorten(x['reason'], 200, placeholder=' ...')}"
        for x in report["runtimes"]
        if x["reason"]
    ]
    return "\n".join([tabulate(rows, head, disable_numparse=True), *reasons])


def main(args: argparse.Namespace) -> None:
    setup_logger(name="yolor_d2")
    size = [] if args.size is None else [str(max(args.size))]
    keys = ("INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST")
    sizes = [word for value in size for key in keys for word in (key, value)]
    # The proof needs one device and full precision.
    cfg = load_config(args.config_file, [*args.opts, *sizes, "MODEL.DEVICE", "cpu"])
    set_score_threshold(cfg, args.score_threshold, args.opts)
    register_datasets(cfg)
    require_writable(args.output)
    require_installed(args.require)
    model = load_model(cfg)
    canvas = None if args.size is None or len(args.size) == 1 else (args.size[0], args.size[1])
    least, channels = FORMATS[args.format].LEAST_CELLS, len(cfg.MODEL.PIXEL_MEAN)
    batches = noise_to_compare(model, least, channels, canvas)
    batches += images_to_compare(cfg, model, args.images, args.count, canvas)
    report = export_model(
        cfg,
        model,
        args.output,
        file_format=args.format,
        options=FileOptions(not args.no_nms, args.half, canvas, args.opset),
        batches=batches,
        required=args.require,
    )
    report = {"config_file": str(args.config_file), "weights": cfg.MODEL.WEIGHTS, **report}
    with atomic_write(args.output.with_name(args.output.name + ".json")) as file:
        file.write((json.dumps(report, indent=1) + "\n").encode())
    print(describe_file(args.output, report))
    print(describe_runtimes(report))
