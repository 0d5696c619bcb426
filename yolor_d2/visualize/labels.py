"""Labels beside boxes: what they say, how large they are, and where none hides another."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

logger = logging.getLogger(__name__)

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]

# Letters in pixels: in a picture whose longer side is `PICTURE_SIDE`. In others they grow more
# slowly than the side, so that they can be read where the picture fills the screen, and are not
# huge where it is looked at pixel by pixel.
LETTERS, PICTURE_SIDE, GROWTH = 13, 640, 2 / 3
# Below this letters cannot be read: there is no label then.
LEAST_LETTERS = 9
# The size of a box is the square root of its area. Letters have at most the first fraction of it
# while that can be read, and there is no label that would be higher than the second share.
LETTER_FRACTION, LABEL_FRACTION = 0.2, 0.45
# A label that would hide more than the second fraction of a box is left out; up to the first one
# counts as nothing, so that a label has its usual place.
LITTLE_FRACTION, HIDDEN_FRACTION = 0.05, 0.3
# Sizes of letters are of these steps, so that what was drawn once can be used again.
LETTER_STEPS = (9, 10, 11, 12, 13, 15, 17, 20, 24, 28, 34, 40, 48, 56, 68, 80)
# Font of matplotlib, which this project needs anyway: Latin, Greek, Cyrillic, Arabic and more.
FONT_FILE = "mpl-data/fonts/ttf/DejaVuSans.ttf"
# A character that no font has, for the mark that stands for such.
NO_CHARACTER = "\uffff"


class Label(NamedTuple):
    """A label that has its place.

    Attributes:
        index: number of its box.
        text: what it says.
        letters: their size in pixels.
        left, top, right, bottom: in pixels of the picture, right and bottom just outside.
    """

    index: int
    text: str
    letters: int
    left: int
    top: int
    right: int
    bottom: int


# ---- Letters


@functools.cache
def default_font_file() -> str:
    """Path of the font that labels are written with where it has all letters."""
    spec = importlib.util.find_spec("matplotlib")
    assert spec is not None and spec.submodule_search_locations
    return str(Path(spec.submodule_search_locations[0]) / FONT_FILE)


@functools.cache
def load_font(path: str, letters: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, letters)


@functools.cache
def has_character(path: str, character: str) -> bool:
    """Whether a font can draw a character."""
    font = load_font(path, LEAST_LETTERS)
    missing = font.getmask(NO_CHARACTER)
    mask = font.getmask(character)
    return mask.size != missing.size or bytes(mask) != bytes(missing)


def has_characters(path: str, text: str) -> bool:
    # Any font has ASCII.
    return text.isascii() or all(has_character(path, x) for x in text if not x.isascii())


@functools.cache
def font_file(text: str) -> str | None:
    """Path of a font that has all characters of a text, the default one or one of the system's;
    None if there is none."""
    if has_characters(default_font_file(), text):
        return default_font_file()
    # Here, as it takes half a second, and few need it.
    from matplotlib.font_manager import fontManager
    from matplotlib.ft2font import FT2Font

    for path in sorted({x.fname for x in fontManager.ttflist if "LastResort" not in x.fname}):
        try:
            characters = FT2Font(path).get_charmap()
        except (OSError, RuntimeError):  # not one that FreeType reads
            continue
        if all(ord(x) in characters for x in text):
            return path
    return None


@functools.cache
def readable_name(name: str, number: int) -> str:
    """The name of a class as it can be drawn: in one line, or its number where no font has its
    letters, which is logged once."""
    line = " ".join(name.split()) or f"class {number}"
    if font_file(line) is not None:
        return line
    logger.warning(
        "No font of this machine can draw the class %r: pictures say 'class %d' in its place. A "
        "font with its letters helps, such as Noto Sans CJK (apt-get install fonts-noto-cjk)",
        *(name, number),
    )
    return f"class {number}"


@functools.lru_cache(maxsize=1024)
def write_text(text: str, letters: int) -> np.ndarray:
    """(H, W) uint8, how much of each pixel a text covers; all texts of a size are of one height."""
    font = load_font(font_file(text) or default_font_file(), letters)
    ascent, descent = font.getmetrics()
    image = Image.new("L", (max(round(font.getlength(text)), 1), ascent + descent))
    ImageDraw.Draw(image).text((0, 0), text, fill=255, font=font)
    return np.asarray(image)


def margin(letters: int) -> int:
    """Pixels between a text and the left and right end of its label."""
    return max(letters // 5, 2)


def label_size(text: str, letters: int) -> tuple[int, int]:
    """(width, height) of a label in pixels."""
    height, width = write_text(text, letters).shape
    return width + 2 * margin(letters), height


@functools.cache
def text_colour(ground: Colour) -> Colour:
    """Black or white, whichever stands out more from a colour (WCAG's relative luminance)."""
    linear = [
        x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in np.divide(ground, 255)
    ]
    luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    # Contrasts are (luminance + 0.05) / 0.05 with black and 1.05 / (luminance + 0.05) with white.
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 1.05 * 0.05 else (255, 255, 255)


def draw_text(
    canvas: np.ndarray, text: str, place: tuple[int, int], letters: int, colour: Colour
) -> None:
    """Write on an RGB image; what lies outside is left out.

    Args:
        canvas: (H, W, 3) uint8, changed in place.
        text: of one line.
        place: (x, y) of its upper left corner.
        letters: their size in pixels.
        colour: of the letters.
    """
    left, top = place
    mask = write_text(text, letters)[max(-top, 0) :, max(-left, 0) :]
    below = canvas[max(top, 0) :, max(left, 0) :][: mask.shape[0], : mask.shape[1]]
    cover = mask[: below.shape[0], : below.shape[1], None].astype(np.float32) / 255
    below[:] = np.rint(below + (np.float32(colour) - below) * cover)


# A class and a score of two digits come again and again in a video.
@functools.lru_cache(maxsize=1024)
def render_label(text: str, letters: int, ground: Colour) -> np.ndarray:
    """(H, W, 3) uint8, a label with its text on its ground."""
    width, height = label_size(text, letters)
    canvas = np.empty((height, width, 3), dtype=np.uint8)
    canvas[:] = ground
    draw_text(canvas, text, (margin(letters), 0), letters, text_colour(ground))
    return canvas


def draw_label(canvas: np.ndarray, label: Label, ground: Colour) -> None:
    """Draw a label on an RGB image that it lies in."""
    drawn = render_label(label.text, label.letters, ground)
    canvas[label.top : label.bottom, label.left : label.right] = drawn


# ---- Sizes and places


def letters_of_picture(height: int, width: int) -> int:
    """Size of letters in pixels that goes with a picture."""
    wanted = LETTERS * (max(height, width) / PICTURE_SIDE) ** GROWTH
    return step_below(max(wanted, LEAST_LETTERS))


def step_below(letters: float) -> int:
    """The largest step up to a size; the least where that is below all."""
    return max((x for x in LETTER_STEPS if x <= letters), default=LEAST_LETTERS)


def letters_for_box(most: int, width: int, height: int, text: str) -> int | None:
    """Size of letters for the label of a box; None where it is too small to have one.

    Args:
        most: size that goes with the picture.
        width, height: of the visible part of the box, in pixels.
        text: of the label.
    """
    size = (width * height) ** 0.5
    letters = step_below(min(most, LETTER_FRACTION * size))
    # A long text on a small box would cover its neighbours.
    while letters > LEAST_LETTERS and label_size(text, letters)[0] > max(width, size):
        letters = step_below(letters - 1)
    return letters if label_size(text, letters)[1] <= LABEL_FRACTION * size else None


def places_around(
    box: Box, size: tuple[int, int], line: int, picture: tuple[int, int]
) -> Iterator[tuple[int, int]]:
    """(left, top) of labels beside a box, the best first: above, below, beside, inside.

    Args:
        box: xyxy of its visible part.
        size: (width, height) of the label.
        line: width of the box's line.
        picture: (height, width); a label is moved along the box where it would leave it.
    """
    width, height = size
    half = (line + 1) // 2
    x1, y1, x2, y2 = box[0] - half, box[1] - half, box[2] + half + 1, box[3] + half + 1
    left, right = max(min(x1, picture[1] - width), 0), max(min(x2, picture[1]) - width, 0)
    top, bottom = max(min(y1, picture[0] - height), 0), min(y2, picture[0]) - height
    yield left, y1 - height
    yield right, y1 - height
    yield left, y2
    yield right, y2
    yield x2, top
    yield x1 - width, top
    if width <= x2 - x1 - 2 * line:
        left, right = max(x1 + line, 0), min(x2, picture[1]) - line - width
        for y in (max(y1 + line, 0), bottom - line):
            yield left, y
            yield right, y


def places_further(
    box: Box, size: tuple[int, int], picture: tuple[int, int]
) -> Iterator[tuple[int, int]]:
    """(left, top) of labels in the lines below and above a box, see `places_around`."""
    width, height = size
    left = max(min(box[0], picture[1] - width), 0)
    for lines in range(1, 4):
        yield left, box[3] + lines * (height + 1) + 3
        yield left, box[1] - (lines + 1) * (height + 1) - 3


def overlap(box: Box, others: Sequence[Box]) -> bool:
    """Whether a rectangle shares a pixel with one of others."""
    left, top, right, bottom = box
    return any(x1 < right and left < x2 and y1 < bottom and top < y2 for x1, y1, x2, y2 in others)


def fractions_hidden(box: Box, boxes: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """(M,) fractions of boxes (M, 4) xyxy with areas (M,) that lie under a rectangle."""
    left, top, right, bottom = box
    width = np.minimum(boxes[:, 2], right) - np.maximum(boxes[:, 0], left)
    height = np.minimum(boxes[:, 3], bottom) - np.maximum(boxes[:, 1], top)
    return width.clip(0) * height.clip(0) / areas


def place_labels(
    boxes: np.ndarray,
    texts: Sequence[str],
    order: Sequence[int],
    picture: tuple[int, int],
    *,
    line: int = 1,
    letters: int | None = None,
) -> list[Label]:
    """Labels that lie in the picture, one for each box at most, none over another.

    A label is above, below, beside or inside its box, where it hides the least of the others. There
    is none for a box that is too small for letters that can be read, and none where there is no
    place.

    Args:
        boxes: (M, 4) whole numbers xyxy in pixels, which may leave the picture.
        texts: M labels.
        order: numbers of the boxes that get labels; the first choose first.
        picture: (height, width).
        line: width of the boxes' lines in pixels.
        letters: one size for all labels, which small boxes have too; None chooses by box and
            picture.
    """
    sides = np.array([picture[1], picture[0], picture[1], picture[0]])
    seen = boxes.clip(0, sides)
    areas = np.maximum((seen[:, 2] - seen[:, 0]) * (seen[:, 3] - seen[:, 1]), 1)
    most = letters_of_picture(*picture)
    labels: list[Label] = []
    taken: list[Box] = []
    for index in order:
        x1, y1, x2, y2 = box = tuple(seen[index].tolist())
        size = letters or letters_for_box(most, x2 - x1, y2 - y1, texts[index])
        if size is None:
            continue
        width, height = label_size(texts[index], size)
        best, least = None, HIDDEN_FRACTION
        places = places_around(box, (width, height), line, picture)
        if letters is not None:  # then all boxes are to have one: also further away, over others
            least = np.inf
            places = itertools.chain(places, places_further(box, (width, height), picture))
        for left, top in places:
            spot = left, top, left + width, top + height
            fits = left >= 0 and top >= 0 and spot[2] <= picture[1] and spot[3] <= picture[0]
            if not fits or overlap(spot, taken):
                continue
            hidden = float(fractions_hidden(spot, seen, areas).max())
            if hidden < least:
                best, least = spot, hidden
            if hidden <= LITTLE_FRACTION:
                break
        if best is not None:
            taken.append(best)
            labels.append(Label(index, texts[index], size, *best))
    return labels


def wrap(text: str, width: int) -> list[str]:
    """Lines of a text that are no wider than so many pixels, broken between words where it can."""
    lines = [""]
    for word in re.findall(r"\S+\s*", text):
        if write_text((lines[-1] + word).rstrip(), LETTERS).shape[1] > width and lines[-1]:
            lines.append("")
        for character in word:
            if write_text(lines[-1] + character, LETTERS).shape[1] > width and lines[-1]:
                lines.append("")
            lines[-1] += character
    return [line.rstrip() for line in lines]
