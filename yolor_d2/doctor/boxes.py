"""Checks of boxes, whole arrays at a time, and of how they fall to the categories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.augmentation.warp import MIN_SIDE
from ..datasets.forms import read_box_form
from ..datasets.source import Source
from ..ops.anchors import best_possible_recall, best_ratios
from ..wording import counted

# Boxes may reach so many pixels beyond the image: labelling tools round.
TOLERANCE = 1.0
# Of both sides of the image, for a box that covers it.
WHOLE = 0.99
NEAR_IOU = 0.9
# A category with a smaller fraction of the most frequent one's boxes is rare.
RARE = 0.1
# A box is compared with at most so many whose left edge is near its own.
MOST_NEIGHBOURS = 1000


@dataclass(frozen=True)
class InputSettings:
    """Which boxes a configuration can learn.

    Attributes:
        size: longer side of the images at the network's input, in pixels.
        anchors: (L, A, 2) widths and heights in pixels.
        strides: L pixels per cell.
        max_ratio: see `ops.assign.assign`.
    """

    size: int
    anchors: Tensor
    strides: list[int]
    max_ratio: float = 4.0


def format_box(box: np.ndarray) -> str:
    return "[" + ", ".join(f"{v:g}" for v in box) + "]"


def check_boxes(source: Source) -> np.ndarray:
    """Report boxes that are empty, outside or doubled.

    Returns:
        (M,) bool: those of `source.boxes` that can be trained on; no crowds.
    """
    places = source.annotations
    image_places = [source.images[entry["image_id"]] for _, entry in source.objects()]
    sizes = source.object_sizes()
    read_box_form(source, sizes)
    boxes, height, width = source.boxes, *sizes.T
    crowd = source.crowd_objects()
    malformed = {x.place for x in source.findings if x.kind == "box_malformed"}
    given = np.array([place not in malformed for place in places], dtype=bool)

    with np.errstate(over="ignore", invalid="ignore"):
        x1, y1, w, h = boxes.T
        x2, y2 = x1 + w, y1 + h
        finite = np.isfinite(boxes).all(axis=1) & np.isfinite(x2) & np.isfinite(y2)
        negative = finite & ((w < 0) | (h < 0))
        empty = finite & ~negative & ((w == 0) | (h == 0))
        positive = finite & ~negative & ~empty
        outside = positive & ((x2 <= 0) | (y2 <= 0) | (x1 >= width) | (y1 >= height))
        inside = positive & ~outside
        if inside.any() and crowd[inside].all():
            message = (
                f"all {np.count_nonzero(inside)} boxes are marked 'iscrowd': 1, as some exports of "
                "masks do; neither training nor evaluation counts such regions"
            )
            source.report("all_crowd", message)
            crowd[:] = False  # what is meant is looked at
        beyond = np.maximum.reduce([-x1, -y1, x2 - width, y2 - height])
        partly = inside & (beyond > TOLERANCE)
        seen_w = np.minimum(x2, width) - np.maximum(x1, 0)
        seen_h = np.minimum(y2, height) - np.maximum(y1, 0)
        whole = inside & ~crowd & (seen_w >= WHOLE * width) & (seen_h >= WHOLE * height)

    def report(kind: str, rows: np.ndarray, expected: str) -> None:
        for row in np.flatnonzero(rows).tolist():
            size = "" if np.isnan(width[row]) else f" of {width[row]:.0f} x {height[row]:.0f}"
            message = f"box {format_box(boxes[row])} {expected.format(size)}"
            source.report(kind, message, "annotations", places[row])

    report("box_not_finite", given & ~finite, "has a number that is not finite")
    report("box_negative", negative, "has a negative side, expected [x, y, width, height] above 0")
    report("box_empty", empty, "has no area, expected a width and a height above 0")
    report("box_outside", outside, "lies outside its image{}")
    report("box_partly_outside", partly, "reaches beyond its image{}")
    report("box_whole_image", whole, "covers its image{}")
    usable = inside & ~crowd
    report_duplicates(source, usable, np.array(image_places, dtype=np.int64))
    return usable


def near_pairs(boxes: np.ndarray, groups: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Pairs of boxes of one group whose IoU is above `NEAR_IOU`.

    Sorted by their left edge, such boxes are close to each other: of two whose edges differ by more
    than a tenth of the wider one, the intersection is too small.

    Args:
        boxes: (M, 4) x, y, width, height, all sides > 0.
        groups: (M,) whole numbers; only boxes of one group are compared.

    Yields:
        (rows, other rows, IoU) of some pairs.
    """
    order = np.lexsort((boxes[:, 0], groups))
    boxes, groups = boxes[order], groups[order]
    left, right = boxes[:, 0], boxes[:, 0] + boxes[:, 2]
    top, bottom = boxes[:, 1], boxes[:, 1] + boxes[:, 3]
    with np.errstate(over="ignore"):
        area = boxes[:, 2] * boxes[:, 3]
    rows = np.arange(len(boxes))
    for step in range(1, MOST_NEIGHBOURS + 1):
        rows = rows[rows + step < len(boxes)]
        others = rows + step
        # The further box starts at least where the nearer one did, so a row that fails here fails
        # at all later steps too.
        close = (groups[rows] == groups[others]) & (
            left[others] - left[rows] <= (1 - NEAR_IOU) * boxes[rows, 2]
        )
        rows, others = rows[close], others[close]
        if not len(rows):
            break
        across = np.minimum(right[rows], right[others]) - left[others]
        down = np.minimum(bottom[rows], bottom[others]) - np.maximum(top[rows], top[others])
        with np.errstate(over="ignore", invalid="ignore"):
            shared = across.clip(0) * down.clip(0)
            iou = shared / (area[rows] + area[others] - shared)
        near = iou > NEAR_IOU
        if near.any():
            yield order[rows[near]], order[others[near]], iou[near]


