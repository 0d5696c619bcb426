"""Detections of a data set beside its ground truth."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets.keypoints import PIXEL_CENTRE, layout_of_categories
from ..files.images import read_image
from ..structures.run_lengths import polygons_of
from .boxes import draw_boxes
from .pictures import beside, enlarge, write_image
from .shapes import MaskCrop, Skeleton, crop_of_polygons


def coco_boxes(annotations: Sequence[dict]) -> np.ndarray:
    """(M, 4) xyxy of COCO annotations or results."""
    boxes = np.array([x["bbox"] for x in annotations], dtype=float).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def coco_shapes(
    annotations: Sequence[dict],
    kinds: Collection[str],
    factor: int,
    size: tuple[int, int],
    skeleton: Skeleton | None,
) -> dict[str, Any]:
    """Masks and keypoints of COCO annotations or results, for `draw_boxes`.

    Args:
        annotations: M of one image.
        kinds: which of "segmentation" and "keypoints" are wanted.
        factor: how many times larger the picture is.
        size: its (H, W).
        skeleton: of the keypoints.
    """
    shapes: dict[str, Any] = {}
    if "segmentation" in kinds:

        def crop(index: int) -> MaskCrop:
            shape = annotations[index].get("segmentation") or []
            if isinstance(shape, dict):
                parts = polygons_of(shape)
            else:
                parts = [np.array(x, dtype=float).reshape(-1, 2) for x in shape if len(x) >= 6]
            return crop_of_polygons([factor * x for x in parts], size)

        shapes["masks"] = crop
    count = 0 if skeleton is None else len(skeleton.names)
    if count:
        points = np.zeros((len(annotations), count, 3))
        for own, annotation in zip(points, annotations):
            if annotation.get("keypoints"):
                own[:] = np.reshape(annotation["keypoints"], (count, 3))
        points[..., :2] = factor * (points[..., :2] + PIXEL_CENTRE)
        shapes |= {"keypoints": points, "skeleton": skeleton}
    return shapes


def draw_results(
    annotation_file: Path,
    image_root: Path,
    results_file: Path,
    output: Path,
    *,
    count: int = 12,
    score_threshold: float = 0.3,
) -> list[Path]:
    """Draw ground truth and detections of evenly chosen images of a data set; small images are
    enlarged. Masks and keypoints are drawn where detections have some.

    Args:
        annotation_file: COCO annotations.
        image_root: folder of the images.
        results_file: COCO results, as the evaluation writes them.
        output: folder of the pictures.
        count: pictures to draw at most.
        score_threshold: detections below are left out.

    Returns:
        The files.
    """
    data = json.loads(annotation_file.read_text(encoding="utf-8"))
    categories = sorted(data["categories"], key=lambda x: x["id"])
    names = [x["name"] for x in categories]
    index = {x["id"]: i for i, x in enumerate(categories)}
    results = json.loads(results_file.read_text(encoding="utf-8"))
    kinds = {key for key in ("segmentation", "keypoints") for x in results[:1] if key in x}
    layout = layout_of_categories(categories) if "keypoints" in kinds else None
    skeleton = layout and Skeleton.from_names(layout.names, layout.connections)
    paths = []
    chosen = np.linspace(0, len(data["images"]) - 1, min(count, len(data["images"])))
    for entry in (data["images"][round(i)] for i in chosen):
        truth = [
            x
            for x in data["annotations"]
            if x["image_id"] == entry["id"] and not x.get("iscrowd", 0)
        ]
        detections = [
            x for x in results if x["image_id"] == entry["id"] and x["score"] >= score_threshold
        ]
        image, factor = enlarge(read_image(image_root / entry["file_name"]))
        classes = [index[x["category_id"]] for x in truth]
        shapes = coco_shapes(truth, kinds, factor, image.shape[:2], skeleton)
        left = draw_boxes(image, factor * coco_boxes(truth), classes, names, **shapes)
        classes = [index[x["category_id"]] for x in detections]
        scores = [x["score"] for x in detections]
        shapes = coco_shapes(detections, kinds, factor, image.shape[:2], skeleton)
        right = draw_boxes(image, factor * coco_boxes(detections), classes, names, scores, **shapes)
        titles = ("ground truth", f"detections, score >= {score_threshold:g}")
        # The folders become part of the name, so that pictures of one name stay apart.
        path = output / f"{'_'.join(Path(entry['file_name']).with_suffix('').parts)}.png"
        write_image(path, beside(left, right, titles))
        paths.append(path)
    return paths
