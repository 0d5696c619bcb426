"""What image files are: each is read once, by several processes."""

from __future__ import annotations

import errno
import hashlib
import io
import multiprocessing
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import ExifTags, Image
from tqdm import tqdm

from ..workers import end_with_parent
from .images import decode_image, is_array, max_pixels, open_picture

# Larger files are not read.
LARGEST_FILE = 2**30
# Formats whose files are rightly named as those of another.
ALIKE = {"MPO": "JPEG", "DIB": "BMP", "APNG": "PNG"}
# Beginnings of what is downloaded in place of images.
IMPOSTORS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the image itself"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<?xml", "XML"),
    (b"{", "JSON"),
)
# Images are handed to a process by so many.
CHUNK = 16


@dataclass(frozen=True)
class ImageFacts:
    """What a file is.

    Attributes:
        fault: kind of finding that keeps it from being used, "" if nothing does.
        message: of that finding.
        format: PIL's name of what the content is.
        named: format that the name's ending stands for; "" if that says nothing.
        mode: PIL's mode of the pixels.
        stored_size: (H, W) in the file.
        size: (H, W) as it is shown; None if there is none.
        orientation: EXIF's number, 1 for upright.
        digest: hash of the content.
        pixel_digest: hash of the pixels.
    """

    fault: str = ""
    message: str = ""
    format: str = ""
    named: str = ""
    mode: str = ""
    stored_size: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    orientation: int = 1
    digest: bytes = b""
    pixel_digest: bytes = b""


def named_format(path: str) -> str:
    """Format that the ending of a file's name stands for, "" if none."""
    ending = os.path.splitext(path)[1].lower()
    named = "NPY" if ending == ".npy" else Image.registered_extensions().get(ending, "")
    return ALIKE.get(named, named)


def digest(content: bytes | memoryview) -> bytes:
    # In hardware on most machines, and so the fastest of hashlib.
    return hashlib.sha256(content).digest()[:16]