def report_duplicates(source: Source, usable: np.ndarray, images: np.ndarray) -> None:
    """Report boxes that their image has twice, at the later of the two annotations."""
    entries, places = source.data["annotations"], source.annotations
    kept = np.flatnonzero(usable)
    if not len(kept):
        return
    categories = np.array([entries[places[row]]["category_id"] for row in kept], dtype=np.int64)
    pairs = np.stack([images[kept], categories], axis=1)
    groups = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
    keyed = np.concatenate([groups[:, None], source.boxes[kept]], axis=1)
    firsts, which = np.unique(keyed, axis=0, return_index=True, return_inverse=True)[1:]
    firsts = firsts[which.reshape(-1)]  # by box, the first that is the same

    def name(i: int) -> str:
        place = places[kept[i]]
        number = entries[place].get("id")
        return f"annotation {number}" if type(number) is int else f"annotations[{place}]"

    for i in np.flatnonzero(firsts != np.arange(len(kept))).tolist():
        box = format_box(source.boxes[kept[i]])
        message = f"box {box} is also that of {name(firsts[i])}, of the same category"
        other = places[kept[firsts[i]]]
        source.report("box_duplicate", message, "annotations", places[kept[i]], other=other)

    distinct = np.unique(firsts)
    best = np.zeros(len(kept))
    partner = np.zeros(len(kept), dtype=np.int64)
    for some, others, iou in near_pairs(source.boxes[kept][distinct], groups[distinct]):
        some, others = distinct[some], distinct[others]
        first, second = np.minimum(some, others), np.maximum(some, others)
        order = np.argsort(iou)  # of several for one box the last, best, one stays
        first, second, iou = first[order], second[order], iou[order]
        better = iou > best[second]
        best[second[better]], partner[second[better]] = iou[better], first[better]
    for i in np.flatnonzero(best).tolist():
        box = format_box(source.boxes[kept[i]])
        message = f"box {box} has an IoU of {best[i]:.2f} with {name(partner[i])}, of its category"
        other = places[kept[partner[i]]]
        source.report("box_near_duplicate", message, "annotations", places[kept[i]], other=other)


