"""Recall of objects by their distance to the border of the image, with and without a margin."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..config import load_config
from ..data.options import use_data
from ..datasets.catalog import check_classes, load_ground_truth, register_datasets
from ..datasets.ground_truth import GroundTruth
from ..environment import describe_machine
from ..files.images import read_image
from ..predictor import BatchPredictor, FailedInput
from .report import Report

SIDES = ("left", "top", "right", "bottom")
LEAST_IOU = 0.5
PLACES = ("corner", "centre")


class Cutout(NamedTuple):
    """A square with one object near its border.

    Attributes:
        image: (S, S, C) uint8.
        box: (4,) xyxy of the object in the square.
        label: its class.
        side: of `SIDES`.
        distance: pixels from that side.
    """

    image: np.ndarray
    box: np.ndarray
    label: int
    side: str
    distance: int


def window_of(
    box: np.ndarray, size: tuple[int, int], side: str, distance: int, square: int
) -> tuple[int, int] | None:
    """(left, top) of the square in which a box lies so far from a side; None if there is no such
    square inside the image that holds the whole box.

    Args:
        box: (4,) xyxy.
        size: (H, W) of the image.
        side: of `SIDES`.
        distance: pixels between that side and the box.
        square: side of the square.
    """
    axis = 0 if side in ("left", "right") else 1
    start = np.zeros(2, dtype=np.int64)  # x, y
    near, far = box[axis], box[axis + 2]
    if side in ("left", "top"):
        start[axis] = np.floor(near) - distance
    else:
        start[axis] = np.ceil(far) + distance - square
    other = 1 - axis
    middle = round((box[other] + box[other + 2] - square) / 2)
    start[other] = np.clip(middle, 0, max(size[::-1][other] - square, 0))
    inside = (start >= 0).all() and (start + square <= size[::-1]).all()
    whole = (box[:2] >= start).all() and (box[2:] <= start + square).all()
    return (int(start[0]), int(start[1])) if inside and whole else None


def cut_out(
    truth: GroundTruth, index: int, distances: Sequence[int], square: int, order: str, channels: int
) -> Iterator[Cutout]:
    """All squares of one image: objects with a square for each distance from a side."""
    image = read_image(truth.file_names[index], order, channels)
    rows = truth.rows(index)
    for box, label in zip(truth.boxes[rows], truth.labels[rows]):
        for side in SIDES:
            places = [window_of(box, image.shape[:2], side, x, square) for x in distances]
            if None in places:
                continue  # so that all distances are about the same objects
            for distance, (left, top) in zip(distances, places):
                pixels = image[top : top + square, left : left + square]
                shifted = box - [left, top, left, top]
                yield Cutout(pixels, shifted, int(label), side, distance)


def is_found(cutout: Cutout, boxes: torch.Tensor, labels: torch.Tensor) -> bool:
    """Whether one of the detections is the object."""
    from torchvision.ops import box_iou  # takes a second

    same = boxes[labels == cutout.label]
    overlap = box_iou(same, torch.from_numpy(cutout.box).to(same)[None])
    return bool((overlap >= LEAST_IOU).any())


def run(args: argparse.Namespace) -> Report:
    """Measure the recall.

    Raises:
        ValueError: when an argument is out of range, or no object fits into a square.
    """
    if min(args.size, args.threads) < 1 or min(args.distances) < 0:
        raise ValueError("expected --size and --threads of at least 1, --distances of 0")
    torch.set_num_threads(args.threads)
    cfg = load_config(args.config_file, args.opts)
    use_data(cfg, None, args.val)
    register_datasets(cfg)
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty: name COCO files with --val JSON FOLDER")
    truth = load_ground_truth(cfg.DATASETS.TEST[0], len(cfg.MODEL.PIXEL_MEAN))
    check_classes(cfg, cfg.DATASETS.TEST[0])
    cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = args.size
    order, channels = cfg.INPUT.FORMAT, len(cfg.MODEL.PIXEL_MEAN)
    cutouts = [
        cutout
        for index in range(len(truth))
        for cutout in cut_out(truth, index, args.distances, args.size, order, channels)
    ]
    if not cutouts:
        raise ValueError(f"no object fits into a square of {args.size} pixels: see --size")
    detected = {}
    for place in PLACES:
        cfg.MODEL.YOLOR.PADDING.PLACE = place
        predictor = BatchPredictor(cfg, channel_order=order)
        detected[place] = np.zeros(len(cutouts), dtype=bool)
        for i, result in enumerate(predictor.stream(x.image for x in cutouts)):
            assert not isinstance(result, FailedInput)
            sure = result[result.scores >= args.threshold]
            detected[place][i] = is_found(cutouts[i], sure.pred_boxes.tensor, sure.pred_classes)
    rows = []
    for side in (*SIDES, "all"):
        for distance in args.distances:
            chosen = np.array([side in (x.side, "all") and x.distance == distance for x in cutouts])
            row = {"side": side, "distance, px": distance, "objects": int(chosen.sum())}
            for place in PLACES:
                hit_rate = detected[place][chosen].mean() if chosen.any() else None
                row[f"recall, {place}, %"] = None if hit_rate is None else 100 * float(hit_rate)
            rows.append(row)
    if args.picture is not None:
        draw(rows, args.picture)
    settings = {
        "model": cfg.MODEL.YOLOR.VARIANT,
        "data": cfg.DATASETS.TEST[0],
        "square": args.size,
        "threshold": args.threshold,
    }
    return Report("Recall by distance to the border", settings, rows, describe_machine())


def draw(rows: list[dict], path: Path) -> None:
    """Recall over distance, left and upper sides apart from right and lower ones, to a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, sides in zip(panels, (("left", "top"), ("right", "bottom"))):
        for place, colour, marker in zip(PLACES, ("#c2410c", "#1d78c9"), "so"):
            key = f"recall, {place}, %"
            # All distances have the same objects: a list of recalls for each side.
            chosen = [[x for x in rows if x["side"] == side and x["objects"]] for side in sides]
            chosen = [x for x in chosen if x]
            if chosen:
                weights = [x[0]["objects"] for x in chosen]
                recall = np.average([[y[key] for y in x] for x in chosen], axis=0, weights=weights)
                distances = [y["distance, px"] for y in chosen[0]]
                axes.plot(distances, recall, marker=marker, color=colour, label=place)
        axes.set_title(f"{sides[0]} and {sides[1]} border")
        axes.set_xlabel("distance to the border, px")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("recall at IoU 0.5, %")
    panels[0].legend(title="image on its canvas")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
