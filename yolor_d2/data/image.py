"""Reading image files of any usual kind as 8-bit colour, and arrays of other channels."""

from __future__ import annotations

import io
import math
import os
import stat
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, ImageSequence, UnidentifiedImageError

# Second bytes of JPEG markers.
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
# Headers of the usual frames: length (2 bytes), bits, height (2), width (2), number of channels.
FRAMES = (0xC0, 0xC1, 0xC2)
# EXIF and XMP, which may name an orientation; several pictures in one file.
METADATA = (0xE1, 0xE2)
# What may follow 0xFF inside a scan or before the next one: a stuffed zero, filling, a restart, the
# tables and the header of the next scan.
IN_SCAN = np.isin(np.arange(256), [0x00, 0xFF, *range(0xD0, 0xD8), 0xC4, START_OF_SCAN])


# Threads that ask for sizes of files, and files that one asks for in turn.
QUESTIONS, TOGETHER = 16, 50


class ImageReadError(ValueError):
    """A file that cannot be read as an image; the message names it."""

    def __init__(self, message: str = ""):
        # What a worker process raised comes back with its traceback in the message.
        if "Original Traceback" in message:
            message = message.strip().rpartition("Error: ")[2]
        super().__init__(message)


class MissingImageError(ImageReadError, FileNotFoundError):
    """A path at which there is no file."""


def check_channel_order(channel_order: str) -> None:
    """Raise a ValueError unless the order is "RGB" or "BGR"."""
    if channel_order not in ("RGB", "BGR"):
        raise ValueError(f"INPUT.FORMAT is {channel_order!r}, expected 'RGB' or 'BGR'")


def to_8bit(image: Image.Image) -> Image.Image:
    """An RGB image; 16-bit grey values keep their upper byte, transparency is dropped."""
    if image.mode.startswith("I"):  # PIL would clip 16-bit values to 255 instead of scaling them
        grey = np.asarray(image)
        if image.mode != "I" or grey.max() > 255:
            grey = grey >> 8
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def is_plain_jpeg(content: bytes) -> bool:
    """Whether OpenCV decodes a file to the pixels that PIL makes of it, in less time.

    Both use libjpeg-turbo. For PIL are left: other formats; four channels; images to be turned;
    images that it would refuse for their size; and files with a marker that does not belong to
    where it is, as damaged ones have it. Of those OpenCV fills up the missing part and tells
    nobody.
    """
    if not content.startswith(b"\xff\xd8") or not content.endswith(bytes([0xFF, END_OF_IMAGE])):
        return False
    most_pixels = Image.MAX_IMAGE_PIXELS or math.inf
    place, fits, metadata = 2, False, False
    while content[place] == 0xFF and (marker := content[place + 1]) != START_OF_SCAN:
        if marker in FRAMES:
            bits, height, width, channels = struct.unpack_from(">BHHB", content, place + 4)
            fits = bits == 8 and channels in (1, 3) and height * width <= most_pixels
        metadata |= marker in METADATA
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        if place + 1 >= len(content):
            return False
    data = np.frombuffer(content, np.uint8)[place + 2 :]
    codes = data[1:][data[:-1] == 0xFF]
    if not fits or not len(codes) or codes[-1] != END_OF_IMAGE or not IN_SCAN[codes[:-1]].all():
        return False
    if not metadata:
        return True
    with Image.open(io.BytesIO(content)) as image:
        return image.format == "JPEG" and image.getexif().get(ExifTags.Base.Orientation, 1) == 1


def decode_jpeg(content: bytes, channel_order: str) -> np.ndarray | None:
    """(H, W, 3) uint8 of a plain JPEG, see `is_plain_jpeg`; None if it cannot be decoded."""
    flag = cv2.IMREAD_COLOR_RGB if channel_order == "RGB" else cv2.IMREAD_COLOR_BGR
    return cv2.imdecode(np.frombuffer(content, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)


def decode_colour(content: bytes, channel_order: str) -> np.ndarray:
    """(H, W, 3) uint8 of an image file's content, see `read_image`."""
    if is_plain_jpeg(content):
        pixels = decode_jpeg(content, channel_order)
        if pixels is not None:
            return pixels
    with Image.open(io.BytesIO(content)) as file:
        pixels = np.asarray(to_8bit(ImageOps.exif_transpose(file)))
    return pixels if channel_order == "RGB" else np.ascontiguousarray(pixels[:, :, ::-1])


def decode_channels(content: bytes, channels: int) -> np.ndarray:
    """(H, W, channels) uint8 of an image file's content, channels in the order of the file.

    The pages of one file, as a TIFF may have them, follow each other; 16 bits keep the upper byte.

    Raises:
        ValueError: when the file has another number of channels.
    """
    with Image.open(io.BytesIO(content)) as file:
        if channels == 1:
            return np.asarray(ImageOps.exif_transpose(file).convert("RGB").convert("L"))[..., None]
        pages = []
        for page in ImageSequence.Iterator(file):
            pixels = np.asarray(page)
            pixels = pixels if pixels.ndim == 3 else pixels[..., None]
            if pages and pixels.shape[:2] != pages[0].shape[:2]:
                raise ValueError(
                    f"its pages are of different sizes, {pages[0].shape[:2]} and {pixels.shape[:2]}"
                )
            pages.append(pixels)
            if sum(x.shape[2] for x in pages) > channels:
                break
    pixels = np.concatenate(pages, axis=2)
    if pixels.shape[2] != channels:
        more = "or more " if pixels.shape[2] > channels else ""
        raise ValueError(f"it has {pixels.shape[2]} {more}channels, expected {channels}")
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"its values are {pixels.dtype}, expected 8 or 16 bits without sign")
    return pixels


