"""H.264 videos that are written part by part, and joined at the end.

PyAV (the extra "video") writes; without it no video is written.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..files.writing import TEMPORARY_SUFFIX, atomic_write
from .extras import INSTALL_VIDEO
from .video_reader import Frame

logger = logging.getLogger("yolor_d2.predict")

# Encoders of H.264 by preference; which of them there are is a matter of how FFmpeg was built.
ENCODERS = ("libx264", "libopenh264")
# Without frames that refer to later ones every part ends where the next begins. A key frame every
# four seconds or so lets a browser jump.
ENCODER_OPTIONS = {"crf": "23", "preset": "veryfast", "bf": "0", "g": "100"}
# Number of BT.709 among the colour spaces, and of the range 16-235, which players expect.
BT709, LIMITED_RANGE = 1, 1
PARTS_SUFFIX = ".parts"
# Number of the part, time of its first frame, number of its frames.
PART = re.compile(r"\d{6,}_\d+_\d+\.mp4")


class VideoWriter:
    """Writes a video in parts, whole files each, which `finish` joins without encoding them again.

    A part is encoded in memory and appears under its name when it is on the disk: whatever ends the
    process, the parts are whole, and a full disk is an error with the file's name.

    Args:
        target: the video, .mp4; its parts lie in a folder beside it until it is finished.
        time_base: seconds of a unit of time.
        rate: frames per second, on average.
        parts: that are there already; others are deleted.
    """

    def __init__(self, target: Path, time_base: Fraction, rate: Fraction, parts: int = 0):
        self.target = target
        self.folder = parts_folder(target)
        self.time_base = time_base
        self.rate = rate
        self.size: tuple[int, int] | None = None  # (W, H)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.parts = []
        for path in own_files(self.folder):
            if PART.fullmatch(path.name) and len(self.parts) < parts:
                self.parts.append(path)
            else:
                path.unlink()
        if len(self.parts) < parts:
            raise FileNotFoundError(
                f"--resume: {str(self.folder)!r} has {len(self.parts)} parts of the video, "
                f"expected {parts}"
            )
        self.told = False  # that sizes differ
        self.frames = 0  # of the part that is being written
        self.begin = 0
        self.buffer = io.BytesIO()
        self.container: Any = None
        self.stream: Any = None

    def add(self, frame: Frame, pixels: np.ndarray) -> None:
        """Encode (H, W, 3) RGB pixels to be shown when the frame was."""
        import av

        if self.container is None:
            self.begin_part(frame, pixels)
        assert self.size is not None
        if even_size(pixels) != self.size:  # a stream may change its size, a video may not
            if not self.told:
                logger.warning(
                    "%s: frame %d is %d x %d; from there frames are scaled to %d x %d",
                    *(self.target, frame.number, pixels.shape[1], pixels.shape[0], *self.size),
                )
            self.told = True
            pixels = cv2.resize(pixels, self.size, interpolation=cv2.INTER_AREA)
        odd = ((0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0))
        if any(more for _, more in odd):
            pixels = np.pad(pixels, odd, "edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709")
        picture.pts, picture.time_base = frame.time - self.begin, self.time_base
        self.frames += 1
        self.container.mux(self.stream.encode(picture))

    def begin_part(self, frame: Frame, pixels: np.ndarray) -> None:
        import av

        if self.size is None:
            self.size = read_size(self.parts[0]) if self.parts else even_size(pixels)
        self.begin, self.frames, self.buffer = frame.time, 0, io.BytesIO()
        self.container = av.open(self.buffer, "w", format="mp4")
        self.stream = self.container.add_stream(find_encoder(), options=ENCODER_OPTIONS)
        context = self.stream.codec_context
        context.width, context.height = self.size
        context.pix_fmt = "yuv420p"
        context.framerate, context.time_base = self.rate, self.time_base
        context.color_range, context.colorspace = LIMITED_RANGE, BT709
        context.color_primaries, context.color_trc = BT709, BT709
        self.stream.time_base = self.time_base

    def end_part(self) -> None:
        """Put what was encoded on the disk."""
        if self.container is None:
            return
        self.container.mux(self.stream.encode())
        self.container.close()
        self.container = None
        path = self.folder / f"{len(self.parts):06d}_{self.begin}_{self.frames}.mp4"
        with atomic_write(path) as file:
            file.write(self.buffer.getbuffer())
        self.parts.append(path)

    def finish(self) -> None:
        """Join the parts; the video appears whole, with its index in front.

        Raises:
            OSError: when it cannot be written, or does not hold every frame.
        """
        self.end_part()
        if not self.parts:
            return
        # A name of its own, as the muxer reads again what it has written.
        temporary = self.target.with_name(f".{self.target.name}.tmp")
        try:
            frames = join(self.parts, temporary, self.time_base)
            check_video(temporary, self.target, frames)
            descriptor = os.open(temporary, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, self.target)
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(self.target)) from error
        finally:
            temporary.unlink(missing_ok=True)


def parts_folder(target: Path) -> Path:
    return target.with_name(target.name + PARTS_SUFFIX)


def own_files(folder: Path) -> list[Path]:
    """Parts, and what interrupted writes have left of them, in their order."""
    files = folder.iterdir() if folder.is_dir() else []
    return sorted(x for x in files if PART.fullmatch(x.name.removesuffix(TEMPORARY_SUFFIX)))


def remove_parts(target: Path) -> None:
    """Delete the parts of a video that is finished."""
    folder = parts_folder(target)
    for path in own_files(folder):
        path.unlink()
    with contextlib.suppress(OSError):  # files of somebody else stay, and so does the folder
        folder.rmdir()


def even_size(pixels: np.ndarray) -> tuple[int, int]:
    """(W, H) of a video of such pictures: yuv420p has one colour for two by two of them."""
    height, width = pixels.shape[:2]
    return width + width % 2, height + height % 2


def read_size(path: Path) -> tuple[int, int]:
    import av

    with av.open(path) as video:
        context = video.streams.video[0].codec_context
        return context.width, context.height


def find_encoder() -> str:
    import av

    for name in ENCODERS:
        if name in av.codecs_available:
            return name
    raise ValueError(f"PyAV has no encoder of H.264 ({', '.join(ENCODERS)}): {INSTALL_VIDEO}")


def join(parts: list[Path], target: Path, time_base: Fraction) -> int:
    """Copy the packets of parts into one video, each at its time; returns how many frames."""
    import av

    written = 0
    with av.open(target, "w", format="mp4", options={"movflags": "faststart"}) as video:
        stream: Any = None
        for path in parts:
            _, begin, frames = map(int, path.stem.split("_"))
            before = written
            with av.open(path) as part:
                if stream is None:
                    stream = video.add_stream_from_template(part.streams.video[0])
                    stream.time_base = time_base
                for packet in part.demux(part.streams.video[0]):
                    if packet.pts is None:
                        continue  # the end
                    packet.pts = packet.dts = begin + round(
                        packet.pts * packet.time_base / time_base
                    )
                    packet.duration = round(packet.duration * packet.time_base / time_base)
                    packet.time_base = time_base
                    packet.stream = stream
                    video.mux(packet)
                    written += 1
            if written - before != frames:
                raise OSError(f"{str(path)!r} has {written - before} frames, expected {frames}")
    return written


def check_video(path: Path, target: Path, frames: int) -> None:
    """Raise an OSError unless a video's index has so many frames."""
    import av

    try:
        with av.open(path) as video:
            count = video.streams.video[0].frames
    except av.FFmpegError as error:
        raise OSError(f"{str(target)!r} was not written whole: {error}") from error
    if count != frames:
        raise OSError(f"{str(target)!r} was written with {count} frames, expected {frames}")
