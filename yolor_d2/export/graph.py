"""The network as exported files hold it: images in, boxes out, tensors of fixed form only.

One module serves all formats. It does what `modeling.YOLOR` does at inference (normalise, network,
`ops.decode`, NMS), but for what no file needs to know: sizes of single images, and
`Instances`. What files hold of further tasks their branches say, see
`networks.branches.TaskBranch.file_outputs`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..layers.fuse import fuse_for_inference
from ..modeling import YOLOR
from ..networks.branches import TaskBranches
from ..ops import decode
from ..ops.nms import MAX_CANDIDATES, class_thresholds

# (N, R, 4) boxes, (N, R, K) scores, IoU threshold, most survivors of a class -> (N, R, K) scores, 0
# where a better box of the same class and image overlaps more.
NMS = Callable[[Tensor, Tensor, float, int], Tensor]

# Images (N, C, H, W) float32 to the outputs of a file.
Run = Callable[[np.ndarray], tuple[np.ndarray, ...]]

INPUT = "images"
ROWS = ("rows",)
DETECTIONS = ("boxes", "scores", "labels", "counts")


# ONNX's operator set unless another is wanted: old enough for runtimes of 2023, and everything in
# the graph is in it.
DEFAULT_OPSET = 18


@dataclass(frozen=True)
class FileOptions:
    """What a user chooses of a file.

    Attributes:
        suppress: put NMS into the file, so that it gives detections, not rows.
        half: weights, and where the format says so the network, in float16; images and boxes stay
            float32.
        canvas: (H, W) of the images if nothing else shall be taken; None leaves them open.
        opset: of ONNX.
    """

    suppress: bool = True
    half: bool = False
    canvas: tuple[int, int] | None = None
    opset: int = DEFAULT_OPSET


class LoadedFile(NamedTuple):
    """An exported file as its own runtime reads it.

    Attributes:
        run: what it computes.
        metadata: its description, see `metadata.describe`.
    """

    run: Run
    metadata: dict


def on_arrays(module: Callable) -> Run:
    """A function of tensors as one of arrays."""

    def run(images: np.ndarray) -> tuple[np.ndarray, ...]:
        with torch.no_grad():
            outputs = module(torch.from_numpy(images))
        return tuple(x.numpy() for x in (outputs if isinstance(outputs, tuple) else (outputs,)))

    return run


def survivors(boxes: Tensor, scores: Tensor, iou_threshold: float, most: int) -> Tensor:
    """Scores of what non-maximum suppression keeps, for formats that know torch's operators.

    Only the best `ops.nms.MAX_CANDIDATES` of an image are compared, as in `ops.detect`.

    Args:
        boxes: (N, R, 4) xyxy.
        scores: (N, R, K), 0 where the threshold is not passed.
        iou_threshold: a box that overlaps a better one of its class by more is dropped.
        most: not used; other implementations stop after so many of a class.

    Returns:
        (N, R, K) scores, 0 for what was dropped.
    """
    from torchvision.ops import nms

    n, r, k = scores.shape
    flat = scores.reshape(n, r * k)
    # Padded, as there may be fewer than requested.
    limit = nn.functional.pad(flat, (0, MAX_CANDIDATES)).topk(MAX_CANDIDATES).values[:, -1:]
    image, place = ((flat > 0) & (flat >= limit)).nonzero(as_tuple=True)
    candidates = boxes[image, place // k]
    # Every image and class gets a place of its own, where boxes of others do not reach; in double
    # precision, as far from the origin single precision would round boxes.
    extent = (boxes.amax() - boxes.amin()).double() + 1
    group = image * k + place % k
    moved = candidates.double() + (group * extent)[:, None]
    chosen = flat[image, place]
    keep = nms(moved, chosen.double(), iou_threshold)
    kept = torch.zeros_like(flat)
    kept[image[keep], place[keep]] = chosen[keep]
    return kept.view(n, r, k)


def example_input(model: YOLOR, canvas: tuple[int, int] | None = None) -> Tensor:
    """Images to trace a model with: two, not square, so that no size passes for a constant."""
    side = model.stride
    return torch.zeros(2, len(model.pixel_mean), *(canvas or (2 * side, 3 * side)))


def dynamic_shapes(model: YOLOR, least_cells: int, canvas: tuple[int, int] | None = None) -> dict:
    """What may vary of the input: the batch, and sides in multiples of the greatest stride."""
    side = model.stride
    batch = torch.export.Dim("batch", min=1)
    if canvas is not None:
        return {INPUT: {0: batch}}
    rows, columns = (torch.export.Dim(name, min=least_cells) for name in ("h", "w"))
    return {INPUT: {0: batch, 2: side * rows, 3: side * columns}}


def output_names(tasks: TaskBranches, *, suppress: bool) -> list[str]:
    """Names of a file's outputs: those of detection, then those of further tasks.

    Raises:
        ValueError: when two have the same name.
    """
    further = [x.name for x in tasks.file_outputs()]
    if len({*ROWS, *DETECTIONS, *further}) < len(ROWS) + len(DETECTIONS) + len(further):
        raise ValueError(
            f"tasks name their outputs {further}, expected names that differ, and not those of "
            f"{[*ROWS, *DETECTIONS]}: see `file_outputs` of the branches"
        )
    return [*(DETECTIONS if suppress else ROWS), *further]


def whole_canvas(images: Tensor) -> Tensor:
    """(N, 4) xyxy of images (N, C, H, W) that fill their canvas."""
    n, _, height, width = images.shape
    corner = images.new_zeros(n, 2)
    sides = [images.new_full((n, 1), side) for side in (width, height)]
    return torch.cat([corner, *sides], dim=1)


class ExportedDetector(nn.Module):
    """A detector on tensors alone.

    Args:
        model: weights already loaded; unchanged, a folded copy is used.
        NMS: how boxes are suppressed; None leaves that to the user of the file.
        half: run the network in float16; boxes are decoded in float32, as float16 has steps of half
            a pixel from 512 pixels on.
    """

    anchors: Tensor
    pixel_mean: Tensor
    pixel_std: Tensor
    thresholds: Tensor

    def __init__(self, model: YOLOR, *, nms: NMS | None, half: bool = False):
        super().__init__()
        fused = fuse_for_inference(model)
        self.dtype = torch.float16 if half else torch.float32
        self.backbone = fused.backbone.to(self.dtype)
        self.head = fused.head.to(self.dtype)
        self.tasks = fused.tasks.for_file().to(self.dtype)
        self.in_features, self.strides = model.in_features, model.strides
        self.multi_label = model.multi_label
        self.class_agnostic = model.class_agnostic_nms
        self.nms_threshold = model.nms_threshold
        self.max_detections = model.max_detections
        self.nms = nms
        wanted = model.class_score_thresholds
        least = class_thresholds(
            torch.tensor(wanted) if wanted else model.score_threshold,
            None,
            torch.empty(model.head.num_classes),
        )
        for name in ("anchors", "pixel_mean", "pixel_std"):
            self.register_buffer(name, getattr(model, name).clone())
        self.register_buffer("thresholds", least.clone())

    @property
    def outputs(self) -> list[str]:
        """Names of the results of `forward`."""
        return output_names(self.tasks, suppress=self.nms is not None)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Boxes in pixels of the input.

        Args:
            images: (N, C, H, W) with values 0-255, sides multiples of the greatest stride.

        Returns:
            Without NMS (N, R, 5 + K) rows, see `ops.decode`. With it, best first and filled
            up with zeros: boxes (N, D, 4) as xyxy, scores (N, D), labels (N, D) int64; and counts
            (N,) int64 of what is no filling. Then what `tasks` has of each row, (N, R, ...), or of
            each detection, (N, D, ...), and of each image, (N, ...).
        """
        pixels = (images - self.pixel_mean) / self.pixel_std
        by_name = self.backbone(pixels.to(self.dtype))
        features = [by_name[name] for name in self.in_features]
        levels, further = self.head(features), []
        if self.tasks:
            levels, outputs = self.tasks(features, levels, whole_canvas(images))
            further = self.tasks.export(outputs)
        rows = decode(levels, self.anchors, self.strides)
        if self.nms is not None:
            return self.detect(rows, further)
        return (rows, *further) if further else rows

    def detect(self, rows: Tensor, further: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
        """Rows (N, R, 5 + K) and what further tasks have beside them to detections, see `forward`.

        Written in operators that runtimes know. ONNX's GatherElements (single values by their
        places) is refused by OpenVINO 2026.4, And of OpenCV 5, and whole numbers are divided by
        way of And, or of float32, which does not hold them all.
        """
        assert self.nms is not None
        boxes, objectness, class_scores = rows[..., :4], rows[..., 4:5], rows[..., 5:]
        scores = objectness * class_scores  # (N, R, K)
        nothing = torch.zeros_like(scores)
        # No class score exceeds 1, so that objectness passes wherever the product does.
        scores = torch.where(scores > self.thresholds, scores, nothing)
        if not self.multi_label:
            best = class_scores.argmax(dim=-1, keepdim=True)
            classes = torch.arange(class_scores.shape[-1], device=rows.device)
            scores = torch.where(classes == best, scores, nothing)
        labels = None
        if self.class_agnostic:
            # A row's other classes have the same box, so its best one would suppress them.
            scores, labels = scores.max(dim=-1, keepdim=True)  # (N, R, 1)
        scores = self.nms(boxes, scores, self.nms_threshold, self.max_detections)
        n, r, k = scores.shape
        # Padded, as a small image may have fewer rows than the detections asked for.
        padded = nn.functional.pad(scores.flatten(1), (0, self.max_detections))
        scores, place = padded.topk(self.max_detections)  # (N, D)
        real = scores > 0
        place = torch.where(real, place, 0)
        row_of_place = torch.arange(r, device=rows.device)[:, None].expand(r, k).flatten()
        row = row_of_place.index_select(0, place.flatten()).view(place.shape)
        # Numbers of the rows of all images, one image below the other.
        row_of_all = (row + r * torch.arange(n, device=rows.device)[:, None]).flatten()

        def gather(x: Tensor, *inner: int) -> Tensor:
            """(N, R, *inner) to (N, D, *inner)."""
            return x.flatten(0, 1).index_select(0, row_of_all).view(*place.shape, *inner)

        def fill(x: Tensor) -> Tensor:
            """(N, D, ...) with zeros behind the last detection."""
            zero = torch.zeros_like(x)
            return torch.where(real[(..., *[None] * (x.dim() - 2))], x, zero)

        boxes = gather(boxes, 4)
        if labels is None:
            label = place - k * row
        else:
            label = labels.flatten().index_select(0, row_of_all).view(place.shape)
        kept = [
            fill(gather(x, *x.shape[2:])) if about.by_row else x
            for about, x in zip(self.tasks.file_outputs(), further)
        ]
        return fill(boxes), scores, torch.where(real, label, 0), real.sum(dim=1), *kept
