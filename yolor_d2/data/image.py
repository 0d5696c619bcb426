"""Reading image files of any usual kind as 8-bit colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


class ImageReadError(ValueError):
    """A file that cannot be read as an image; the message names it."""


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


def read_image(path: str | Path, channel_order: str = "RGB") -> np.ndarray:
    """Read an image as a person would see it, with its EXIF orientation applied.

    Args:
        path: file of any format that PIL knows: grey, colour, palette, with or without
            transparency, 8 or 16 bits.
        channel_order: "RGB" or "BGR".

    Returns:
        (H, W, 3) uint8.

    Raises:
        FileNotFoundError: when there is no such file.
        ImageReadError: when the file is empty, truncated, damaged or no image.
    """
    check_channel_order(channel_order)
    try:
        with Image.open(path) as file:
            pixels = np.asarray(to_8bit(ImageOps.exif_transpose(file)))
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file can make PIL's readers raise almost anything
        raise ImageReadError(f"cannot read image {str(path)!r}: {error}") from error
    return pixels if channel_order == "RGB" else np.ascontiguousarray(pixels[:, :, ::-1])
