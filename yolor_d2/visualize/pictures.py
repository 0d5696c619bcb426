"""Pictures: boxes on images, predictions beside the ground truth, curves of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..d2.structures import Instances
from ..datasets.keypoints import PIXEL_CENTRE, layout_of_categories
from ..files.images import read_image
from ..files.writing import atomic_write
from ..structures.run_lengths import polygons_of
from .labels import (
    GROWTH,
    LETTERS,
    PICTURE_SIDE,
    Colour,
    draw_label,
    draw_text,
    place_labels,
    readable_name,
)
from .shapes import MaskCrop, Masks, Skeleton, crop_of_polygons, draw_mask, draw_points

# RGB, told apart with any kind of colour vision (Okabe and Ito, 2008, without black, those that
# differ most first); classes beyond the list start over.
PALETTE = (
    (230, 159, 0),
    (0, 114, 178),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
)
# Lines in pixels: in a picture whose longer side is `labels.PICTURE_SIDE`, growing like letters; at
# most this share of the shorter side of a box, so that they do not hide it.
LINE, LINE_FRACTION = 2, 0.05
# The longer side of small images is enlarged by a whole factor to about this many pixels, at most
# so many times, so that boxes and labels can be told apart.
SHOWN_SIDE, MOST_ENLARGED = 480, 4


def to_rgb(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) of an image with any number of channels: its first three, or its first as grey."""
    return image[:, :, :3] if image.shape[2] >= 3 else np.repeat(image[:, :, :1], 3, axis=2)


def line_widths(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """(M,) widths in pixels, at least 1, of the lines of boxes (M, 4) xyxy in a picture."""
    wanted = LINE * (max(height, width) / PICTURE_SIDE) ** GROWTH
    shorter = (boxes[:, 2:] - boxes[:, :2]).min(axis=1)
    return np.rint(np.minimum(wanted, LINE_FRACTION * shorter)).clip(1).astype(np.int64)


def draw_outline(canvas: np.ndarray, box: Sequence[int], colour: Colour, width: int) -> None:
    """Draw the sides of a box; what lies outside is left out.

    OpenCV's rectangle is 5 pixels wide where 3 are asked for.

    Args:
        canvas: (H, W, 3) uint8 RGB, changed in place.
        box: xyxy, whole pixels in the middle of the lines.
        colour: of the lines.
        width: of the lines in pixels.
    """
    before = width // 2
    x1, y1, x2, y2 = (max(x - before, 0) for x in box)
    x3, y3, x4, y4 = (max(x - before + width, 0) for x in box)
    canvas[y1:y3, x1:x4] = colour
    canvas[y2:y4, x1:x4] = colour
    canvas[y1:y4, x1:x3] = colour
    canvas[y1:y4, x2:x4] = colour


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    classes: Sequence[int],
    names: Sequence[str],
    scores: Sequence[float] | None = None,
    *,
    labels: bool = True,
    line_width: int | None = None,
    identities: Sequence[int | None] | None = None,
    masks: Masks | None = None,
    keypoints: np.ndarray | None = None,
    skeleton: Skeleton | None = None,
) -> np.ndarray:
    """A copy of an image with its boxes and their classes, and with masks and keypoints where
    objects have some.

    Lines and letters are sized by the boxes and the picture. Of boxes over each other the best lies
    on top; labels come after all boxes, none over another, and small boxes have none, see
    `labels.place_labels`.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (M, 4) xyxy in pixels.
        classes: M classes.
        names: name of each class.
        scores: M scores to write beside the names.
        labels: whether to write at all.
        line_width: of the lines in pixels; None chooses.
        identities: M numbers of individuals, which are written before the names and choose the
            colours in place of the classes; None where an object has none.
        masks: of the M objects.
        keypoints: (M, K, 3) x, y in pixels, and score or visibility, see `shapes.draw_points`.
        skeleton: says between which keypoints lines are drawn; None draws none.

    Raises:
        ValueError: when a box or keypoint is not finite or the line width is below 1.
    """
    if line_width is not None and line_width < 1:
        raise ValueError(f"line_width is {line_width}, expected at least 1")
    canvas = np.ascontiguousarray(image).copy()
    height, width = canvas.shape[:2]
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    if not np.isfinite(boxes).all():
        raise ValueError("a box has a number that is not finite")
    lines = line_widths(boxes, height, width)
    if line_width is not None:
        lines[:] = line_width
    # Sides of boxes that leave the picture stay outside of it, but near.
    beyond = int(lines.max(initial=1)) + 1
    low, high = -beyond, np.array([width, height, width, height]) + beyond
    places = np.rint(boxes).clip(low, high).astype(np.int64)
    numbers = [-1 if x is None else x for x in identities or [None] * len(boxes)]
    colours = [
        PALETTE[(label if number < 0 else number) % len(PALETTE)]
        for label, number in zip(classes, numbers)
    ]
    best_first = range(len(boxes))
    if scores is not None:
        best_first = sorted(best_first, key=lambda i: -scores[i])
    if masks is not None:
        for i in reversed(best_first):
            draw_mask(canvas, masks(i), colours[i], int(lines[i]))
    for i in reversed(best_first):
        draw_outline(canvas, places[i].tolist(), colours[i], int(lines[i]))
    if keypoints is not None:
        bones = () if skeleton is None else skeleton.lines
        for i in reversed(best_first):
            draw_points(canvas, keypoints[i], bones, colours[i], int(lines[i]))
    if labels:
        texts = []
        for i, label in enumerate(classes):
            words = [f"#{numbers[i]}"] if numbers[i] >= 0 else []
            words.append(readable_name(names[label], label))
            texts.append(" ".join([*words, f"{scores[i]:.2f}"] if scores is not None else words))
        line = int(lines.max(initial=1))
        for label in place_labels(places, texts, best_first, (height, width), line=line):
            draw_label(canvas, label, colours[label.index])
    return canvas


