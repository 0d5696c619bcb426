"""Detect objects in images, folders, films, and what a camera or a stream shows."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from yolor_d2.checkpoint.files import require_writable
from yolor_d2.commands.shell import NO_SPACE
from yolor_d2.config import load_config
from yolor_d2.d2.config import CfgNode
from yolor_d2.d2.structures import Instances
from yolor_d2.d2.utils import setup_logger
from yolor_d2.data.catalog import class_names
from yolor_d2.data.image import ImageReadError, read_image
from yolor_d2.evaluation.report import read_thresholds
from yolor_d2.prediction import outputs, state
from yolor_d2.prediction.outputs import Result
from yolor_d2.prediction.sources import Source, expand
from yolor_d2.prediction.tracking import LOW_SCORE, Tracker
from yolor_d2.prediction.video import FilmWriter, Frame, Mark, OpenCVFilm, PyAVFilm, open_film
from yolor_d2.predictor import BatchPredictor, FailedInput
from yolor_d2.visualize import to_rgb

logger = logging.getLogger("yolor_d2.predict")

# Seconds between two notes of how far it is, and between two writings of what has been found.
NOTE_PERIOD = 1.0
# Frames of a part of a film at least, and seconds of a part of a camera's: what a killed process
# loses of a film, and what is done again when it goes on.
PART_FRAMES, PART_SECONDS = 250, 10.0
# Batches of images that are computed on their own, so that those behind them are the same whether
# the command was interrupted before them or not.
BLOCK_BATCHES = 16


class Stopped(Exception):
    """A signal asked to end; everything is written."""

    def __init__(self, where: str):
        super().__init__(where)
        self.where = where


class Prediction:
    """A predictor, and which of its detections count.

    Args:
        predictor: takes RGB arrays.
        names: of the classes.
        threshold: least score to report.
        classes: numbers of the classes to report; None reports all.
        tile: side of tiles in pixels; None looks at whole images alone.
        overlap: pixels that neighbouring tiles share.
        least: least score of what is looked at, which is less where a tracker uses it.
    """

    def __init__(
        self,
        predictor: BatchPredictor,
        names: list[str],
        threshold: float,
        *,
        classes: list[int] | None = None,
        tile: int | None = None,
        overlap: int = 0,
        least: float | None = None,
    ):
        self.predictor = predictor
        self.names = names
        self.threshold = threshold
        self.classes = classes
        self.tile = tile
        self.overlap = overlap
        self.least = threshold if least is None else least

    def detect(self, sources: Iterable) -> Iterator[Instances | FailedInput]:
        """Detections on the CPU that count."""
        if self.tile is None:
            results = self.predictor.stream(sources)
        else:
            results = (self.detect_tiled(i, source) for i, source in enumerate(sources))
        for found in results:
            if not isinstance(found, FailedInput):
                found = found.to("cpu")
                keep = found.scores >= self.least
                if self.classes is not None:
                    labels = found.pred_classes
                    keep &= (labels[:, None] == labels.new_tensor(self.classes)).any(1)
                found = found[keep]
            yield found

    def detect_tiled(self, index: int, source) -> Instances | FailedInput:
        try:
            return self.predictor.detect_tiled(source, tile=self.tile, overlap=self.overlap)
        except (ImageReadError, OSError) as error:
            return FailedInput(index, str(error))

    def read(self, path: str) -> np.ndarray:
        """An image to draw on."""
        return to_rgb(read_image(path, channels=self.predictor.channels))


@dataclass(frozen=True)
class FilmOptions:
    """What is done with films.

    Attributes:
        frames: most frames to look at; None looks at all.
        stride: looks at every so many frames.
        folder: of the drawn films; None draws none.
        style: options of the drawing.
        track: whether objects get identities.
    """

    frames: int | None
    stride: int
    folder: Path | None
    style: dict[str, Any]
    track: bool


class Run:
    """All inputs, one after the other, and everything that is written of them.

    How far it is is noted only where the batches of an undisturbed run begin, and where the part of
    a film ends. Who goes on cuts the files there and does the rest again: they become the same.

    Args:
        prediction: finds the objects.
        sources: the inputs.
        files: outputs of text by name.
        folders: the other outputs; a film has its own.
        image_ids: numbers of images and frames.
        film: what is done with films.
        progress: where it is noted how far it is; None where nothing can go on.
        stop: signals.
    """

    def __init__(
        self,
        prediction: Prediction,
        sources: Sequence[Source],
        files: dict[str, Any],
        folders: list[Any],
        image_ids: outputs.ImageIds,
        film: FilmOptions,
        progress: state.State | None,
        stop: state.StopSignals,
    ):
        self.prediction = prediction
        self.sources = sources
        self.files = files
        self.folders = folders
        self.image_ids = image_ids
        self.film = film
        self.progress = progress
        self.stop = stop
        self.batch_size = prediction.predictor.batch_size
        begin = (progress.content["position"] if progress else None) or {}
        self.index: int = begin.get("source", 0)
        self.count: int = begin.get("count", 0)  # images and frames before
        self.inside: dict | None = begin.get("film")
        self.failures: int = progress.content["failures"] if progress else 0
        self.noted = time.monotonic()

    def work(self) -> None:
        """Do what is left.

        Raises:
            Stopped: when a signal asked for it.
        """
        with tqdm(total=len(self.sources), initial=self.index, unit="file") as bar:
            while self.index < len(self.sources):
                source = self.sources[self.index]
                if source.kind == "image":
                    self.images(self.block(), bar)
                    self.note()
                else:
                    writer = self.run_film(source)
                    self.index += 1
                    self.inside = None
                    bar.update()
                    self.note(now=True)
                    if writer is not None:  # it is noted that they are not needed any more
                        writer.remove_parts()
                if self.stop.received and self.index < len(self.sources):
                    raise Stopped(f"after {source.shown!r}")

    def fail(self, message: str) -> None:
        logger.error("%s", message)
        self.failures += 1

    # ---- Images

    def block(self) -> list[Source]:
        """The next images without a film between them, no more than are computed together."""
        most = islice(self.sources, self.index, self.index + BLOCK_BATCHES * self.batch_size)
        found = []
        for source in most:
            if source.kind != "image":
                break
            found.append(source)
        return found

    def images(self, block: list[Source], bar: tqdm) -> None:
        names = [source.name for source in block]
        for source, found in zip(block, self.prediction.detect(names)):
            if isinstance(found, FailedInput):  # the others still get their results
                self.fail(found.message)
                self.count += 1
            else:
                pixels = once(lambda name=source.name: self.prediction.read(name))
                self.write(self.result(source, found, pixels))
            self.index += 1
            bar.update()
            self.flush_at_times()
            if self.stop.received and source is not block[-1]:
                raise Stopped(f"after {source.shown!r}")

    # ---- Films

    def run_film(self, source: Source) -> FilmWriter | None:
        """Look at a film; returns what has drawn it."""
        inside = self.inside or {}
        tracker = writer = None
        try:
            film = open_film(source)
            if self.film.track:
                rate = float(film.rate) / self.film.stride
                tracker = Tracker(self.prediction.threshold, rate, inside.get("tracker"))
            if self.film.folder is not None:
                target = outputs.drawn_film(self.film.folder, source)
                writer = FilmWriter(target, film.time_base, film.rate, inside.get("parts", 0))
            if not self.frames(film, tracker, writer):
                raise ImageReadError(f"video {source.shown!r} has no frame that can be read")
        except ImageReadError as error:
            self.fail(str(error))  # what was found before stays
        except Stopped:
            if writer is not None:
                writer.finish()  # so far it can be played
            raise
        except BaseException:
            if writer is not None:
                with contextlib.suppress(Exception):  # the first error is the one to tell
                    writer.finish()
            raise
        if writer is not None:
            writer.finish()
        return writer

    def frames(
        self,
        film: PyAVFilm | OpenCVFilm,
        tracker: Tracker | None,
        writer: FilmWriter | None,
    ) -> int:
        """Look at the frames that are left; returns how many there were with those before."""
        source = film.source
        inside = self.inside or {}
        after = Mark(**inside["mark"]) if inside else None
        taken: int = inside.get("taken", 0)
        live = source.kind == "live"
        waiting: deque[Frame] = deque()
        most = self.film.frames

        def frames() -> Iterator[np.ndarray]:
            left = None if most is None else max(most - taken, 0)
            with contextlib.closing(film.frames(self.film.stride, after)) as found:
                for frame in islice(found, left):
                    waiting.append(frame)
                    yield frame.pixels

        total = film.count and -(-film.count // self.film.stride)
        total = min(filter(None, (total, most)), default=None)
        part_begin = time.monotonic()
        options = {"unit": "frame", "desc": Path(source.shown).name, "leave": False}
        with tqdm(total=total, initial=taken, **options) as bar:
            for found in self.prediction.detect(frames()):
                frame = waiting.popleft()
                if isinstance(found, FailedInput):
                    raise ImageReadError(
                        f"frame {frame.number} of {source.shown!r}: {found.message}"
                    )
                result = self.result(source, found, lambda: frame.pixels, frame, tracker)
                self.write(result)
                if writer is not None:
                    writer.add(frame, result.drawn(**self.film.style))
                taken += 1
                bar.update()
                self.flush_at_times()
                aligned = taken % self.batch_size == 0  # here a batch of every run begins
                full = writer is not None and (
                    writer.frames >= PART_FRAMES
                    or (live and time.monotonic() - part_begin > PART_SECONDS)
                )
                stopping = aligned and self.stop.received is not None
                if writer is not None and aligned and full:
                    writer.end_part()
                    part_begin = time.monotonic()
                if aligned and not live and (writer is None or full):
                    assert film.origin is not None
                    self.inside = {
                        "mark": vars(Mark(frame.number, frame.time, film.origin)),
                        "taken": taken,
                        "parts": 0 if writer is None else len(writer.parts),
                    }
                    self.note(now=full or stopping, tracker=tracker)
                if stopping:
                    where = f"after frame {frame.number} ({frame.seconds:.3f} s)"
                    raise Stopped(f"{where} of {source.shown!r}")
        return taken

    # ---- Both

    def result(
        self,
        source: Source,
        found: Instances,
        read: Callable[[], np.ndarray],
        frame: Frame | None = None,
        tracker: Tracker | None = None,
    ) -> Result:
        boxes, scores = found.pred_boxes.tensor.numpy(), found.scores.numpy()
        labels = found.pred_classes.numpy()
        reported = scores >= self.prediction.threshold
        identities: list[int | None] = []
        if tracker is not None:
            assert frame is not None
            known = tracker.update(boxes, scores, frame.seconds)
            identities = [x for x, is_reported in zip(known, reported) if is_reported]
        self.count += 1
        return Result(
            source=source,
            image_id=self.image_ids(source, self.count - 1),
            frame=0 if frame is None else frame.number,
            seconds=0.0 if frame is None else frame.seconds,
            size=found.image_size,
            boxes=boxes[reported],
            scores=scores[reported].tolist(),
            labels=labels[reported].tolist(),
            identities=identities,
            names=self.prediction.names,
            read=read,
        )

    def write(self, result: Result) -> None:
        for output in (*self.files.values(), *self.folders):
            output.add(result)

    def flush_at_times(self) -> None:
        if time.monotonic() - self.noted > NOTE_PERIOD:
            for file in self.files.values():
                file.flush()

    def note(self, *, now: bool = False, tracker: Tracker | None = None) -> None:
        """Put what is written on the disk, and then how far it is, if it is time for it."""
        if now or self.stop.received or time.monotonic() - self.noted > NOTE_PERIOD:
            for file in self.files.values():
                file.flush(sync=self.progress is not None)
            if self.progress is not None:
                film = self.inside
                if film is not None and tracker is not None:
                    film = {**film, "tracker": tracker.state()}
                self.progress.save(
                    position={"source": self.index, "count": self.count, "film": film},
                    outputs={name: file.mark() for name, file in self.files.items()},
                    failures=self.failures,
                )
            self.noted = time.monotonic()


def once(read: Callable[[], np.ndarray]) -> Callable[[], np.ndarray]:
    """A function that reads an image when it is asked first."""
    kept: list[np.ndarray] = []

    def get() -> np.ndarray:
        if not kept:
            kept.append(read())
        return kept[0]

    return get


# ---- What the arguments mean


def find_classes(wanted: Sequence[str] | None, names: Sequence[str]) -> list[int] | None:
    """Numbers of classes that are given by name or number.

    Raises:
        ValueError: when there is no such class.
    """
    if wanted is None:
        return None
    found = []
    for word in wanted:
        if word in names:
            found.append(names.index(word))
        elif word.isdecimal() and int(word) < len(names):
            found.append(int(word))
        else:
            near = difflib.get_close_matches(word, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names[:20])}"
            raise ValueError(f"--classes: no class {word!r}; {hint}")
    return found


def text_outputs(args: argparse.Namespace) -> dict[str, Path]:
    """Text files to write, by name."""
    given = {"json": args.json, "coco": args.coco_json, "csv": args.csv}
    found = {name: path for name, path in given.items() if path is not None}
    if "coco" in found and (not args.coco_json.exists() or args.coco_json.is_file()):
        found["images"] = outputs.images_table(args.coco_json)
    return found


def open_text(
    args: argparse.Namespace, names: list[str], annotations: dict | None, marks: dict[str, dict]
) -> dict[str, Any]:
    categories = outputs.category_ids(names, annotations)
    makers: dict[str, Callable[[Path, dict | None], Any]] = {
        "json": outputs.JsonFile,
        "coco": lambda path, mark: outputs.CocoResults(path, categories, mark),
        "csv": lambda path, mark: outputs.CsvFile(path, mark, identities=args.track),
        "images": lambda path, mark: outputs.CocoImages(path, names, categories, mark),
    }
    return {name: makers[name](path, marks.get(name)) for name, path in text_outputs(args).items()}


def folder_outputs(args: argparse.Namespace, style: dict[str, Any]) -> list[Any]:
    found: list[Any] = []
    if args.output is not None:
        found.append(outputs.DrawnImages(args.output, **style))
    if args.crops is not None:
        found.append(outputs.Crops(args.crops))
    if args.yolo_txt is not None:
        found.append(outputs.YoloLabels(args.yolo_txt))
    return found


def state_file(args: argparse.Namespace) -> Path | None:
    """Where it is noted how far the command is: beside the first file, else in a folder."""
    for path in text_outputs(args).values():
        if not path.exists() or path.is_file():
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
        to_file = outputs.drawn_image if source.kind == "image" else outputs.drawn_film
        target = to_file(args.output, source)
        if target.resolve() in inputs:
            raise ValueError(f"--output: {str(target)!r} is an input and would be overwritten")


def check_tracking(sources: Sequence[Source]) -> None:
    """Raise a ValueError where nothing is to be followed."""
    images = sum(source.kind == "image" for source in sources)
    if images == len(sources):
        raise ValueError(
            "--track follows objects over the frames of films and cameras; all inputs are images"
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
            raise ValueError("--resume goes on with files and folders, not with devices")
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
    classes = find_classes(args.classes, names)
    sources = expand(args.input)
    live = any(source.kind == "live" for source in sources)
    if live and args.resume:
        raise ValueError("--resume: what a camera or a stream showed cannot be looked at again")
    if args.track:
        check_tracking(sources)
    annotations = None
    if args.coco_images is not None:
        annotations = json.loads(args.coco_images.read_text(encoding="utf-8"))
    image_ids = outputs.ImageIds(sources, annotations)
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
        least=min(args.threshold, LOW_SCORE) if args.track else None,
    )
    style = {"labels": args.labels, "line_width": args.line_width}
    film = FilmOptions(args.frames, args.stride, args.output, style, args.track)
    with state.StopSignals() as stop, contextlib.ExitStack() as files:
        marks = progress.content["outputs"] if progress else {}
        texts = open_text(args, names, annotations, marks)
        for file in texts.values():
            files.callback(file.close)
        folders = folder_outputs(args, style)
        run = Run(prediction, sources, texts, folders, image_ids, film, progress, stop)
        try:
            run.note(now=True)
            run.work()
        except Stopped as stopped:
            assert stop.received is not None
            if live and progress is not None:
                progress.save(finished=True)
            hint = "" if live or progress is None else "; --resume goes on"
            logger.info(
                "Stopped by %s %s: what is written is whole%s",
                stop.received.name,
                stopped.where,
                hint,
            )
            return 128 + stop.received
        except OSError as error:
            if error.errno not in NO_SPACE or progress is None or live:
                raise
            text = f"{error.strerror}; --resume goes on when there is room"
            raise OSError(error.errno, text, error.filename) from error
        files.close()  # a full disk is told before it is noted that all is done
        if progress is not None:
            progress.save(finished=True)
    logger.info("%d files done, %d could not be read", len(sources) - run.failures, run.failures)
    return 1 if run.failures else 0
