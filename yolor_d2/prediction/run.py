"""The work of `predict`: every input in turn, and how far it is."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..d2.structures import Instances
from ..files.images import ImageReadError
from ..predictor import FailedInput
from . import state
from .coco_files import ImageIds
from .detector import Prediction
from .folders import drawn_video
from .result import Result
from .sources import Source
from .tracking import Tracker
from .video_reader import Frame, Mark, OpenCVVideo, PyAVVideo, open_video
from .video_writer import VideoWriter, remove_parts

logger = logging.getLogger("yolor_d2.predict")

# Seconds between two notes of how far it is, and between two writings of what has been found.
NOTE_PERIOD = 1.0
# Frames of a part of a video at least, and seconds of a part of a camera's: what a killed process
# loses of a video, and what is done again when it goes on.
PART_FRAMES, PART_SECONDS = 250, 10.0
# Batches of images that are computed on their own, so that those behind them are the same whether
# the command was interrupted before them or not.
BLOCK_BATCHES = 16


class Stopped(Exception):
    """A signal asked to end; everything is written."""

    def __init__(self, where: str):
        super().__init__(where)
        self.where = where


@dataclass(frozen=True)
class VideoOptions:
    """What is done with videos.

    Attributes:
        frames: most frames to look at; None looks at all.
        stride: looks at every so many frames.
        folder: of the drawn videos; None draws none.
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
    a video ends. Who goes on cuts the files there and does the rest again: they become the same.

    Args:
        prediction: finds the objects.
        sources: the inputs.
        files: outputs of text by name.
        folders: the other outputs; a video has its own.
        image_ids: numbers of images and frames.
        video: what is done with videos.
        progress: where it is noted how far it is; None where nothing can go on.
        stop: signals.
    """

    def __init__(
        self,
        prediction: Prediction,
        sources: Sequence[Source],
        files: dict[str, Any],
        folders: list[Any],
        image_ids: ImageIds,
        video: VideoOptions,
        progress: state.State | None,
        stop: state.StopSignals,
    ):
        self.prediction = prediction
        self.sources = sources
        self.files = files
        self.folders = folders
        self.image_ids = image_ids
        self.video = video
        self.progress = progress
        self.stop = stop
        self.batch_size = prediction.predictor.batch_size
        begin = (progress.content["position"] if progress else None) or {}
        self.index: int = begin.get("source", 0)
        self.count: int = begin.get("count", 0)  # images and frames before
        self.inside: dict | None = begin.get("video")
        self.failures: int = progress.content["failures"] if progress else 0
        self.noted = time.monotonic()

    def work(self) -> None:
        """Do what is left.

        Raises:
            Stopped: when a signal asked for it.
        """
        if self.index:
            self.clear()  # the process may have been killed before it could
        with tqdm(total=len(self.sources), initial=self.index, unit="file") as bar:
            while self.index < len(self.sources):
                source = self.sources[self.index]
                if source.kind == "image":
                    self.images(self.block(), bar)
                    self.note()
                else:
                    self.run_video(source)
                    self.index += 1
                    self.inside = None
                    bar.update()
                    self.note(now=True)
                    self.clear()
                if self.stop.received and self.index < len(self.sources):
                    raise Stopped(f"after {source.shown!r}")

    def clear(self) -> None:
        """Delete the parts of the last video: it is noted that they are not needed any more."""
        source = self.sources[self.index - 1]
        if self.video.folder is not None and source.kind != "image":
            remove_parts(drawn_video(self.video.folder, source))

    def fail(self, message: str) -> None:
        logger.error("%s", message)
        self.failures += 1

    # ---- Images

    def block(self) -> list[Source]:
        """The next images without a video between them, no more than are computed together."""
        most = islice(self.sources, self.index, self.index + BLOCK_BATCHES * self.batch_size)
        unfinished = []
        for source in most:
            if source.kind != "image":
                break
            unfinished.append(source)
        return unfinished

    def images(self, block: list[Source], bar: tqdm) -> None:
        names = [source.name for source in block]
        for source, instances in zip(block, self.prediction.detect(names)):
            if isinstance(instances, FailedInput):  # the others still get their results
                self.fail(instances.message)
                self.count += 1
            else:
                pixels = once(partial(self.prediction.read, source.name))
                self.write(self.result(source, instances, pixels))
            self.index += 1
            bar.update()
            self.flush_at_times()
            if self.stop.received and source is not block[-1]:
                raise Stopped(f"after {source.shown!r}")

    # ---- Videos

    def run_video(self, source: Source) -> None:
        inside = self.inside or {}
        tracker = writer = None
        try:
            video = open_video(source)
            if self.video.track:
                rate = float(video.rate) / self.video.stride
                tracker = Tracker(self.prediction.threshold, rate, inside.get("tracker"))
            if self.video.folder is not None:
                target = drawn_video(self.video.folder, source)
                writer = VideoWriter(target, video.time_base, video.rate, inside.get("parts", 0))
            if not self.frames(video, tracker, writer):
                raise ImageReadError(f"video {source.shown!r} has no frame that can be read")
        except ImageReadError as error:
            self.fail(str(error))  # earlier results stay
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

    def frames(
        self,
        video: PyAVVideo | OpenCVVideo,
        tracker: Tracker | None,
        writer: VideoWriter | None,
    ) -> int:
        """Look at the frames that are left; returns how many there were with those before."""
        source = video.source
        inside = self.inside or {}
        after = Mark(**inside["mark"]) if inside else None
        taken: int = inside.get("taken", 0)
        live = source.kind == "live"
        waiting: deque[Frame] = deque()
        most = self.video.frames

        def frames() -> Iterator[np.ndarray]:
            left = None if most is None else max(most - taken, 0)
            with contextlib.closing(video.frames(self.video.stride, after)) as read_frames:
                for frame in islice(read_frames, left):
                    waiting.append(frame)
                    yield frame.pixels

        total = video.count and -(-video.count // self.video.stride)
        total = min(filter(None, (total, most)), default=None)
        part_begin = time.monotonic()
        options = {"unit": "frame", "desc": Path(source.shown).name, "leave": False}
        with tqdm(total=total, initial=taken, **options) as bar:
            for instances in self.prediction.detect(frames()):
                frame = waiting.popleft()
                if isinstance(instances, FailedInput):
                    raise ImageReadError(
                        f"frame {frame.number} of {source.shown!r}: {instances.message}"
                    )
                read = partial(attrgetter("pixels"), frame)
                result = self.result(source, instances, read, frame, tracker)
                self.write(result)
                if writer is not None:
                    writer.add(frame, result.drawn(**self.video.style))
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
                    assert video.origin is not None
                    self.inside = {
                        "mark": vars(Mark(frame.number, frame.time, video.origin)),
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
        instances: Instances,
        read: Callable[[], np.ndarray],
        frame: Frame | None = None,
        tracker: Tracker | None = None,
    ) -> Result:
        boxes, scores = instances.pred_boxes.tensor.numpy(), instances.scores.numpy()
        labels = instances.pred_classes.numpy()
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
            size=instances.image_size,
            boxes=boxes[reported],
            scores=scores[reported].tolist(),
            labels=labels[reported].tolist(),
            identities=identities,
            names=self.prediction.names,
            read=read,
            masks=instances.pred_masks[reported] if instances.has("pred_masks") else None,
            keypoints=(
                instances.pred_keypoints.numpy()[reported]
                if instances.has("pred_keypoints")
                else None
            ),
            skeleton=self.prediction.skeleton,
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
                video = self.inside
                if video is not None and tracker is not None:
                    video = {**video, "tracker": tracker.state()}
                self.progress.save(
                    position={"source": self.index, "count": self.count, "video": video},
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
