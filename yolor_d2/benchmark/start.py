"""The start on a data set of COCO's size, see `yolor-d2 benchmark start --help`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from ..config import load_config
from ..d2 import RUNTIME
from ..d2.data import register_coco_instances
from ..environment import describe_machine
from .report import Report

MIB = 1024**2
# Of the common sizes of its images, (H, W).
SIZES = ((480, 640), (640, 480), (427, 640), (640, 427))
NUM_CLASSES = 80
# Corners of a polygon.
CORNERS = 24
# What makes an iteration cheap, so that the start is what is measured.
OVERRIDES = (
    *("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2"),
    *("INPUT.MAX_SIZE_TRAIN", "64", "INPUT.MIN_SIZE_TRAIN", "(64,)"),
    *("SOLVER.CHECKPOINT_PERIOD", "1000"),
)


def write_data_set(folder: Path, images: int, boxes: int, *, polygons: bool) -> tuple[Path, Path]:
    """Generate a data set, if it is not there.

    Returns:
        Annotation file, and folder of the images.
    """
    path = folder / f"instances_{images}_{boxes}{'_polygons' if polygons else ''}.json"
    root = folder / "images"
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    shapes = rng.integers(len(SIZES), size=images)
    for number, shape in enumerate(shapes.tolist()):
        # A file system allows a file a limited number of names.
        source = root / f"source_{shape}_{number // 30_000}.jpg"
        if not source.exists():
            noise = rng.integers(0, 255, (*(x // 16 for x in SIZES[shape]), 3), dtype=np.uint8)
            cv2.imwrite(str(source), cv2.resize(noise, SIZES[shape][::-1]))
        target = root / f"{number:012d}.jpg"
        if not target.exists():
            os.link(source, target)
    if path.is_file():
        return path, root
    sizes = np.array(SIZES)[shapes]
    owners = np.sort(rng.integers(images, size=boxes))
    limits = sizes[owners][:, ::-1]
    sides = np.maximum(limits * rng.beta(1, 4, size=(boxes, 2)), 4).round(2)
    corners = ((limits - sides) * rng.uniform(size=(boxes, 2))).round(2)
    labels = rng.integers(NUM_CLASSES, size=boxes)
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    circle = 0.5 + 0.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    with open(path, "w", encoding="utf-8") as file:
        entries = [
            {"id": i + 1, "file_name": f"{i:012d}.jpg", "height": height, "width": width}
            for i, (height, width) in enumerate(sizes.tolist())
        ]
        categories = [{"id": i + 1, "name": f"class {i}"} for i in range(NUM_CLASSES)]
        head = json.dumps({"images": entries, "categories": categories})
        file.write(head[:-1] + ', "annotations": [')
        for i in range(boxes):
            entry = {
                "id": i + 1,
                "image_id": int(owners[i]) + 1,
                "category_id": int(labels[i]) + 1,
                "bbox": [*corners[i].tolist(), *sides[i].tolist()],
                "area": float(sides[i].prod()),
                "iscrowd": 0,
            }
            if polygons:
                points = (corners[i] + circle * sides[i]).round(2)
                entry["segmentation"] = [points.ravel().tolist()]
            file.write((", " if i else "") + json.dumps(entry))
        file.write("]}")
    return path, root


def train_plainly(annotations: str, images: str, output: str) -> None:
    """One iteration by Detectron2's own trainer and loader; run in a process of its own."""
    from ..d2.engine import DefaultTrainer

    register_coco_instances("start", {}, annotations, images)
    cfg = load_config("quick/ssss_320_cpu.yaml", list(OVERRIDES))
    cfg.MODEL.YOLOR.NUM_CLASSES = NUM_CLASSES
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("start",), ()
    cfg.SOLVER.MAX_ITER, cfg.OUTPUT_DIR = 1, output
    os.makedirs(output, exist_ok=True)
    trainer = DefaultTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()


def measure(arguments: list[str]) -> dict[str, float]:
    """CPU time and greatest memory of a process.

    Raises:
        RuntimeError: when it fails.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([sys.executable, *arguments], stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            text = output.read().decode(errors="replace")
            raise RuntimeError(f"{' '.join(arguments)} failed:\n{text[-2000:]}")
    return {"CPU s": usage.ru_utime + usage.ru_stime, "peak MiB": usage.ru_maxrss * 1024 / MIB}


def run(args: argparse.Namespace) -> Report:
    """Measure each way to begin.

    Raises:
        ValueError: when a number is out of range.
        RuntimeError: when a process fails.
    """
    if min(args.images, args.boxes, args.rounds) < 1:
        raise ValueError("expected --count, --boxes and --rounds of at least 1")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        files = write_data_set(folder, args.images, args.boxes, polygons=args.polygons)
        annotations, images = map(str, files)
        size = files[0].stat().st_size
        for number in range(args.rounds):
            output = Path(temporary) / f"run_{number}"
            train = ["-m", "yolor_d2", "train", "--config-file", "quick/ssss_320_cpu.yaml"]
            train += ["--train", annotations, images]
            overrides = [*OVERRIDES, *args.opts, "OUTPUT_DIR", str(output), "SOLVER.MAX_ITER"]
            rows.append({"start": "yolor_d2", **measure([*train, *overrides, "1"])})
            resumed = measure([*train, "--resume", *overrides, "2"])
            rows.append({"start": "yolor_d2 --resume", **resumed})
            if RUNTIME == "detectron2":
                code = f"from {__name__} import train_plainly; train_plainly"
                plain = f"{code}({annotations!r}, {images!r}, {str(output) + '_plain'!r})"
                rows.append({"start": "plain Detectron2", **measure(["-c", plain])})
    settings = {
        "images": args.images,
        "boxes": args.boxes,
        "polygons": args.polygons,
        "annotation file (MiB)": round(size / MIB),
    }
    return Report("Start", settings, rows, describe_machine())