def decode_array(content: bytes, channels: int) -> np.ndarray:
    """(H, W, channels) uint8 of the content of a .npy file.

    Raises:
        ValueError: when it holds anything else; nothing in it is run.
    """
    pixels = np.load(io.BytesIO(content), allow_pickle=False)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] != channels or 0 in pixels.shape:
        raise ValueError(f"its shape is {pixels.shape}, expected (H, W, {channels})")
    if pixels.dtype != np.uint8:
        raise ValueError(f"its values are {pixels.dtype}, expected uint8")
    return np.ascontiguousarray(pixels)


def is_array(content: bytes) -> bool:
    """Whether this is the content of a .npy file."""
    return content.startswith(b"\x93NUMPY")


def file_size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):  # who opens it will say why
        return -1


def file_sizes(paths: Sequence[str]) -> list[int]:
    """Bytes of files, -1 for those that cannot be asked. A file system far away answers many
    questions at a time, but each of them late."""

    def ask(start: int) -> list[int]:
        return [file_size(path) for path in paths[start : start + TOGETHER]]

    with ThreadPoolExecutor(QUESTIONS) as pool:
        parts = pool.map(ask, range(0, len(paths), TOGETHER))
        return [size for part in parts for size in part]


def read_regular_file(path: str | Path) -> bytes:
    """Content of a file; devices and pipes, whose reading may never end, are refused."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is no regular file")
    with open(path, "rb") as file:
        return file.read()


def decode_image(
    content: bytes, path: str | Path, channel_order: str = "RGB", channels: int = 3
) -> np.ndarray:
    """An image from the content of its file, see `read_image`.

    Raises:
        ImageReadError: when it is empty, truncated, damaged or no image.
    """
    try:
        if is_array(content):
            pixels = decode_array(content, channels)
            reverse = channels == 3 and channel_order == "BGR"
            return np.ascontiguousarray(pixels[:, :, ::-1]) if reverse else pixels
        if channels == 3:
            return decode_colour(content, channel_order)
        return decode_channels(content, channels)
    except UnidentifiedImageError as error:
        reason = "its content is no image of a known format" if content else "the file is empty"
        raise ImageReadError(f"cannot read image {str(path)!r}: {reason}") from error
    except Exception as error:  # a damaged file can make PIL's readers raise almost anything
        raise ImageReadError(f"cannot read image {str(path)!r}: {error}") from error


def read_image(path: str | Path, channel_order: str = "RGB", channels: int = 3) -> np.ndarray:
    """Read an image as a person would see it, with its EXIF orientation applied.

    Args:
        path: file of any format that PIL knows: grey, colour, palette, with or without
            transparency, 8 or 16 bits; or a .npy file of (H, W, channels) uint8.
        channel_order: "RGB" or "BGR", of three channels; others come in the order of the file.
        channels: 3 reads any image as colour, 1 as grey; other numbers are those of an array or of
            all pages of a file together, as they are, without regard to EXIF.

    Returns:
        (H, W, channels) uint8.

    Raises:
        MissingImageError: when there is no such file.
        ImageReadError: when the file is empty, truncated, damaged or no image.
    """
    check_channel_order(channel_order)
    try:
        content = read_regular_file(path)
    except FileNotFoundError as error:
        raise MissingImageError(
            f"cannot read image {str(path)!r}: there is no such file"
        ) from error
    except Exception as error:  # OSError, or ValueError of a name that cannot be one
        raise ImageReadError(f"cannot read image {str(path)!r}: {error}") from error
    return decode_image(content, path, channel_order, channels)
