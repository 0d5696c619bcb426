"""Time of NMS on generated rows, beside torchvision's own on the best 30,000 candidates."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from ..environment import describe_machine
from ..ops import Detections, detect
from ..ops.nms import MAX_CANDIDATES, select_candidates
from . import timing
from .report import Report
from .timing import Clock

IMAGE_SIDE = 1280.0
MAX_DETECTIONS = 300


def random_boxes(count: int, generator: torch.Generator) -> Tensor:
    """(R, 4) boxes anywhere, with sides of 8 to 80 px."""
    centres = torch.rand(count, 2, generator=generator) * IMAGE_SIDE
    half = 4 * 10 ** torch.rand(count, 2, generator=generator)
    return torch.cat([centres - half, centres + half], dim=1)


def trained_rows(count: int, classes: int) -> Tensor:
    """(R, 5 + K) rows with scores that are mostly near 0.

    With the default numbers about 170,000 pairs of row and class pass 0.001; the boxes overlap at
    random, not in heaps around objects.
    """
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(count, generator)
    objectness = torch.rand(count, 1, generator=generator) ** 16
    class_scores = torch.rand(count, classes, generator=generator) ** 60
    return torch.cat([boxes, objectness, class_scores], dim=1)


def passing_rows(count: int, classes: int) -> Tensor:
    """(R, 5 + K) rows that all pass with one class each."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.zeros(count, 5 + classes)
    rows[:, :4] = random_boxes(count, generator)
    rows[:, 4] = 0.1 + 0.9 * torch.rand(count, generator=generator)
    labels = torch.randint(classes, (count,), generator=generator)
    rows[torch.arange(count), 5 + labels] = 0.1 + 0.9 * torch.rand(count, generator=generator)
    return rows


def torchvision_detect(rows: Tensor, score_threshold: float, iou_threshold: float) -> Detections:
    """All products, the best `MAX_CANDIDATES` of them sorted, and `batched_nms` on these."""
    from torchvision.ops import batched_nms

    objectness, scores = rows[:, 4:5], rows[:, 4:5] * rows[:, 5:]
    passing = (scores > score_threshold) & (objectness > score_threshold)
    index, labels = passing.nonzero(as_tuple=True)
    scores, order = scores[index, labels].sort(descending=True)
    scores, order = scores[:MAX_CANDIDATES], order[:MAX_CANDIDATES]
    index, labels = index[order], labels[order]
    boxes = rows[index, :4]
    # Shifted, as `batched_nms` wants no negative coordinates.
    shifted = boxes - boxes.amin() if len(boxes) else boxes
    keep = batched_nms(shifted, scores, labels, iou_threshold)[:MAX_DETECTIONS]
    return Detections(boxes[keep], scores[keep], labels[keep], index[keep])


def same_boxes(first: Detections, second: Detections) -> bool:
    """Whether boxes, scores and classes are equal."""
    return all(torch.equal(a, b) for a, b in zip(first[:3], second[:3]))


def run(args: argparse.Namespace) -> Report:
    """Measure both cases.

    Raises:
        ValueError: when an argument is out of range.
    """
    timing.prepare(args, "rows", "classes")
    if args.opts:
        raise ValueError(f"nms takes no KEY VALUE pairs, got {args.opts}")
    for name, value in (
        ("threshold", args.score_threshold),
        ("iou", args.iou_threshold),
    ):
        if not 0 <= value <= 1:
            raise ValueError(f"--{name} is {value}, expected 0 to 1")
    table = []
    for case, generate in (("trained", trained_rows), ("all", passing_rows)):
        rows = generate(args.rows, args.classes).to(args.device)

        def ours(rows: Tensor = rows) -> Detections:
            return detect(
                rows,
                score_threshold=args.score_threshold,
                iou_threshold=args.iou_threshold,
                max_detections=MAX_DETECTIONS,
            )

        def select(rows: Tensor = rows) -> Detections:
            return select_candidates(rows, args.score_threshold)

        def theirs(rows: Tensor = rows) -> Detections:
            return torchvision_detect(rows, args.score_threshold, args.iou_threshold)

        calls = {"yolor_d2": ours, "of it candidates": select, "torchvision": theirs}
        samples = timing.alternate(calls, rounds=args.rounds, clock=Clock(rows.device))
        scores = rows[:, 4:5] * rows[:, 5:]
        passing = (scores > args.score_threshold) & (rows[:, 4:5] > args.score_threshold)
        kept = {"yolor_d2": ours(), "torchvision": theirs()}
        for name, taken in samples.items():
            result = kept.get(name)
            table.append(
                {
                    "rows": case,
                    "candidates": int(passing.sum()),
                    "what": name,
                    **taken.columns(),
                    "least CPU ms": 1000 * min(taken.cpu),
                    "times torchvision": taken.ratio(samples["torchvision"]),
                    "boxes": None if result is None else len(result.boxes),
                    "same boxes": None if result is None else same_boxes(result, kept["yolor_d2"]),
                }
            )
    settings = {
        "rows": args.rows,
        "classes": args.classes,
        "score threshold": args.score_threshold,
        "IoU threshold": args.iou_threshold,
        "rounds": args.rounds,
    }
    return Report("Suppression", settings, table, describe_machine())
