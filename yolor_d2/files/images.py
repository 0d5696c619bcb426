"""Reading image files of any usual kind as 8-bit colour, and arrays of other channels."""

from __future__ import annotations

import io
import os
import re
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

# Pixels of the largest image that is read unless `limit_pixels` says otherwise, for a small file
# may claim any number. Pillow's own limit is 179 million.
DEFAULT_MAX_PIXELS = 250_000_000
# Where the limit is kept, so that worker processes inherit it, forked or not.
MAX_PIXELS_VARIABLE = "YOLOR_D2_MAX_PIXELS"
# Bytes of memory that decoding takes for each pixel at most: Pillow's 4, as many where transparency
# is dropped, and two copies of the 3 of the result. Measured of 200 million pixels: 10.0 for a PNG
# in colour, 11.0 in grey; 6.0 for a JPEG, which OpenCV decodes.
DECODING_BYTES = 14


class ImageReadError(ValueError):
    """A file that cannot be read as an image; the message names it."""

    def __init__(self, message: str = ""):
        # What a worker process raised comes back with its traceback in the message.
        if "Original Traceback" in message:
            message = message.strip().rpartition("Error: ")[2]
        super().__init__(message)


class MissingImageError(ImageReadError, FileNotFoundError):
    """A path at which there is no file."""


class TooManyPixelsError(ValueError):
    """An image has more pixels than are to be read; nothing of it has been decoded."""


def max_pixels() -> int:
    """Pixels of the largest image that is read.

    Raises:
        ValueError: when the environment names something else than a whole number.
    """
    value = os.environ.get(MAX_PIXELS_VARIABLE, "")
    if value and not (value.isdecimal() and int(value) > 0):
        raise ValueError(f"{MAX_PIXELS_VARIABLE} is {value!r}, expected a number of pixels above 0")
    return int(value or DEFAULT_MAX_PIXELS)


def limit_pixels(limit: int) -> None:
    """Set `max_pixels` for this process and those that it starts."""
    os.environ[MAX_PIXELS_VARIABLE] = str(limit)


def most_pixels_in_memory() -> int:
    """Pixels of the largest image that this machine's memory can decode: the limit for who asks for
    a large image on purpose."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return max_pixels()
    return max(memory // DECODING_BYTES, max_pixels())


def check_pixels(pixels: int, limit: int) -> None:
    """Raise a TooManyPixelsError if an image of so many pixels is beyond the limit."""
    if pixels <= limit:
        return
    said = f"it has {pixels:,} pixels, whose decoding takes up to"
    memory = f"{DECODING_BYTES * pixels / 1e9:,.2g} GB of memory"
    if limit > max_pixels():
        raise TooManyPixelsError(f"{said} {memory}, more than this machine has")
    raise TooManyPixelsError(
        f"{said} {memory}; the limit is {limit:,} (INPUT.MAX_PIXELS). If the file can be trusted, "
        f"set INPUT.MAX_PIXELS {pixels}; yolor-d2 predict --tile N reads it at full size"
    )


def open_picture(file: io.BufferedIOBase, limit: int) -> Image.Image:
    """PIL's image of a file; nothing is decoded yet.

    Raises:
        TooManyPixelsError: when its header claims more pixels than the limit.
        Exception: whatever PIL raises when it is no image.
    """
    # Pillow's own limit is for the whole process; it only has to let ours through.
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limit)
    try:
        image = Image.open(file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        claimed = re.search(r"\d+", str(error))
        if claimed is None:
            raise
        check_pixels(int(claimed.group()), limit)
        raise
    check_pixels(image.width * image.height, limit)
    return image


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
    return image if image.mode == "RGB" else image.convert("RGB")


def is_plain_jpeg(content: bytes, limit: int) -> bool:
    """Whether OpenCV decodes a file to the pixels that PIL makes of it, in less time.

    Both use libjpeg-turbo. For PIL are left: other formats; four channels; images to be turned;
    images beyond the limit of pixels, which are refused; and files with a marker that does not
    belong to where it is, as damaged ones have it. Of those OpenCV fills up the missing part and
    tells nobody.
    """
    if not content.startswith(b"\xff\xd8") or not content.endswith(bytes([0xFF, END_OF_IMAGE])):
        return False
    most_pixels = min(limit, 2**30)  # OpenCV's own limit
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
    with open_picture(io.BytesIO(content), limit) as image:
        return image.format == "JPEG" and image.getexif().get(ExifTags.Base.Orientation, 1) == 1


def decode_jpeg(content: bytes, channel_order: str) -> np.ndarray | None:
    """(H, W, 3) uint8 of a plain JPEG, see `is_plain_jpeg`; None if it cannot be decoded."""
    flag = cv2.IMREAD_COLOR_RGB if channel_order == "RGB" else cv2.IMREAD_COLOR_BGR
    return cv2.imdecode(np.frombuffer(content, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)


def decode_colour(content: bytes, channel_order: str, limit: int) -> np.ndarray:
    """(H, W, 3) uint8 of an image file's content, see `read_image`."""
    if is_plain_jpeg(content, limit):
        pixels = decode_jpeg(content, channel_order)
        if pixels is not None:
            return pixels
    with open_picture(io.BytesIO(content), limit) as file:
        file.load()
        ImageOps.exif_transpose(file, in_place=True)  # no copy of what is not turned
        pixels = np.asarray(to_8bit(file))
    return pixels if channel_order == "RGB" else np.ascontiguousarray(pixels[:, :, ::-1])


