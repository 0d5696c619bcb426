"""Pictures of what was found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from ...visualize import draw_boxes, to_rgb, write_image
from ..image import ImageReadError, read_image
from .entries import box_of
from .findings import SEVERITIES, Finding
from .forms import FORMS_OF_BOXES
from .source import Source, is_whole

# Longer side of a picture in pixels.
LONGEST = 1280
SHORTEST = 320


def draw_image(
    source: Source, place: int, findings: Sequence[Finding], channels: int
) -> np.ndarray | None:
    """An image with the boxes that findings are about; None if it cannot be read."""
    try:
        image = to_rgb(read_image(source.image_path(place), channels=channels))
    except (ImageReadError, OSError):
        return None
    scale = min(LONGEST / max(image.shape[:2]), max(1.0, SHORTEST / max(image.shape[:2])))
    height, width = (max(round(side * scale), 1) for side in image.shape[:2])
    image = cv2.resize(np.ascontiguousarray(image), (width, height))
    boxes, labels, kinds = [], [], sorted({finding.kind for finding in findings})
    for finding in findings:
        if finding.section != "annotations":
            continue
        box = np.array(box_of(source.data["annotations"][finding.place])[0])
        with np.errstate(over="ignore", invalid="ignore"):
            corners = np.concatenate([box[:2], box[:2] + box[2:]]) * scale
        if np.isfinite(corners).all():
            # Far outside, so that a box beyond the image does not look as if it ended there.
            boxes.append(corners.clip(-width - height, 2 * (width + height)))
            labels.append(kinds.index(finding.kind))
    drawn = draw_boxes(image, np.array(boxes).reshape(-1, 4), labels, kinds)
    others = [x.kind for x in findings if x.section != "annotations"]
    if others:
        text = ", ".join(dict.fromkeys(others))
        bar = np.full((24, max(width, 8 * len(text)), 3), 255, dtype=np.uint8)
        cv2.putText(bar, text, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        canvas = np.full((height, bar.shape[1], 3), 255, dtype=np.uint8)
        canvas[:, :width] = drawn
        drawn = np.vstack([bar, canvas])
    return drawn


def draw_findings(
    sources: Sequence[Source], folder: Path, *, count: int, channels: int = 3
) -> list[Path]:
    """Draw the images that something is the matter with, those with errors first.

    Args:
        sources: checked.
        folder: of the pictures; made if it does not exist.
        count: most pictures for each source.
        channels: see `image.read_image`.

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
