"""The detections of one image or frame, as everything that is written has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..ops.masks import BoxMasks
from ..visualize.boxes import draw_boxes
from ..visualize.shapes import Skeleton, crops, point_records
from .sources import Source

# Digits in the names of files of frames: seven days at 25 frames per second.
FRAME_DIGITS = 8


def detection_records(
    boxes: np.ndarray,
    scores: Sequence[float],
    names: Sequence[str],
    masks: BoxMasks | None = None,
    keypoints: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Detections as plain data, as everything that is written has them.

    Args:
        boxes: (M, 4) xyxy in pixels; a record has x, y, width, height.
        scores: M.
        names: M, of their classes.
        masks: M; a record has COCO's compressed run lengths as "segmentation".
        keypoints: (M, K, 3) x, y, score; a record has them as "keypoints".
    """
    records: list[dict[str, Any]] = [
        {
            "bbox": [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(score, 5),
            "class": name,
        }
        for (x1, y1, x2, y2), score, name in zip(boxes.tolist(), scores, names)
    ]
    columns: dict[str, list] = {}
    if masks is not None:
        columns["segmentation"] = masks.rle()
    if keypoints is not None:
        columns["keypoints"] = point_records(keypoints)
    for key, values in columns.items():
        for record, value in zip(records, values):
            record[key] = value
    return records


@dataclass(frozen=True)
class Result:
    """Detections of an image or of a frame of a video.

    Attributes:
        source: where it comes from.
        image_id: see `ImageIds`.
        frame: its number in the video; 0 for images.
        seconds: since the video's first frame; 0 for images.
        size: (H, W).
        boxes: (M, 4) xyxy in pixels.
        scores: M.
        labels: M classes.
        identities: M, None where an object is not known yet; empty without tracking.
        names: of the classes.
        read: gives (H, W, 3) RGB pixels.
        masks: of the M objects; None where the model has none.
        keypoints: (M, K, 3) x, y in pixels, score in 0-1; None where the model has none.
        skeleton: what the keypoints are.
    """

    source: Source
    image_id: int
    frame: int
    seconds: float
    size: tuple[int, int]
    boxes: np.ndarray
    scores: list[float]
    labels: list[int]
    identities: list[int | None]
    names: Sequence[str]
    read: Callable[[], np.ndarray] = field(repr=False)
    masks: BoxMasks | None = None
    keypoints: np.ndarray | None = None
    skeleton: Skeleton | None = None

    @property
    def stem(self) -> str:
        """Place and name of files about it, below a folder and without suffix."""
        place = str(self.source.place)
        return place if self.source.kind == "image" else f"{place}_{self.frame:0{FRAME_DIGITS}d}"

    @cached_property
    def detections(self) -> list[dict]:
        """See `detection_records`; with identities where objects are followed."""
        names = [self.names[x] for x in self.labels]
        records = detection_records(self.boxes, self.scores, names, self.masks, self.keypoints)
        for record, identity in zip(records, self.identities):
            record["identity"] = identity
        return records

    def record(self) -> dict:
        return {
            "file_name": self.source.shown,
            "frame": self.frame,
            "seconds": round(self.seconds, 6),
            "height": self.size[0],
            "width": self.size[1],
            "detections": self.detections,
        }

    def drawn(self, *, labels: bool = True, line_width: int | None = None) -> np.ndarray:
        return draw_boxes(
            self.read(),
            self.boxes,
            self.labels,
            self.names,
            self.scores,
            labels=labels,
            line_width=line_width,
            identities=self.identities or None,
            masks=None if self.masks is None else crops(self.masks),
            keypoints=self.keypoints,
            skeleton=self.skeleton,
        )