def check_use(source: Source, usable: np.ndarray) -> dict[str, int]:
    """Report images without boxes and categories that are unused or rare.

    Returns:
        Boxes that can be trained on, by name of the category.
    """
    entries = source.data["annotations"]
    counts = dict.fromkeys(source.categories, 0)
    crowds = Counter(x["category_id"] for _, x in source.objects() if x.get("iscrowd") == 1)
    filled = set()
    for row in np.flatnonzero(usable).tolist():
        entry = entries[source.annotations[row]]
        counts[entry["category_id"]] += 1
        filled.add(entry["image_id"])
    for number, place in source.images.items():
        if number not in filled:
            source.report("image_without_boxes", "no box to train on", "images", place)
    if not any(counts.values()):
        source.report("no_boxes", "no image has a box that can be trained on")
    most = max(counts.values(), default=0)
    names = {}
    for number, place in source.categories.items():
        name, count = source.data["categories"][place]["name"], counts[number]
        names[name] = names.get(name, 0) + count
        if count == 0:
            regions = f", only {crowds[number]} regions of crowds" if crowds[number] else ""
            message = f"{name!r} has no box{regions}"
            source.report("unused_category", message, "categories", place)
        elif count < RARE * most:
            message = (
                f"{name!r} has {counted(count, 'box', 'boxes')}, the most frequent category {most}"
            )
            source.report("rare_category", message, "categories", place)
    return names


def check_sizes(source: Source, usable: np.ndarray, settings: InputSettings) -> dict:
    """Report boxes that the network cannot learn for their size.

    Returns:
        Statistics of the sizes at the network's input.
    """
    entries = source.data["annotations"]
    rows, scales, limits = [], [], []
    for row in np.flatnonzero(usable).tolist():
        place = source.images[entries[source.annotations[row]]["image_id"]]
        if place in source.sizes:
            rows.append(row)
            scales.append(settings.size / max(source.sizes[place]))
            limits.append(source.sizes[place][::-1])
    if not rows:
        return {}
    boxes = source.boxes[rows]
    # As training has them: cut at the border.
    seen = np.minimum(boxes[:, :2] + boxes[:, 2:], limits) - boxes[:, :2].clip(0)
    sides = seen * np.array(scales)[:, None]  # (M, 2) width, height
    smaller = sides.min(axis=1)
    sizes = torch.from_numpy(sides.astype(np.float32)).clamp(min=1e-6)
    matched = [best_ratios(sizes, anchors) > 1 / settings.max_ratio for anchors in settings.anchors]
    any_level = torch.stack(matched).any(dim=0)
    for i in np.flatnonzero(smaller < MIN_SIDE).tolist():
        size = f"{sides[i, 0]:.2f} x {sides[i, 1]:.2f}"
        message = f"{size} pixels at {settings.size}, too small to be trained on"
        source.report("box_tiny", message, "annotations", source.annotations[rows[i]])
    for i in (~any_level).nonzero().flatten().tolist():
        message = f"{sides[i, 0]:.1f} x {sides[i, 1]:.1f} pixels at {settings.size} fit no anchor"
        source.report("box_without_anchor", message, "annotations", source.annotations[rows[i]])
    return {
        "boxes": len(rows),
        "input_size": settings.size,
        "width_percentiles": percentiles(sides[:, 0]),
        "height_percentiles": percentiles(sides[:, 1]),
        "share_below_finest_stride": float((smaller < min(settings.strides)).mean()),
        "share_matched_by_stride": {
            str(stride): float(level.float().mean())
            for stride, level in zip(settings.strides, matched)
        },
        "best_possible_recall": best_possible_recall(
            sizes, settings.anchors.flatten(0, 1), settings.max_ratio
        ),
    }


def percentiles(values: np.ndarray) -> dict[str, float]:
    marks = (0, 5, 50, 95, 100)
    return {str(k): round(float(v), 2) for k, v in zip(marks, np.percentile(values, marks))}
