"""Pictures of the findings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ..datasets.entries import box_of
from ..datasets.findings import KINDS, MASK, POINTS, SEVERITIES, Finding
from ..datasets.forms import FORMS_OF_BOXES, is_segmentation
from ..datasets.source import Source
from ..files.images import ImageReadError, read_image
from ..files.values import is_whole, to_float
from ..structures.run_lengths import polygons_of
from ..visualize.labels import Colour, draw_label, draw_text, label_size, place_labels, write_text
from ..visualize.pictures import PALETTE, draw_outline, to_rgb, write_image
from ..wording import counted

# Longer side of a picture in pixels.
LONGEST = 1280
SHORTEST = 480
# A picture reaches beyond its image to the boxes that do, by so many of the image's longer sides.
BEYOND = 1.0
# Pixels of letters, of lines, and of the line of a box that another one lies on.
LETTERS, LINE, BROAD_LINE = 13, 2, 6
# Boxes all of whose sides are as near as this, in pixels of the picture, look like one.
ALIKE = 6
# What lies beyond an image, and the edge of the image.
AROUND, EDGE = (205, 205, 205), (120, 120, 120)
BLACK: Colour = (0, 0, 0)
# Radius of a point in pixels, and of one that a finding is about.
DOT, RING = 3, 7
# Findings that are written above a picture.
MOST_LINES = 15


class Mark(NamedTuple):
    """A box to be drawn.

    Attributes:
        place: of the annotation.
        box: (4,) xyxy in pixels of the image.
        colour: of box and label.
        outlines: (n, 2) polygons, where a finding is about the mask.
        points: (n, 2) labelled points, where a finding is about these.
        named: (n, 2) the points that findings name.
    """

    place: int
    box: np.ndarray
    colour: Colour
    outlines: Sequence[np.ndarray] = ()
    points: np.ndarray = np.zeros((0, 2))
    named: np.ndarray = np.zeros((0, 2))

    @property
    def extent(self) -> np.ndarray:
        """(4,) xyxy around all of it."""
        parts = [self.box.reshape(2, 2), *self.outlines, self.points, self.named]
        every = np.concatenate(parts)
        return np.concatenate([every.min(axis=0), every.max(axis=0)])


def name_annotation(source: Source, place: int) -> str:
    number = source.data["annotations"][place].get("id")
    return f"annotation {number}" if is_whole(number) else f"annotations[{place}]"


def outlines_of(entry: dict, size: tuple[int, int]) -> list[np.ndarray]:
    """(n, 2) polygons of an annotation, as far as they are some, or those around its run lengths,
    if these are of an image of (height, width)."""
    shape = entry.get("segmentation")
    if not shape or not is_segmentation(shape):
        return []
    if isinstance(shape, dict):
        try:
            return polygons_of(shape, size)
        except ValueError:
            return []
    return [table for points in shape if len(table := table_of(points, 2))]


def table_of(values: object, columns: int) -> np.ndarray:
    """(n, columns) of a flat list of finite numbers; empty if it is none."""
    numbers = [to_float(x) for x in values] if isinstance(values, list) else []
    table = np.array([np.nan if x is None else x for x in numbers], dtype=np.float64)
    if len(table) % columns or not np.isfinite(table).all():
        return np.zeros((0, columns))
    return table.reshape(-1, columns)


def mark_of(
    source: Source, place: int, findings: Sequence[Finding], size: tuple[int, int]
) -> Mark | None:
    """What to draw of an annotation; None if its box has not four finite numbers.

    Args:
        source: that it is of.
        place: of the annotation.
        findings: about it.
        size: (height, width) of its image.
    """
    entry = source.data["annotations"][place]
    box = np.array(box_of(entry)[0])
    with np.errstate(over="ignore", invalid="ignore"):
        corners = np.concatenate([box[:2], box[:2] + box[2:]])
    if not np.isfinite(corners).all():
        return None
    mark = Mark(place, corners, BLACK)
    parts = {KINDS[x.kind].part for x in findings}
    if MASK in parts:
        mark = mark._replace(outlines=outlines_of(entry, size))
    if POINTS in parts:
        table = table_of(entry.get("keypoints"), 3)
        chosen = sorted({x.index for x in findings if KINDS[x.kind].part == POINTS})
        chosen = [i for i in chosen if 0 <= i < len(table)]
        centres = table[:, :2] + 0.5  # these are numbers of pixels
        mark = mark._replace(points=centres[table[:, 2] > 0], named=centres[chosen])
    return mark


def marks_of(source: Source, findings: Sequence[Finding], size: tuple[int, int]) -> dict[int, Mark]:
    """The boxes that findings are about, by place: also those that they are copies of, which come
    first. Boxes without four finite numbers are left out.

    Args:
        source: that they are of.
        findings: about one image.
        size: (height, width) of this.
    """
    places = [x.other for x in findings if x.section == "annotations" and x.other >= 0]
    places += [x.place for x in findings if x.section == "annotations"]
    marks: dict[int, Mark] = {}
    for place in dict.fromkeys(places):
        about = [x for x in findings if x.section == "annotations" and x.place == place]
        mark = mark_of(source, place, about, size)
        if mark is not None:
            marks[place] = mark._replace(colour=PALETTE[len(marks) % len(PALETTE)])
    return marks


def frame_of(size: tuple[int, int], boxes: np.ndarray) -> np.ndarray:
    """(4,) xyxy of the part of the plane that a picture shows: the image, and boxes as far as they
    are near it.

    Args:
        size: (height, width) of the image.
        boxes: (M, 4) in its pixels.
    """
    image = np.array([0, 0, size[1], size[0]])
    reach = BEYOND * max(size)
    points = np.concatenate([image.reshape(2, 2), boxes.reshape(-1, 2)])
    points = points.clip(image[:2] - reach, image[2:] + reach)
    low, high = points.min(axis=0), points.max(axis=0)
    gap = 0.02 * (high - low).max()  # so that lines that are not the image's can be seen
    low, high = np.where(low < 0, low - gap, low), np.where(high > image[2:], high + gap, high)
    return np.concatenate([low, high])


def is_outside(box: np.ndarray, frame: Sequence[float]) -> bool:
    """Whether nothing of a box lies in a frame, both xyxy."""
    left, top, right, bottom = frame
    return bool(box[0] > right or box[1] > bottom or box[2] < left or box[3] < top)


def draw_image(
    source: Source, place: int, findings: Sequence[Finding], channels: int
) -> np.ndarray | None:
    """An image with the boxes that findings are about, and around it what reaches beyond; above
    it the findings in words. None if it cannot be read."""
    try:
        image = to_rgb(read_image(source.image_path(place), channels=channels))
    except (ImageReadError, OSError):
        return None
    marks = marks_of(source, findings, image.shape[:2])
    boxes = np.array([x.box for x in marks.values()]).reshape(-1, 4)
    extents = np.array([x.extent for x in marks.values()]).reshape(-1, 4)
    left, top, right, bottom = frame_of(image.shape[:2], extents)
    longest = max(right - left, bottom - top)
    scale = min(LONGEST / longest, max(1.0, SHORTEST / max(image.shape[:2])))
    height, width = (max(round(side * scale), 1) for side in image.shape[:2])
    texts = [
        name_annotation(source, mark.place)
        + (" (further out)" if is_outside(mark.box, (left, top, right, bottom)) else "")
        for mark in marks.values()
    ]
    # Labels are whole, however small the picture is, and there is a place for those of a pair.
    labels = np.array([label_size(text, LETTERS) for text in texts]).reshape(-1, 2)
    least = labels.max(axis=0, initial=0) * (1, min(len(texts), 3) + 2) + 2 * LINE
    size = np.maximum(np.rint([(right - left) * scale, (bottom - top) * scale]), least).astype(int)
    canvas = np.full((max(size[1], height), max(size[0], width), 3), AROUND, dtype=np.uint8)
    x, y = round(-left * scale), round(-top * scale)
    x, y = min(x, canvas.shape[1] - width), min(y, canvas.shape[0] - height)
    canvas[y : y + height, x : x + width] = cv2.resize(
        np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_AREA
    )
    if canvas.shape[:2] != (height, width):
        draw_outline(canvas, (x - 1, y - 1, x + width, y + height), EDGE, 1)
    corners = np.rint(boxes * scale + (x, y, x, y))
    # What goes on far away leaves the picture, and does not look as if it ended there.
    corners = corners.clip(-2 * BROAD_LINE, max(canvas.shape) + 2 * BROAD_LINE).astype(int)
    colours = [mark.colour for mark in marks.values()]
    for i, box in enumerate(corners.tolist()):
        hidden = (np.abs(corners[i + 1 :] - corners[i]).max(axis=1, initial=0) <= ALIKE).any()
        line = BROAD_LINE if hidden else LINE
        draw_outline(canvas, box, colours[i], line)
    for mark in marks.values():
        draw_parts(canvas, mark, scale, (x, y))
    placed = place_labels(
        corners, texts, range(len(texts)), canvas.shape[:2], line=LINE, letters=LETTERS
    )
    for label in placed:
        draw_label(canvas, label, colours[label.index])
    return np.vstack([draw_words(source, findings, marks, canvas.shape[1]), canvas])


def draw_parts(canvas: np.ndarray, mark: Mark, scale: float, origin: tuple[int, int]) -> None:
    """Draw outlines and points of an annotation.

    Args:
        canvas: (H, W, 3) uint8, changed.
        mark: of the annotation.
        scale: pixels of the canvas per pixel of the image.
        origin: x and y of the image on the canvas.
    """

    def place(points: np.ndarray) -> np.ndarray:
        far = 2 * max(canvas.shape)
        return np.rint(points * scale + origin).clip(-far, far).astype(np.int32)

    lines = [place(outline).reshape(-1, 1, 2) for outline in mark.outlines]
    cv2.polylines(canvas, lines, True, mark.colour, 1, cv2.LINE_AA)
    for centre in place(mark.points).tolist():
        cv2.circle(canvas, centre, DOT, mark.colour, -1, cv2.LINE_AA)
    for centre in place(mark.named).tolist():
        cv2.circle(canvas, centre, RING, mark.colour, LINE, cv2.LINE_AA)


def draw_words(
    source: Source, findings: Sequence[Finding], marks: dict[int, Mark], width: int
) -> np.ndarray:
    """(H, width, 3) uint8, findings in words, each with the colour of its box."""
    lines: list[tuple[str, Colour | None]] = []
    for finding in findings:
        text = f"{finding.severity}: {finding.kind}: {finding.message}"
        mark = None
        if finding.section == "annotations":
            text = f"{name_annotation(source, finding.place)}, {text}"
            mark = marks.get(finding.place)
        for i, part in enumerate(wrap(" ".join(text.split()), width - 24)):
            lines.append((part, mark.colour if mark is not None and i == 0 else None))
    if len(lines) > MOST_LINES:
        rest = counted(len(lines) - MOST_LINES + 1, "more line")
        lines = [*lines[: MOST_LINES - 1], (f"... {rest}, see the list of findings", None)]
    step = label_size("", LETTERS)[1] + 2
    bar = np.full((step * len(lines) + 4, width, 3), 255, dtype=np.uint8)
    for i, (text, colour) in enumerate(lines):
        y = 2 + i * step
        if colour is not None:
            bar[y + 3 : y + 13, 4:14] = colour
        draw_text(bar, text, (20, y), LETTERS, BLACK)
    return bar


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


def draw_findings(
    sources: Sequence[Source], folder: Path, *, count: int, channels: int = 3
) -> list[Path]:
    """Draw the images that something is the matter with, those with errors first.

    Args:
        sources: checked.
        folder: of the pictures; made if it does not exist.
        count: most pictures for each source.
        channels: see `images.read_image`.

    Returns:
        The files.
    """
    paths = []
    for source in sources:
        by_place: dict[int, list[Finding]] = {}
        known = set(source.images.values())
        for finding in source.findings:
            place = finding.place if finding.section == "images" else None
            if finding.section == "annotations" and is_whole(finding.image_id):
                place = source.images.get(finding.image_id)  # pyright: ignore[reportArgumentType]
            if place in known:
                by_place.setdefault(place, []).append(finding)
        # Boxes that were read in another form, as they were read.
        for finding in (x for x in source.findings if x.kind in FORMS_OF_BOXES):
            for place in (p for p in source.annotations if ("annotations", p) in source.replaced):
                image = source.images[source.data["annotations"][place]["image_id"]]
                shown = replace(finding, section="annotations", place=place)
                by_place.setdefault(image, []).append(shown)
        order = sorted(
            by_place, key=lambda p: min(SEVERITIES.index(x.severity) for x in by_place[p])
        )
        drawn = 0
        for place in order:
            if drawn >= count:
                break
            picture = draw_image(source, place, by_place[place], channels)
            if picture is None:
                continue
            stem = Path(source.data["images"][place]["file_name"]).stem
            name = re.sub(r"[^\w.-]+", "_", f"{source.data['images'][place]['id']}_{stem}")[:100]
            path = folder / source.name / f"{name}.jpg"
            write_image(path, picture)
            paths.append(path)
            drawn += 1
    return paths