def find_file_fault(path: str) -> ImageFacts | None:
    """Why a path is no file that can be read; None if it may be one."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", None)
        if number in (errno.ENOENT, errno.ENOTDIR):
            kind, reason = "image_missing", "there is no such file"
            if os.path.islink(path):
                reason = f"it is a link to {os.readlink(path)!r}, which does not exist"
        else:
            kind = "image_unreadable"
            reason = os.strerror(number) if number else str(error)
        return ImageFacts(kind, f"{reason}, expected an image file")
    if stat.S_ISDIR(status.st_mode):
        return ImageFacts("image_unreadable", "it is a folder, expected an image file")
    if not stat.S_ISREG(status.st_mode):
        return ImageFacts("image_unreadable", "it is no regular file, expected an image file")
    if status.st_size == 0:
        return ImageFacts("image_empty", "the file has no bytes")
    if status.st_size > LARGEST_FILE:
        size = f"{status.st_size / 2**30:.1f} GiB"
        return ImageFacts("image_unreadable", f"the file has {size}, expected at most 1 GiB")
    return None


def read_header(file: io.BufferedIOBase, channels: int) -> ImageFacts:
    """Format, mode and size by the beginning of an image file.

    Raises:
        Exception: whatever PIL raises when it is none.
    """
    start = file.read(6)
    file.seek(0)
    if is_array(start):
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape = read(file)[0]
        if len(shape) not in (2, 3) or 0 in shape:
            raise ValueError(f"its shape is {shape}, expected (H, W, {channels})")
        size = (int(shape[0]), int(shape[1]))
        return ImageFacts(format="NPY", mode=f"array {shape}", stored_size=size, size=size)
    with open_picture(file, max_pixels()) as image:
        stored = image.height, image.width
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        turned = orientation in (5, 6, 7, 8) and channels in (1, 3)
        return ImageFacts(
            format=ALIKE.get(image.format or "", image.format or ""),
            mode="transparent" if "transparency" in image.info else image.mode,
            stored_size=stored,
            size=stored[::-1] if turned else stored,
            orientation=orientation if orientation in range(1, 9) else 1,
        )


def describe_damage(content: bytes, error: Exception) -> tuple[str, str]:
    """Kind and message for a file that cannot be decoded."""
    reason = str(error.__cause__ or error).replace("<_io.BytesIO object at ", "<").strip()
    start = content[:64].lstrip().lower()
    for beginning, name in IMPOSTORS:
        if start.startswith(beginning.lower()):
            return "image_unreadable", f"it is {name}, expected an image"
    if isinstance(error.__cause__ or error, Image.UnidentifiedImageError):
        return "image_unreadable", "its content is no image of a known format"
    if "truncated" in reason or "not processed" in reason or "EOF" in reason:
        return "image_truncated", f"the file ends before the image does: {reason}"
    return "image_unreadable", reason or type(error).__name__


def inspect_image(path: str, *, decode: bool = True, channels: int = 3) -> ImageFacts:
    """What a file is; never raises for what is in it.

    Args:
        path: of the file.
        decode: read all of it; otherwise its header alone, which shows no later damage.
        channels: that the network takes, see `images.read_image`.
    """
    fault = find_file_fault(path)
    if fault is not None:
        return fault
    content = b""
    try:
        with warnings.catch_warnings():
            # What PIL wants to say about odd metadata and large images.
            warnings.simplefilter("ignore")
            if not decode:
                with open(path, "rb") as file:
                    content = file.read(64)
                    file.seek(0)
                    facts = read_header(file, channels)
                return with_name(facts, path)
            with open(path, "rb") as file:
                content = file.read()
            pixels = decode_image(content, path, channels=channels)
            facts = read_header(io.BytesIO(content), channels)
    except MemoryError:
        return ImageFacts("image_unreadable", "it does not fit into memory")
    except OSError as error:
        if error.errno:  # of the file, not of its content
            return ImageFacts("image_unreadable", error.strerror or str(error))
        return ImageFacts(*describe_damage(content, error))
    except Exception as error:  # a damaged file can make PIL's readers raise almost anything
        return ImageFacts(*describe_damage(content, error))
    size = pixels.shape[0], pixels.shape[1]
    contiguous = np.ascontiguousarray(pixels)
    return with_name(
        facts,
        path,
        size=size,
        digest=digest(content),
        pixel_digest=digest(contiguous.data.cast("B")) + repr(size).encode(),
    )


def with_name(facts: ImageFacts, path: str, **more) -> ImageFacts:
    """Facts with the format that the name implies, and more."""
    return ImageFacts(**{**vars(facts), "named": named_format(path), **more})


def inspect_chunk(paths: Sequence[str], channels: int) -> list[ImageFacts]:
    """`inspect_image` of some files; in a worker process."""
    return [inspect_image(path, channels=channels) for path in paths]


@contextmanager
def process_pool(workers: int) -> Iterator[Executor]:
    """Processes whose outstanding work is given up when something is raised."""
    # Forked, as the loaders' are: a new interpreter would take seconds to load torch.
    context = multiprocessing.get_context(
        "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    )
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=end_with_parent, initargs=(os.getpid(),)
    )
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def inspect_images(
    paths: Sequence[str], *, workers: int = 1, channels: int = 3, progress: bool = False
) -> list[ImageFacts]:
    """`inspect_image` of many files, in their order.

    Args:
        paths: of the files.
        workers: processes; 1 reads in this one.
        channels: see `inspect_image`.
        progress: show a bar.

    Raises:
        OSError: when a process dies, as it does when it gets no more memory.
    """
    chunks = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]
    work = partial(inspect_chunk, channels=channels)
    facts: list[ImageFacts] = []
    bar = partial(tqdm, total=len(paths), unit="image", desc="images", disable=not progress)
    if workers <= 1 or len(chunks) <= 1:
        with bar() as shown:
            for chunk in chunks:
                facts += work(chunk)
                shown.update(len(chunk))
        return facts
    with process_pool(min(workers, len(chunks))) as pool:
        # Before the bar, whose thread a fork should not meet.
        results = pool.map(work, chunks)
        try:
            with bar() as shown:
                for chunk in results:
                    facts += chunk
                    shown.update(len(chunk))
        except BrokenProcessPool as error:
            raise OSError(
                f"a process died while it read one of the images from {paths[len(facts)]!r} on: "
                "--workers 1 needs less memory"
            ) from error
    return facts
