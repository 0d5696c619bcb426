"""Detect objects in images, folders of images, videos, or what a camera sees."""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from yolor_d2.checkpoint.files import atomic_write, require_writable
from yolor_d2.config import load_config
from yolor_d2.d2.structures import Instances
from yolor_d2.d2.utils import setup_logger
from yolor_d2.data.catalog import class_names
from yolor_d2.data.image import ImageReadError, most_pixels_in_memory, read_image
from yolor_d2.evaluation.report import read_thresholds
from yolor_d2.inputs import expand, is_camera, is_video
from yolor_d2.predictor import BatchPredictor, FailedInput
from yolor_d2.visualize import draw_boxes, to_rgb, write_image

logger = logging.getLogger("yolor_d2.predict")


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


class Prediction:
    """A predictor with a threshold and what is written of its detections.

    Args:
        predictor: takes RGB arrays.
        names: of the classes.
        threshold: least score to report.
        tile: side of tiles in pixels; None looks at whole images alone.
        overlap: pixels that neighbouring tiles share.
        whole: with tiles, also look at whole images.
        frames: most frames of a video; None takes all.
    """

    def __init__(
        self,
        predictor: BatchPredictor,
        names: list[str],
        threshold: float,
        *,
        tile: int | None = None,
        overlap: int = 0,
        whole: bool = False,
        frames: int | None = None,
    ):
        self.predictor = predictor
        self.names = names
        self.threshold = threshold
        self.tile = tile
        self.overlap = overlap
        self.whole = whole
        self.frames = frames

    def detect(self, sources: Iterable) -> Iterator[Instances | FailedInput]:
        """Detections on the CPU that reach the threshold."""
        if self.tile is None:
            results = self.predictor.stream(sources)
        else:
            results = (self.detect_tiled(i, source) for i, source in enumerate(sources))
        for found in results:
            if not isinstance(found, FailedInput):
                found = found.to("cpu")
                found = found[found.scores >= self.threshold]
            yield found

    def detect_tiled(self, index: int, source) -> Instances | FailedInput:
        try:
            return self.predictor.detect_tiled(
                source, tile=self.tile, overlap=self.overlap, whole=self.whole
            )
        except (ImageReadError, OSError) as error:
            return FailedInput(index, str(error))

    def read(self, path: Path) -> np.ndarray:
        """An image to draw on."""
        # As large as what was looked at.
        limit = None if self.tile is None else most_pixels_in_memory()
        return to_rgb(read_image(path, channels=self.predictor.channels, limit=limit))

    def run_images(self, paths: list[Path], drawn: list[Path | None]) -> Iterator[dict | None]:
        """One record a file; None, and a line in the log, for those that cannot be read."""
        for path, target, found in zip(paths, drawn, self.detect(paths)):
            if isinstance(found, FailedInput):
                logger.error("%s", found.message)
                yield None
                continue
            if target is not None:
                write_image(target, draw(self.read(path), found, self.names))
            yield {"file_name": str(path), "detections": to_records(found, self.names)}

    def run_video(self, path: Path, drawn: Path | None) -> dict:
        frames, rate, count = open_video(path)
        if self.frames is not None:
            frames, count = itertools.islice(frames, self.frames), self.frames
        shown: deque[np.ndarray] = deque()

        def remembered() -> Iterator[np.ndarray]:
            for frame in frames:
                if drawn is not None:
                    shown.append(frame)
                yield frame

        writer = None
        records = []
        progress = tqdm(total=max(count, 0) or None, unit="frame", desc=path.name, leave=False)
        for found in self.detect(remembered()):
            progress.update()
            if isinstance(found, FailedInput):
                raise ImageReadError(f"frame {found.index} of {str(path)!r}: {found.message}")
            records.append(to_records(found, self.names))
            if drawn is None:
                continue
            frame = shown.popleft()
            if writer is None:
                drawn.parent.mkdir(parents=True, exist_ok=True)
                size = (frame.shape[1], frame.shape[0])
                writer = cv2.VideoWriter(str(drawn), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
                if not writer.isOpened():
                    raise OSError(f"cannot write video {str(drawn)!r}")
            writer.write(draw(frame, found, self.names)[:, :, ::-1])
        progress.close()
        if writer is not None:
            writer.release()
        if not records:
            raise ImageReadError(f"video {str(path)!r} has no frame that can be read")
        return {"file_name": str(path), "frames": records}


def write_coco(path: Path, results: list[dict], names: list[str]) -> None:
    """COCO results; image_id is the file's name without its ending where that is a number."""
    records = []
    for name, _, record in flat(results):
        stem = Path(name).stem
        records.append(
            {
                "image_id": int(stem) if stem.isdecimal() else Path(name).name,
                "category_id": names.index(record["class"]) + 1,
                "bbox": record["bbox"],
                "score": record["score"],
            }
        )
    write_text(path, json.dumps(records, indent=1))


def write_csv(path: Path, results: list[dict]) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file_name", "frame", "class", "score", "x", "y", "width", "height"])
    for name, frame, record in flat(results):
        table.writerow([name, frame, record["class"], record["score"], *record["bbox"]])
    write_text(path, text.getvalue())


def flat(results: list[dict]) -> Iterator[tuple[str, int, dict]]:
    """File, frame (0 for images) and record of each detection."""
    for result in results:
        for frame, records in enumerate(result.get("frames", [result.get("detections", [])])):
            for record in records:
                yield result["file_name"], frame, record


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))  # as names of files are