def enlarge(image: np.ndarray) -> tuple[np.ndarray, int]:
    """A small image a whole number of times larger, see `SHOWN_SIDE`; and that number."""
    factor = min(max(-(-SHOWN_SIDE // max(image.shape[:2])), 1), MOST_ENLARGED)
    if factor == 1:
        return image, 1
    size = (image.shape[1] * factor, image.shape[0] * factor)
    return cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_CUBIC), factor


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an RGB image in the format of the path's suffix.

    Raises:
        OSError: when it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix or ".png", image[:, :, ::-1])
    if not done:
        raise OSError(f"cannot encode {str(path)!r}")
    with atomic_write(path) as file:
        file.write(data.tobytes())


def beside(left: np.ndarray, right: np.ndarray, titles: tuple[str, str]) -> np.ndarray:
    """Two RGB images of one size in a row, each under its title."""
    panels = []
    for image, title in zip((left, right), titles):
        bar = np.full((28, image.shape[1], 3), 255, dtype=np.uint8)
        draw_text(bar, title, (6, 5), LETTERS, (0, 0, 0))
        panels.append(np.vstack([bar, image]))
    gap = np.full((panels[0].shape[0], 6, 3), 255, dtype=np.uint8)
    return np.hstack([panels[0], gap, panels[1]])


def tile_images(images: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """RGB images of one size in rows of a nearly square grid, on white."""
    height, width = images[0].shape[:2]
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    canvas = np.full((rows * (height + gap), columns * (width + gap), 3), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        canvas[y : y + height, x : x + width] = image
    return canvas[:-gap, :-gap]


def draw_batches(
    batches: Iterable[list[dict]],
    output: Path,
    *,
    count: int,
    first: int,
    class_names: Sequence[str],
    channel_order: str,
    skeleton: Skeleton | None = None,
) -> list[Path]:
    """Draw training batches with their boxes, masks and keypoints, as the network sees them.

    Args:
        batches: of the training loader; images of a batch are of one size.
        output: folder of the pictures, which are named by the number of the batch.
        count: pictures to draw.
        first: number of the first batch.
        class_names: name of each class.
        channel_order: "RGB" or "BGR", that of the images.
        skeleton: of keypoints.

    Returns:
        The files.
    """
    paths = []
    for number, batch in zip(range(first, first + count), batches):
        drawn = []
        for sample in batch:
            image = sample["image"].numpy().transpose(1, 2, 0)
            as_it_is = channel_order == "RGB" or image.shape[2] != 3
            truth = sample["instances"]
            drawn.append(
                draw_boxes(
                    to_rgb(image) if as_it_is else image[:, :, ::-1],
                    truth.gt_boxes.tensor.numpy(),
                    truth.gt_classes.tolist(),
                    class_names,
                    **truth_shapes(truth, skeleton),
                )
            )
        path = output / f"batch_{number:07d}.png"
        write_image(path, tile_images(drawn))
        paths.append(path)
    return paths


def truth_shapes(truth: Instances, skeleton: Skeleton | None) -> dict[str, Any]:
    """Masks and keypoints of ground truth, as far as it has some, for `draw_boxes`."""
    shapes: dict[str, Any] = {}
    if truth.has("gt_masks"):
        parts = [[np.reshape(x, (-1, 2)) for x in one] for one in truth.gt_masks.polygons]
        shapes["masks"] = lambda i: crop_of_polygons(parts[i], truth.image_size)
    if truth.has("gt_keypoints"):
        shapes["keypoints"] = truth.gt_keypoints.tensor.cpu().numpy()
        shapes["skeleton"] = skeleton
    return shapes


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
