"""Detect objects in images, folders, videos, and what a camera or a stream shows."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from yolor_d2.commands.shell import NO_SPACE
from yolor_d2.config import load_config
from yolor_d2.d2.config import CfgNode
from yolor_d2.d2.utils import setup_logger
from yolor_d2.datasets.catalog import class_names, class_numbers
from yolor_d2.files.writing import require_writable
from yolor_d2.prediction import state
from yolor_d2.prediction.coco_files import (
    CocoImages,
    CocoResults,
    ImageIds,
    category_ids,
    images_table,
)
from yolor_d2.prediction.detector import Prediction
from yolor_d2.prediction.folders import Crops, DrawnImages, YoloLabels, drawn_image, drawn_video
from yolor_d2.prediction.kinds import gives_masks, skeleton_of
from yolor_d2.prediction.run import Run, Stopped, VideoOptions
from yolor_d2.prediction.sources import Source, expand
from yolor_d2.prediction.text_files import CsvFile, JsonFile, is_regular
from yolor_d2.prediction.tracking import LOW_SCORE
from yolor_d2.predictor import BatchPredictor
from yolor_d2.report.thresholds import read_thresholds

logger = logging.getLogger("yolor_d2.predict")


def text_outputs(args: argparse.Namespace) -> dict[str, Path]:
    """Text files to write, by name."""
    given = {"json": args.json, "coco": args.coco_json, "csv": args.csv}
    chosen = {name: path for name, path in given.items() if path is not None}
    if "coco" in chosen and is_regular(args.coco_json):
        chosen["images"] = images_table(args.coco_json)
    return chosen


def open_text(
    args: argparse.Namespace,
    cfg: CfgNode,
    names: list[str],
    annotations: dict | None,
    marks: dict[str, dict],
) -> dict[str, Any]:
    categories = category_ids(names, annotations)
    makers: dict[str, Callable[[Path, dict | None], Any]] = {
        "json": JsonFile,
        "coco": lambda path, mark: CocoResults(path, categories, mark),
        "csv": lambda path, mark: CsvFile(
            path, mark, identities=args.track, masks=gives_masks(cfg), skeleton=skeleton_of(cfg)
        ),
        "images": lambda path, mark: CocoImages(path, names, categories, mark),
    }
    return {name: makers[name](path, marks.get(name)) for name, path in text_outputs(args).items()}


def folder_outputs(args: argparse.Namespace, style: dict[str, Any]) -> list[Any]:
    writers: list[Any] = []
    if args.output is not None:
        writers.append(DrawnImages(args.output, **style))
    if args.crops is not None:
        writers.append(Crops(args.crops))
    if args.yolo_txt is not None:
        writers.append(YoloLabels(args.yolo_txt))
    return writers


def state_file(args: argparse.Namespace) -> Path | None:
    """Where it is noted how far the command is: beside the first file, else in a folder."""
    for path in text_outputs(args).values():
        if is_regular(path):
            return path.with_name(f".{path.name}.progress")
    for folder in (args.output, args.crops, args.yolo_txt):
        if folder is not None:
            return folder / ".predict.progress"
    return None


def prepare_outputs(args: argparse.Namespace, sources: Sequence[Source]) -> None:
    """See that everything can be written, and that nothing overwrites an input."""
    for path in text_outputs(args).values():
        require_writable(path)
    for folder in (args.output, args.crops, args.yolo_txt):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    if args.output is None:
        return
    inputs = {Path(x.name).resolve() for x in sources if x.kind != "live"}
    for source in sources:
        to_file = drawn_image if source.kind == "image" else drawn_video
        target = to_file(args.output, source)
        if target.resolve() in inputs:
            raise ValueError(f"--output: {str(target)!r} is an input and would be overwritten")


def check_tracking(sources: Sequence[Source]) -> None:
    """Raise a ValueError where nothing is to be followed."""
    images = sum(source.kind == "image" for source in sources)
    if images == len(sources):
        raise ValueError(
            "--track follows objects over the frames of videos and cameras; all inputs are images"
        )
    if images:
        logger.warning("--track: the objects of %d images get no identities", images)


def begin_state(
    args: argparse.Namespace, cfg: CfgNode, sources: Sequence[Source]
) -> tuple[state.State | None, bool]:
    """How far an earlier command came, and whether that was all."""
    path = state_file(args)
    if path is None:
        if args.resume:
            raise ValueError("--resume applies to files and folders, not to devices")
        return None, False
    arguments = state.describe_arguments(vars(args), sources, cfg.dump(), cfg.MODEL.WEIGHTS)
    progress = state.State(path, arguments)
    written = [*text_outputs(args).values(), args.output, args.crops, args.yolo_txt]
    done = progress.begin(
        [x for x in written if x is not None], resume=args.resume, overwrite=args.overwrite
    )
    return progress, done


def main(args: argparse.Namespace) -> int:
    setup_logger(name="yolor_d2")
    cfg = load_config(args.config_file, args.opts)
    names = class_names(cfg)
    if args.thresholds is not None:
        cfg.MODEL.YOLOR.CLASS_SCORE_THRESHOLDS = read_thresholds(args.thresholds, names)
    classes = None if args.classes is None else class_numbers(args.classes, names)
    sources = expand(args.input)
    live = any(source.kind == "live" for source in sources)
    if live and args.resume:
        raise ValueError("--resume: what a camera or a stream showed cannot be looked at again")
    if args.track:
        check_tracking(sources)
    annotations = None
    if args.coco_images is not None:
        annotations = json.loads(args.coco_images.read_text(encoding="utf-8"))
    image_ids = ImageIds(sources, annotations)
    prepare_outputs(args, sources)
    progress, done = begin_state(args, cfg, sources)
    if done:
        assert progress is not None
        logger.info("Nothing is left to do: the command has been finished before")
        return 1 if progress.content["failures"] else 0
    predictor = BatchPredictor(cfg, batch_size=1 if live else args.batch_size, channel_order="RGB")
    prediction = Prediction(
        predictor,
        names,
        args.threshold,
        classes=classes,
        tile=args.tile,
        overlap=args.tile_overlap,
        whole=args.tile_whole,
        least=min(args.threshold, LOW_SCORE) if args.track else None,
        skeleton=skeleton_of(cfg),
    )
    style = {"labels": args.labels, "line_width": args.line_width}
    video = VideoOptions(args.frames, args.stride, args.output, style, args.track)
    try:
        with state.StopSignals() as stop, contextlib.ExitStack() as files:
            marks = progress.content["outputs"] if progress else {}
            texts = open_text(args, cfg, names, annotations, marks)
            for file in texts.values():
                files.callback(file.close)
            folders = folder_outputs(args, style)
            run = Run(prediction, sources, texts, folders, image_ids, video, progress, stop)
            run.note(now=True)
            try:
                run.work()
            except Stopped as stopped:
                return say_stopped(stop, stopped.where, None if live else progress)
            finally:
                if live and progress is not None:
                    progress.save(finished=True)  # it cannot be resumed
    except OSError as error:
        if error.errno not in NO_SPACE or progress is None or live:
            raise
        text = f"{error.strerror}; --resume continues when there is room"
        raise OSError(error.errno, text, error.filename) from error
    if progress is not None:
        progress.save(finished=True, failures=run.failures)
    logger.info("%d files done, %d could not be read", len(sources) - run.failures, run.failures)
    return 1 if run.failures else 0


def say_stopped(stop: state.StopSignals, where: str, progress: state.State | None) -> int:
    """Tell that a signal ended the command, and whether it can go on; returns the exit status."""
    assert stop.received is not None
    hint = "" if progress is None else "; --resume continues"
    name = stop.received.name
    logger.info("Stopped by %s %s: what is written is whole%s", name, where, hint)
    return 128 + stop.received
