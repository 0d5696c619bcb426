"""Videos, cameras and streams: frames with their numbers and times.

PyAV (the extra "video") reads them; where it is missing, OpenCV does.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import cv2
import numpy as np

from ..files.images import ImageReadError
from .extras import INSTALL_VIDEO, has_pyav
from .sources import Source

logger = logging.getLogger("yolor_d2.predict")

# Ticks of cameras, which have no clock of their own.
CAMERA_TIME_BASE = Fraction(1, 90_000)
# Where a video does not say it.
USUAL_RATE = Fraction(25)
# Seconds to wait for a stream to open, and for its next packet.
PATIENCE = (15.0, 15.0)


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Attributes:
        number: from 0, counted in the video.
        time: since the first frame, in the video's time base.
        seconds: the same in seconds.
        pixels: (H, W, 3) uint8 RGB, upright as players show it.
    """

    number: int
    time: int
    seconds: float
    pixels: np.ndarray


@dataclass(frozen=True)
class Mark:
    """A frame to go on behind.

    Attributes:
        number: see `Frame`.
        time: see `Frame`.
        origin: time stamp of the first frame.
    """

    number: int
    time: int
    origin: int


def open_video(source: Source) -> PyAVVideo | OpenCVVideo:
    """Open a video, camera or stream.

    Raises:
        ImageReadError: when it cannot be read.
    """
    if source.is_camera or not has_pyav():
        return OpenCVVideo(source)
    return PyAVVideo(source)


class PyAVVideo:
    """A video that FFmpeg reads.

    Attributes:
        rate: frames per second, on average.
        count: of frames as the video claims, None if it does not.
        time_base: seconds of a unit of time.
        origin: time stamp of the first frame; known when that has been read.
    """

    def __init__(self, source: Source):
        self.source = source
        self.container = self.open()
        if not self.container.streams.video:
            self.container.close()
            raise ImageReadError(f"cannot read video {source.shown!r}: it has no pictures")
        stream = self.stream
        self.rate: Fraction = stream.average_rate or stream.guessed_rate or USUAL_RATE
        self.count: int | None = stream.frames or None
        self.time_base: Fraction = stream.time_base or CAMERA_TIME_BASE
        self.origin: int | None = None

    @property
    def stream(self) -> Any:
        return self.container.streams.video[0]

    def open(self) -> Any:
        import av

        live = self.source.kind == "live"
        # Over UDP, the default, frames get lost; other protocols know no such option.
        options = {"rtsp_transport": "tcp"} if self.source.name.startswith("rtsp") else {}
        try:
            container = av.open(
                self.source.name, options=options, timeout=PATIENCE if live else None
            )
        except (av.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ImageReadError(f"cannot read video {self.source.shown!r}: {reason}") from error
        for stream in container.streams.video:
            stream.thread_type = "AUTO"
        return container

    def close(self) -> None:
        self.container.close()

    def frames(self, stride: int = 1, after: Mark | None = None) -> Iterator[Frame]:
        """Every frame whose number is a multiple of the stride, behind a mark if there is one.

        Raises:
            ImageReadError: when reading fails, or the video no longer has the marked frame.
        """
        try:
            yield from self.read(stride, after)
        finally:
            self.close()

    def read(self, stride: int, after: Mark | None) -> Iterator[Frame]:
        if after is None:
            decoded, number, last = self.decode(), -1, None
        else:
            self.origin = after.origin
            decoded, number, last = self.decode_behind(after), after.number, after.time
        step = max(round(1 / self.rate / self.time_base), 1)
        for frame in decoded:
            number += 1
            stamp = frame.pts
            if self.origin is None:
                self.origin = stamp or 0
            moment = None if stamp is None else stamp - self.origin
            if last is not None and (moment is None or moment <= last):
                moment = last + step  # some videos repeat time stamps, or have none
            last = moment = moment or 0
            if number % stride == 0:
                seconds = float(moment * self.time_base)
                yield Frame(number, moment, seconds, upright(frame))

    def decode(self) -> Iterator[Any]:
        import av

        damaged = 0
        try:
            for packet in self.container.demux(self.stream):
                try:
                    yield from packet.decode()
                except av.error.InvalidDataError:
                    damaged += 1  # as after a lost packet; the next key frame mends it
        except (av.FFmpegError, OSError) as error:
            raise ImageReadError(f"cannot read video {self.source.shown!r}: {error}") from error
        if damaged:
            logger.warning("%s: %d packets cannot be decoded", self.source.shown, damaged)

    def decode_behind(self, mark: Mark) -> Iterator[Any]:
        """Frames behind a mark: by a jump where that finds the frame, else by counting."""
        import av

        wanted = mark.time + mark.origin
        # It cannot jump where there is no index.
        with contextlib.suppress(av.FFmpegError, OSError):
            self.container.seek(wanted, stream=self.stream, backward=True)
            frames = self.decode()
            for frame in frames:
                if frame.pts is None or frame.pts > wanted:
                    break
                if frame.pts == wanted:
                    return frames
        self.container.close()
        self.container = self.open()
        frames = self.decode()
        if sum(1 for _, _ in zip(range(mark.number + 1), frames)) <= mark.number:
            raise ImageReadError(
                f"--resume: {self.source.shown!r} has no frame {mark.number} any more"
            )
        return frames


def upright(frame: Any) -> np.ndarray:
    """Pixels as players show them: turned as the video's metadata say."""
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4  # counter-clockwise
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


class OpenCVVideo:
    """A camera, or a video where PyAV is missing; see `PyAVVideo`."""

    def __init__(self, source: Source):
        self.source = source
        self.video = cv2.VideoCapture(int(source.name) if source.is_camera else source.name)
        if not self.video.isOpened():
            what = "camera" if source.is_camera else "video"
            hint = "" if source.is_camera else f"; PyAV reads more ({INSTALL_VIDEO})"
            raise ImageReadError(f"cannot read {what} {source.shown!r}{hint}")
        rate = self.video.get(cv2.CAP_PROP_FPS)
        self.rate = Fraction(rate).limit_denominator(1001) if rate > 0 else USUAL_RATE
        count = int(self.video.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = count if count > 0 else None
        self.time_base = CAMERA_TIME_BASE
        self.origin: int | None = None

    def close(self) -> None:
        self.video.release()

    def frames(self, stride: int = 1, after: Mark | None = None) -> Iterator[Frame]:
        number, last = -1, -1
        begin = time.monotonic()
        try:
            while self.video.grab():
                number += 1
                milliseconds = self.video.get(cv2.CAP_PROP_POS_MSEC)
                if self.source.kind == "live":
                    milliseconds = 1000 * (time.monotonic() - begin)
                stamp = round(milliseconds / 1000 / self.time_base)
                if self.origin is None:
                    self.origin = stamp
                last = max(stamp - self.origin, last + 1)
                skipped = after is not None and number <= after.number
                if not skipped and number % stride == 0:
                    _, pixels = self.video.retrieve()
                    seconds = float(last * self.time_base)
                    yield Frame(number, last, seconds, pixels[:, :, ::-1])
        finally:
            self.close()