def decode_channels(content: bytes, channels: int, limit: int) -> np.ndarray:
    """(H, W, channels) uint8 of an image file's content, channels in the order of the file.

    The pages of one file, as a TIFF may have them, follow each other; 16 bits keep the upper byte.

    Raises:
        ValueError: when the file has another number of channels.
    """
    with open_picture(io.BytesIO(content), limit) as file:
        if channels == 1:
            return np.asarray(ImageOps.exif_transpose(file).convert("RGB").convert("L"))[..., None]
        pages = []
        for page in ImageSequence.Iterator(file):
            check_pixels(page.width * page.height, limit)  # a later page may be larger
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
    content: bytes,
    path: str | Path,
    channel_order: str = "RGB",
    channels: int = 3,
    limit: int | None = None,
) -> np.ndarray:
    """An image from the content of its file, see `read_image`.

    Raises:
        ImageReadError: when it is empty, truncated, damaged, too large or no image.
    """
    limit = max_pixels() if limit is None else limit
    try:
        if is_array(content):
            pixels = decode_array(content, channels)
            reverse = channels == 3 and channel_order == "BGR"
            return np.ascontiguousarray(pixels[:, :, ::-1]) if reverse else pixels
        if channels == 3:
            return decode_colour(content, channel_order, limit)
        return decode_channels(content, channels, limit)
    except UnidentifiedImageError as error:
        reason = "its content is no image of a known format" if content else "the file is empty"
        raise ImageReadError(f"cannot read image {str(path)!r}: {reason}") from error
    except Exception as error:  # a damaged file can make PIL's readers raise almost anything
        raise ImageReadError(f"cannot read image {str(path)!r}: {error}") from error


def read_image(
    path: str | Path, channel_order: str = "RGB", channels: int = 3, *, limit: int | None = None
) -> np.ndarray:
    """Read an image as a person would see it, with its EXIF orientation applied.

    Args:
        path: file of any format that PIL knows: grey, colour, palette, with or without
            transparency, 8 or 16 bits; or a .npy file of (H, W, channels) uint8.
        channel_order: "RGB" or "BGR", of three channels; others come in the order of the file.
        channels: 3 reads any image as colour, 1 as grey; other numbers are those of an array or of
            all pages of a file together, unchanged, without regard to EXIF.
        limit: most pixels of an image; None takes `max_pixels`. Arrays, which are as large as their
            files, have none.

    Returns:
        (H, W, channels) uint8.

    Raises:
        MissingImageError: when there is no such file.
        ImageReadError: when the file is empty, truncated, damaged, too large or no image.
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
    return decode_image(content, path, channel_order, channels, limit)
