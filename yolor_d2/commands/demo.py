"""Detect objects in images, folders of images, or videos.

    python tools/demo.py --config-file output/mine/config.yaml --output found/ \
        --input photo.jpg folder/ film.mp4 MODEL.WEIGHTS output/mine/model_best.pth

Drawn copies go to the output folder; --json writes the detections as well (or, without --output,
alone).
"""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from yolor_d2.checkpoint import YOLORCheckpointer
from yolor_d2.config import load_config
from yolor_d2.d2.engine import DefaultPredictor
from yolor_d2.d2.structures import Instances
from yolor_d2.d2.utils import setup_logger
from yolor_d2.data.image import ImageReadError, read_image
from yolor_d2.data.loader import ResizeForTest, class_names
from yolor_d2.visualize import draw_boxes, write_image

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
VIDEO_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm"}

CONFIG_KEY = re.compile(r"[A-Z0-9_]+(\.[A-Z0-9_]+)+")

logger = logging.getLogger("yolor_d2.demo")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="path, or name in the model zoo")
    parser.add_argument("--input", nargs="+", type=Path, required=True, help="files and folders")
    parser.add_argument("--output", type=Path, help="folder for drawn images and videos")
    parser.add_argument("--json", type=Path, help="file for the detections")
    parser.add_argument("--threshold", type=float, default=0.25, help="least score to report")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs")
    args = parser.parse_args(argv)
    # Overrides right behind --input end the list of inputs.
    for i, path in enumerate(args.input):
        if CONFIG_KEY.fullmatch(str(path)):
            args.opts = [*map(str, args.input[i:]), *args.opts]
            args.input = args.input[:i]
            break
    if args.output is None and args.json is None:
        parser.error("nothing to write: give --output, --json or both")
    return args


def expand(inputs: list[Path]) -> list[Path]:
    """Files to work on: folders stand for the images in them.

    Raises:
        FileNotFoundError: when an input does not exist.
        ValueError: when there is nothing to work on.
    """
    files = []
    for path in inputs:
        if path.is_dir():
            files += sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        elif path.is_file():
            files.append(path)
        else:
            raise FileNotFoundError(f"--input: no such file or folder {str(path)!r}")
    if not files:
        raise ValueError(f"--input: no images in {', '.join(map(str, inputs))}")
    return files


def to_records(found: Instances, names: list[str]) -> list[dict]:
    """Detections as plain data; boxes are x, y, width, height in pixels."""
    return [
        {
            "bbox": [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(score, 5),
            "class": names[label],
        }
        for (x1, y1, x2, y2), score, label in zip(
            found.pred_boxes.tensor.tolist(), found.scores.tolist(), found.pred_classes.tolist()
        )
    ]


def draw(image: np.ndarray, found: Instances, names: list[str]) -> np.ndarray:
    boxes = found.pred_boxes.tensor.numpy()
    return draw_boxes(image, boxes, found.pred_classes.tolist(), names, found.scores.tolist())


class Demo:
    """A predictor with a threshold: RGB images in, detections on the CPU out."""

    def __init__(self, predictor: DefaultPredictor, names: list[str], threshold: float):
        self.predictor = predictor
        self.names = names
        self.threshold = threshold

    def detect(self, image: np.ndarray) -> Instances:
        found = self.predictor(image[:, :, ::-1])["instances"].to("cpu")
        return found[found.scores >= self.threshold]

    def run_image(self, path: Path, drawn: Path | None) -> dict:
        image = read_image(path)
        found = self.detect(image)
        if drawn is not None:
            write_image(drawn, draw(image, found, self.names))
        return {"file_name": str(path), "detections": to_records(found, self.names)}

    def run_video(self, path: Path, drawn: Path | None) -> dict:
        frames, rate, count = open_video(path)
        writer = None
        records = []
        for frame in tqdm(frames, total=count, unit="frame", desc=path.name, leave=False):
            found = self.detect(frame)
            records.append(to_records(found, self.names))
            if drawn is None:
                continue
            if writer is None:
                drawn.parent.mkdir(parents=True, exist_ok=True)
                size = (frame.shape[1], frame.shape[0])
                writer = cv2.VideoWriter(str(drawn), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
                if not writer.isOpened():
                    raise OSError(f"cannot write video {str(drawn)!r}")
            writer.write(draw(frame, found, self.names)[:, :, ::-1])
        if writer is not None:
            writer.release()
        if not records:
            raise ImageReadError(f"video {str(path)!r} has no frame that can be read")
        return {"file_name": str(path), "frames": records}


def open_video(path: Path) -> tuple[Iterator[np.ndarray], float, int]:
    """RGB frames, frames per second, and the number of frames that the file claims."""
    video = cv2.VideoCapture(str(path))
    if not video.isOpened():
        raise ImageReadError(f"cannot read video {str(path)!r}")

    def frames() -> Iterator[np.ndarray]:
        while True:
            there, frame = video.read()
            if not there:
                break
            yield frame[:, :, ::-1]
        video.release()

    return frames(), video.get(cv2.CAP_PROP_FPS) or 25.0, int(video.get(cv2.CAP_PROP_FRAME_COUNT))


def output_path(folder: Path | None, path: Path, taken: set[Path]) -> Path | None:
    """Where the drawn copy of a file goes; files of the same name do not overwrite each other."""
    if folder is None:
        return None
    suffix = ".mp4" if path.suffix.lower() in VIDEO_SUFFIXES else ".jpg"
    target, number = folder / f"{path.stem}{suffix}", 1
    while target in taken:
        number += 1
        target = folder / f"{path.stem}_{number}{suffix}"
    if target.exists() and target.samefile(path):
        raise ValueError(f"--output: {str(target)!r} is an input and would be overwritten")
    taken.add(target)
    return target


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    setup_logger(name="yolor_d2")
    cfg = load_config(args.config_file, args.opts)
    if not Path(cfg.MODEL.WEIGHTS).is_file():
        raise FileNotFoundError(f"MODEL.WEIGHTS is {cfg.MODEL.WEIGHTS!r}: no such file")
    files = expand(args.input)
    predictor = DefaultPredictor(cfg)
    # The predictor leaves random what a checkpoint lacks, such as the head for other classes.
    YOLORCheckpointer(predictor.model, strict=True).load(cfg.MODEL.WEIGHTS)
    predictor.aug = ResizeForTest.from_config(cfg)
    demo = Demo(predictor, class_names(cfg), args.threshold)
    results, failures, taken = [], 0, set()
    for path in tqdm(files, unit="file"):
        run = demo.run_video if path.suffix.lower() in VIDEO_SUFFIXES else demo.run_image
        try:
            results.append(run(path, output_path(args.output, path, taken)))
        except ImageReadError as error:  # the other files still get their results
            logger.error("%s", error)
            failures += 1
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    logger.info("%d files done, %d could not be read", len(results), failures)
    return 1 if failures else 0