def open_video(path: Path) -> tuple[Iterator[np.ndarray], float, int]:
    """RGB frames, frames per second, and the number of frames that the file claims."""
    video = cv2.VideoCapture(int(str(path)) if is_camera(path) else str(path))
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
    suffix = ".mp4" if is_video(path) else ".jpg"
    target, number = folder / f"{path.stem}{suffix}", 1
    while target in taken:
        number += 1
        target = folder / f"{path.stem}_{number}{suffix}"
    if target.exists() and target.samefile(path):
        raise ValueError(f"--output: {str(target)!r} is an input and would be overwritten")
    taken.add(target)
    return target


def main(args: argparse.Namespace) -> int:
    setup_logger(name="yolor_d2")
    cfg = load_config(args.config_file, args.opts)
    names = class_names(cfg)
    if args.thresholds is not None:
        cfg.MODEL.YOLOR.CLASS_SCORE_THRESHOLDS = read_thresholds(args.thresholds, names)
    files = expand(args.input)
    for path in (args.json, args.coco_json, args.csv):
        if path is not None:
            require_writable(path)
    if args.output is not None:
        args.output.mkdir(parents=True, exist_ok=True)
    cameras = any(map(is_camera, files))
    predictor = BatchPredictor(
        cfg, batch_size=1 if cameras else args.batch_size, channel_order="RGB"
    )
    options = {
        **{"tile": args.tile, "overlap": args.tile_overlap, "whole": args.tile_whole},
        "frames": args.frames,
    }
    demo = Prediction(predictor, names, args.threshold, **options)
    taken: set[Path] = set()
    targets = [output_path(args.output, path, taken) for path in files]
    done: dict[int, dict] = {}  # by place among the inputs
    images = [i for i, path in enumerate(files) if not is_video(path)]
    unit = "image" if len(images) == len(files) else "file"
    with tqdm(total=len(files), unit=unit) as progress:
        records = demo.run_images([files[i] for i in images], [targets[i] for i in images])
        for i, record in zip(images, records):
            if record is not None:  # the other files still get their results
                done[i] = record
            progress.update()
        for i in sorted(set(range(len(files))) - set(images)):
            try:
                done[i] = demo.run_video(files[i], targets[i])
            except ImageReadError as error:
                logger.error("%s", error)
            progress.update()
    results = [done[i] for i in sorted(done)]
    if args.json is not None:
        write_text(args.json, json.dumps(results, indent=1))
    if args.coco_json is not None:
        write_coco(args.coco_json, results, names)
    if args.csv is not None:
        write_csv(args.csv, results)
    failures = len(files) - len(results)
    logger.info("%d files done, %d could not be read", len(results), failures)
    return 1 if failures else 0
