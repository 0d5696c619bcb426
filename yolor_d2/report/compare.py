"""What two reports can be compared on: the images that both runs were evaluated on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..datasets.annotations import Annotations
from ..evaluation.coco_files import Detections, read_results, read_truth
from ..evaluation.coco_metrics import evaluate_boxes
from .analysis import analyse
from .files import to_json
from .shapes import take_rows

# Names of images in a message.
MOST_NAMES = 3


def align_reports(reports: Sequence[dict], names: Sequence[str]) -> tuple[list[dict], list[str]]:
    """Two reports about the same images, which are found by their file names.

    Where the runs share only some of their images, the metrics are made again of those, from the
    detections and annotations that the reports name.

    Args:
        reports: two, as report.json has them.
        names: what to call the runs.

    Returns:
        The reports, and what a reader should know about them.

    Raises:
        ValueError: when no image is in both, so that nothing can be compared.
    """
    files = [{image["file_name"] for image in report["images"]} for report in reports]
    common = files[0] & files[1]
    if not common:
        about = [
            f"{name}: {report['dataset']['name']}, {len(own):,} images such as "
            f"{', '.join(sorted(own)[:MOST_NAMES]) or 'none'}"
            for name, report, own in zip(names, reports, files)
        ]
        raise ValueError(
            "the runs were evaluated on different images, so they cannot be compared: "
            f"{'; '.join(about)}. Evaluate both on the same data set"
        )
    if files[0] == files[1]:
        return list(reports), []
    aligned, notes = [], []
    counts = " and ".join(f"{len(own):,}" for own in files)
    for name, report, own in zip(names, reports, files):
        restricted = report if own == common else restrict_report(report, common)
        if restricted is None:
            notes.append(
                f"All metrics of {name} but those of single images are about all of its "
                f"{len(own):,} images: its detections or annotations are not any more where its "
                "report has them from, or have changed."
            )
        aligned.append(report if restricted is None else restricted)
    shared = f"The runs share {len(common):,} of {counts} images."
    if not notes:
        shared += f" Everything but speed and training is about those {len(common):,}."
    return aligned, [shared, *notes]


def restrict_report(report: dict, file_names: set[str]) -> dict | None:
    """A report about some of its images.

    Metrics of further tasks are left out, as they are not known image by image.

    Returns:
        None when the files that it was made of cannot be read, or are not those any more.
    """
    try:
        truth = read_truth(Path(report["dataset"]["annotations"]))
        detections = read_results(Path(report["dataset"]["results"]), truth)
    except (OSError, ValueError):
        return None
    counts = report["counts"]
    now = (len(truth.image_ids), int((~truth.crowd).sum()), len(detections.scores))
    if now != (counts["images"], counts["objects"], counts["detections"]):
        return None
    keep = np.array([name in file_names for name in truth.file_names], dtype=bool)
    truth, detections = select_images(truth, detections, keep)
    content = to_json(analyse(truth, detections, evaluate_boxes(truth, detections)))
    assert isinstance(content, dict)
    take_rows(content["pictures"])
    return {**report, **content, "tasks": {}}


def select_images(
    truth: Annotations, detections: Detections, keep: np.ndarray
) -> tuple[Annotations, Detections]:
    """Some images with their objects and detections.

    Args:
        truth: N images.
        found: detections there.
        keep: (N,) bool.
    """
    rows = keep[truth.image_rows]
    per_object = ("ids", "boxes", "labels", "areas", "crowd", "identities")
    chosen = replace(
        truth,
        image_ids=truth.image_ids[keep],
        sizes=truth.sizes[keep],
        file_names=[name for name, kept in zip(truth.file_names, keep) if kept],
        starts=np.concatenate([[0], np.cumsum(np.diff(truth.starts)[keep])]),
        **{name: getattr(truth, name)[rows] for name in per_object},
    )
    places = np.cumsum(keep) - 1
    some = keep[detections.images]
    return chosen, Detections(
        images=places[detections.images[some]],
        labels=detections.labels[some],
        boxes=detections.boxes[some],
        scores=detections.scores[some],
    )
