"""Pictures of images with the annotations that findings are about, and the findings in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..datasets.entries import box_of
from ..datasets.findings import KINDS, MASK, POINTS, SEVERITIES, Finding
from ..datasets.forms import FORMS_OF_BOXES, is_segmentation
from ..datasets.source import Source
from ..files.images import ImageReadError, read_image
from ..files.values import is_whole, to_float
from ..structures.run_lengths import polygons_of
from ..visualize.boxes import PALETTE
from ..visualize.labels import LETTERS, Colour, draw_text, label_size, wrap
from ..visualize.marks import BLACK, Mark, draw_marks
from ..visualize.pictures import to_rgb, write_image
from ..wording import counted

# Findings that are written above a picture.
MOST_LINES = 15


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
    texts = [name_annotation(source, place) for place in marks]
    canvas = draw_marks(image, list(marks.values()), texts)
    return np.vstack([draw_words(source, findings, marks, canvas.shape[1]), canvas])


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
