"""Pictures: boxes on images, predictions beside the ground truth, curves of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from .checkpoint.files import atomic_write
from .data.image import read_image

# RGB, told apart easily and readable on most images; classes beyond the list start over.
PALETTE = (
    (230, 57, 70),
    (29, 120, 201),
    (42, 157, 79),
    (244, 140, 6),
    (131, 56, 236),
    (0, 150, 160),
    (214, 40, 140),
    (120, 85, 60),
)


def to_rgb(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) of an image with any number of channels: its first three, or its first as grey."""
    return image[:, :, :3] if image.shape[2] >= 3 else np.repeat(image[:, :, :1], 3, axis=2)


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
) -> np.ndarray:
    """A copy of an image with its boxes and their classes.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (M, 4) xyxy in pixels.
        classes: M classes.
        names: name of each class.
        scores: M scores to write beside the classes.
        labels: whether anything is written beside the boxes.
        line_width: of the boxes in pixels; None chooses it.
        identities: M numbers of objects to write beside the classes, None where it is unknown.
    """
    canvas = np.ascontiguousarray(image).copy()
    unit = max(canvas.shape[:2]) / 640  # so that lines and letters look alike on images of any size
    thickness = max(round(1.5 * unit), 1) if line_width is None else line_width
    font, font_scale = cv2.FONT_HERSHEY_SIMPLEX, max(0.4 * unit, 0.3)
    for i, (box, label) in enumerate(zip(boxes, classes)):
        colour = PALETTE[label % len(PALETTE)]
        x1, y1, x2, y2 = (round(float(v)) for v in box)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, thickness)
        if not labels:
            continue
        text = names[label] + (f" {scores[i]:.2f}" if scores is not None else "")
        if identities is not None and identities[i] is not None:
            text = f"{identities[i]} {text}"
        (width, height), baseline = cv2.getTextSize(text, font, font_scale, 1)
        top = max(y1 - height - baseline, 0)
        cv2.rectangle(canvas, (x1, top), (x1 + width, top + height + baseline), colour, -1)
        origin = (x1, top + height + baseline // 2)
        cv2.putText(canvas, text, origin, font, font_scale, (255, 255, 255), 1, cv2.LINE_AA)
    return canvas


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
        cv2.putText(bar, title, (6, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
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
) -> list[Path]:
    """Draw training batches with their boxes, as the network sees them.

    Args:
        batches: of the training loader; images of a batch are of one size.
        output: folder of the pictures, which are named by the number of the batch.
        count: pictures to draw.
        first: number of the first batch.
        class_names: name of each class.
        channel_order: "RGB" or "BGR", that of the images.

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
                )
            )
        path = output / f"batch_{number:07d}.png"
        write_image(path, tile_images(drawn))
        paths.append(path)
    return paths


def coco_boxes(annotations: Sequence[dict]) -> np.ndarray:
    """(M, 4) xyxy of COCO annotations or results."""
    boxes = np.array([x["bbox"] for x in annotations], dtype=float).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def draw_results(
    annotation_file: Path,
    image_root: Path,
    results_file: Path,
    output: Path,
    *,
    count: int = 12,
    score_threshold: float = 0.3,
) -> list[Path]:
    """Draw ground truth and detections of evenly chosen images of a data set.

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
    paths = []
    chosen = np.linspace(0, len(data["images"]) - 1, min(count, len(data["images"])))
    for entry in (data["images"][round(i)] for i in chosen):
        truth = [
            x
            for x in data["annotations"]
            if x["image_id"] == entry["id"] and not x.get("iscrowd", 0)
        ]
        found = [
            x for x in results if x["image_id"] == entry["id"] and x["score"] >= score_threshold
        ]
        image = read_image(image_root / entry["file_name"])
        left = draw_boxes(image, coco_boxes(truth), [index[x["category_id"]] for x in truth], names)
        right = draw_boxes(
            image,
            coco_boxes(found),
            [index[x["category_id"]] for x in found],
            names,
            [x["score"] for x in found],
        )
        titles = ("ground truth", f"detections, score >= {score_threshold:g}")
        # The folders become part of the name, so that pictures of one name stay apart.
        path = output / f"{'_'.join(Path(entry['file_name']).with_suffix('').parts)}.png"
        write_image(path, beside(left, right, titles))
        paths.append(path)
    return paths


def read_metrics(path: Path) -> list[dict]:
    """Lines of a `metrics.json`; a line that was cut by an interruption is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def plot_curves(metrics_file: Path, output: Path) -> None:
    """Plot losses, AP and learning rate of a run over its iterations, to a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_metrics(metrics_file)
    # A resumed run repeats no iteration in the curve: the newest line of each counts.
    by_iteration = {row["iteration"]: row for row in rows if "iteration" in row}
    rows = [by_iteration[i] for i in sorted(by_iteration)]
    terms = sorted({key for row in rows for key in row if key.startswith("loss_")})
    panels = [
        ("loss", ["total_loss", *terms]),
        ("AP (%)", ["bbox/AP50", "bbox/AP"]),
        ("learning rate", ["lr"]),
    ]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, keys) in zip(figure.subplots(1, len(panels)), panels):
        for key in keys:
            points = [(row["iteration"], row[key]) for row in rows if key in row]
            if points:
                axes.plot(*zip(*points), label=key, marker="o" if len(points) < 30 else None, ms=3)
        axes.set_title(title)
        axes.set_xlabel("iteration")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.set_ylim(bottom=0)
            axes.legend(fontsize=8)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=120)
