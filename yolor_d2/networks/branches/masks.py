"""Masks of objects: prototypes that an image shares, and coefficients of each prediction that mix
them (YOLACT, arXiv 1904.02689), beside an anchor-based detector as in the authors' YOLOv7-seg.

There implicit knowledge on the coefficients exists and is never applied; here it is.

One file, as loss, decoding and exported tensors share the layout of prototypes and coefficients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers import (
    BlockForm,
    ConvNormAct,
    ImplicitOptions,
    build_implicit,
    parse_implicit,
    split_levels,
)
from ...ops.assign import Assignment
from ...ops.device import constant, shapes_may_depend_on_values
from ...ops.masks import BoxMasks, MaskPiece
from ...ops.padding import ImageView
from ...ops.truth import Truth
from .branch import DetectedBoxes, FileOutput, TaskBranch

# Input pixels per pixel of the prototypes.
PROTOTYPE_STRIDE = 4


class MaskOutput(NamedTuple):
    """What the branch computes for a batch.

    Attributes:
        coefficients: (N, A, H, W, C) of each level.
        prototypes: (N, C, h, w) at stride 4.
    """

    coefficients: list[Tensor]
    prototypes: Tensor


# ---- Loss


def crop_corners(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels of the prototypes that boxes touch, one of each box at least.

    Args:
        boxes: (M, 4) cxcywh in input pixels.
        size: (h, w) of the prototypes.

    Returns:
        (M, 4) int64 first column and row, and those behind the last ones.
    """
    centre, half = boxes[:, :2] / PROTOTYPE_STRIDE, boxes[:, 2:] / (2 * PROTOTYPE_STRIDE)
    limit = constant((float(size[1]), float(size[0])), boxes)
    first = torch.minimum((centre - half).floor().clamp(min=0), limit - 1)
    last = torch.minimum(torch.maximum((centre + half).ceil(), first + 1), limit)
    return torch.cat([first, last], dim=1).long()


class ChosenRows(NamedTuple):
    """Positives that the loss looks at, B of each image (0 if there are none at all), of which some
    may not count.

    Attributes:
        row: (N, B) int64 rows of the assignment; any where it does not count.
        weight: (N, B) of each in the loss: a mean over the positives of an image and level, one
            over images, and a sum over levels; 0 where it does not count.
    """

    row: Tensor
    weight: Tensor


def choose_rows(counts: Tensor, targets: Assignment, num_images: int, most: int) -> ChosenRows:
    """At most so many positives of each image: of more, ones at even distances in their order, so
    that every level and nearly every object keeps its fraction.

    Args:
        counts: (R,) bool, which rows of the assignment may be chosen.
        targets: the assignment, R rows.
        num_images: N.
        most: B.
    """
    device, num_levels = counts.device, len(targets.sizes)
    if not len(counts):
        nothing = torch.zeros(num_images, 0, dtype=torch.int64, device=device)
        return ChosenRows(nothing, nothing.float())
    images = torch.arange(num_images, device=device)
    belongs = (targets.image[:, None] == images) & counts[:, None]  # (R, N)
    running = belongs.int().cumsum(dim=0)
    rank = running.gather(1, targets.image[:, None])[:, 0] - 1  # (R,) among those of the image
    total = running[-1][targets.image].clamp(min=1)
    # The slot s takes the rank floor(s * total / most) where there are more than slots.
    dense = total > most
    slot = torch.where(dense, (rank * most + total - 1).div(total, rounding_mode="floor"), rank)
    taken = torch.where(dense, (slot * total).div(most, rounding_mode="floor") == rank, True)
    slot = torch.where(
        counts & taken & (slot < most), slot, most
    ).long()  # the last is for the rest
    rows = torch.full((num_images, most + 1), -1, dtype=torch.int64, device=device)
    numbers = torch.arange(len(counts), device=device)
    rows = rows.index_put((targets.image, slot), numbers)[:, :most]
    valid = rows >= 0
    rows = rows.clamp(min=0)
    level = targets.level[rows] + num_levels * images[:, None]
    per_level = torch.zeros(num_images * num_levels, device=device)
    per_level = per_level.index_add(0, level.flatten(), valid.flatten().float())
    weight = valid / (per_level[level].clamp(min=1) * num_images)
    return ChosenRows(rows, weight)


def entropy_and_slopes(
    coefficients: Tensor, prototypes: Tensor, wanted: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted sum of binary cross entropies over pixels, and how it changes.

    Args:
        coefficients: (P, C).
        prototypes: (C, Q) of Q pixels.
        wanted: (P, Q) or (1, Q), 1 inside an object and 0 outside.
        weight: (P, Q) or (P, 1).

    Returns:
        0-dim sum, and its derivatives by coefficients and prototypes.
    """
    logits = coefficients @ prototypes
    entropy = F.softplus(logits).sub_(logits * wanted).mul_(weight).sum()
    slope = logits.sigmoid_().sub_(wanted).mul_(weight)
    return entropy, slope @ prototypes.T, coefficients.T @ slope


def full_precision(device_type: str) -> AbstractContextManager:
    """Inside, no operation is made less exact."""
    known = torch.amp.is_autocast_available(device_type)
    return torch.autocast(device_type, enabled=False) if known else nullcontext()


class MaskEntropy(torch.autograd.Function):
    """`mask_loss` with its gradients, which are made on the way: an object or image at a time, of
    which nothing is kept, so that memory does not grow with the number of positives."""

    @staticmethod
    def forward(
        ctx: Any,
        coefficients: Tensor,
        prototypes: Tensor,
        masks: Tensor,
        number: Tensor,
        corners: Tensor,
        weight: Tensor,
    ) -> Tensor:
        by_object = shapes_may_depend_on_values(prototypes)
        method = entropy_by_object if by_object else entropy_by_image
        with full_precision(prototypes.device.type):
            total, *slopes = method(coefficients, prototypes, masks, number, corners, weight)
        ctx.save_for_backward(*slopes)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        by_coefficients, by_prototypes = ctx.saved_tensors
        return gradient * by_coefficients, gradient * by_prototypes, None, None, None, None


def entropy_by_object(
    coefficients: Tensor,
    prototypes: Tensor,
    masks: Tensor,
    number: Tensor,
    corners: Tensor,
    weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `mask_loss`: the boxes alone, one object after the other."""
    total = prototypes.new_zeros(())
    slopes = torch.zeros_like(coefficients), torch.zeros_like(prototypes)
    for image in range(len(prototypes)):
        chosen = weight[image].nonzero()[:, 0]
        numbers = number[image, chosen]
        order = numbers.argsort(stable=True)
        chosen, numbers = chosen[order], numbers[order]
        images, sizes = numbers.unique_consecutive(return_counts=True)
        for slots, one in zip(chosen.split(sizes.tolist()), images.tolist()):
            x1, y1, x2, y2 = corners[one].tolist()
            part = prototypes[image, :, y1:y2, x1:x2]
            wanted = masks[one, y1:y2, x1:x2].reshape(1, -1).to(part.dtype)
            factor = weight[image, slots, None] / wanted.shape[1]
            flat = part.flatten(1)
            entropy, *by = entropy_and_slopes(coefficients[image, slots], flat, wanted, factor)
            total += entropy
            slopes[0][image, slots] = by[0]
            slopes[1][image, :, y1:y2, x1:x2] += by[1].view_as(part)
    return total, *slopes


def entropy_by_image(
    coefficients: Tensor,
    prototypes: Tensor,
    masks: Tensor,
    number: Tensor,
    corners: Tensor,
    weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `mask_loss`: every pixel for every row, so that no shape depends on a value."""
    height, width = prototypes.shape[2:]
    x = torch.arange(width, device=masks.device)
    y = torch.arange(height, device=masks.device)
    total = prototypes.new_zeros(())
    slopes: tuple[list[Tensor], list[Tensor]] = [], []
    for image in range(len(prototypes)):
        x1, y1, x2, y2 = corners[number[image], :, None].unbind(dim=1)  # (B, 1)
        across, down = (x >= x1) & (x < x2), (y >= y1) & (y < y2)
        factor = weight[image, :, None] / ((x2 - x1) * (y2 - y1))
        inside = (down[:, :, None] & across[:, None]).flatten(1) * factor
        wanted = masks[number[image]].flatten(1).to(inside.dtype)
        flat = prototypes[image].flatten(1)
        entropy, *by = entropy_and_slopes(coefficients[image], flat, wanted, inside)
        total = total + entropy
        slopes[0].append(by[0])
        slopes[1].append(by[1].view(-1, height, width))
    return total, torch.stack(slopes[0]), torch.stack(slopes[1])


def mask_loss(
    coefficients: Tensor,
    prototypes: Tensor,
    masks: Tensor,
    number: Tensor,
    corners: Tensor,
    weight: Tensor,
) -> Tensor:
    """Binary cross entropy of the sigmoid of coefficients times prototypes, a mean over the pixels
    of the true box of each row, and a weighted sum over rows.

    Args:
        coefficients: (N, B, C) of rows of each image.
        prototypes: (N, C, h, w).
        masks: (M, h, w) uint8 or bool of objects, 1 inside.
        number: (N, B) int64 the object of each row.
        corners: (M, 4) int64 xyxy of their boxes in pixels of the prototypes, see `crop_corners`.
        weight: (N, B); rows of weight 0 do not count.

    Returns:
        0-dim float32; without rows 0, with gradients of 0, see `embedding.identity_loss`.
    """
    floats = coefficients.float(), prototypes.float()
    return MaskEntropy.apply(*floats, masks, number, corners, weight.float())


def at_positives(coefficients: Sequence[Tensor], targets: Assignment, rows: Tensor) -> Tensor:
    """Coefficients at rows of an assignment.

    Args:
        coefficients: (N, A, H, W, C) of each level.
        targets: the assignment, R rows.
        rows: of it, of any shape (...).

    Returns:
        (..., C).
    """
    level, image, anchor, y, x = (
        field[rows]
        for field in (targets.level, targets.image, targets.anchor, targets.row, targets.column)
    )
    sizes = [values.shape[1:4].numel() for values in coefficients]
    cells = torch.cat([values.flatten(1, 3) for values in coefficients], dim=1)
    starts = constant(tuple(sum(sizes[:i]) for i in range(len(sizes))), level)
    heights, widths = (
        constant(tuple(values.shape[axis] for values in coefficients), level) for axis in (2, 3)
    )
    place = (anchor * heights[level] + y) * widths[level] + x + starts[level]
    return cells[image, place]


# ---- From rows to masks


def coefficients_of_rows(coefficients: Sequence[Tensor], rows: Tensor) -> Tensor:
    """Coefficients of decoded rows.

    Args:
        coefficients: (A, H, W, C) of one image by level, fine to coarse.
        rows: (R,) int64 numbers of rows in the order of `ops.decode.decode`.

    Returns:
        (R, C).
    """
    return torch.cat([level.flatten(0, 2) for level in coefficients])[rows]


def box_masks(coefficients: Tensor, prototypes: Tensor, boxes: Tensor, view: ImageView) -> BoxMasks:
    """Masks of boxes, of which only what lies around each box is computed and kept.

    Args:
        coefficients: (D, C).
        prototypes: (C, h, w) of the canvas.
        boxes: (D, 4) xyxy in the wanted size.
        view: where the image lies on the canvas.
    """

    def pieces() -> list[list[MaskPiece]]:
        # One transfer of each, where they are on a GPU.
        mix, maps, corners = (x.detach().cpu().float() for x in (coefficients, prototypes, boxes))
        height, width = maps.shape[1:]
        limits = maps.new_tensor([width, height]).repeat(2)
        on_canvas = view.to_canvas(corners.view(-1, 2, 2)).flatten(1) / PROTOTYPE_STRIDE
        # A pixel more on every side, as values are interpolated.
        on_canvas[:, :2] = on_canvas[:, :2].floor() - 1
        on_canvas[:, 2:] = on_canvas[:, 2:].ceil() + 1
        crops = torch.minimum(on_canvas.clamp(min=0), limits)
        crops[:, :2] = torch.minimum(crops[:, :2], limits[:2] - 1)
        crops[:, 2:] = torch.maximum(crops[:, 2:], crops[:, :2] + 1)
        windows = view.to_image((crops * PROTOTYPE_STRIDE).view(-1, 2, 2)).flatten(1).tolist()
        corners = corners.tolist()
        by_object, mix, maps = [], mix.numpy(), maps.numpy()
        for i, (x1, y1, x2, y2) in enumerate(crops.long().tolist()):
            part = maps[:, y1:y2, x1:x2]
            logits = (mix[i] @ part.reshape(len(part), -1)).reshape(part.shape[1:])
            window, box = tuple(windows[i]), tuple(corners[i])
            by_object.append([MaskPiece(torch.from_numpy(logits), window, box)])
        return by_object

    if prototypes.device.type == "cpu":
        return BoxMasks(pieces(), view.size)  # keeps what lies around the boxes alone
    return BoxMasks(pieces, view.size, len(boxes))


class MaskBranch(TaskBranch):
    """Prototypes: 3x3 convolution of the finest feature, up-sampled to stride 4, 3x3 and 1x1
    convolution. Coefficients: 1x1 convolution on each level, implicit.

    Args:
        in_channels: width of each input feature, fine to coarse.
        strides: input pixels per cell of each level.
        num_anchors: anchors A per cell, each with coefficients of its own.
        channels: width of the 3x3 convolutions; 0: a quarter of that of the finest feature, so that
            they stay a small part of what a step costs.
        coefficients: prototypes C, and coefficients of each prediction.
        most_positives: positives of an image in the loss, see `choose_rows`.
        implicit: implicit knowledge on the coefficients, as on the outputs of `AnchorHead`: one for
            all levels, or one each with commas.
        options: what all implicit knowledge shares.
        gain: weight of the loss.
        form: norm and activation of the convolutions.

    Raises:
        ValueError: when the finest level cannot be brought to stride 4.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        strides: Sequence[int],
        num_anchors: int,
        channels: int = 0,
        coefficients: int = 32,
        most_positives: int = 256,
        implicit: str = "none",
        options: ImplicitOptions = ImplicitOptions(),
        gain: float = 0.05,
        form: BlockForm,
    ):
        super().__init__(gain)
        if strides[0] < PROTOTYPE_STRIDE or strides[0] % PROTOTYPE_STRIDE:
            raise ValueError(
                f"MODEL.YOLOR.TASKS.MASKS: the finest level of the network has stride "
                f"{strides[0]}, expected a multiple of {PROTOTYPE_STRIDE}, the stride of masks"
            )
        channels = channels or max(in_channels[0] // 4, 1)
        self.scale = strides[0] // PROTOTYPE_STRIDE
        self.num_anchors = num_anchors
        self.most_positives = most_positives
        self.reduce = ConvNormAct(in_channels[0], channels, 3, form=form)
        self.smooth = ConvNormAct(channels, channels, 3, form=form)
        self.project = ConvNormAct(channels, coefficients, 1, form=form)
        outputs = num_anchors * coefficients
        self.predict = nn.ModuleList(nn.Conv2d(c, outputs, 1) for c in in_channels)
        self.refine = nn.ModuleList(
            build_implicit(parse_implicit(words, may_widen=False), outputs, options=options)
            for words in split_levels(implicit, len(in_channels))
        )

    def chains(self) -> Iterator[list[nn.Module]]:
        """Layers that follow each other directly, see `layers.fuse`."""
        for predict, refine in zip(self.predict, self.refine):
            yield [predict, refine]

    def forward(self, features: Sequence[Tensor], windows: Tensor) -> MaskOutput:
        """See `TaskBranch`; features (N, Ci, Hi, Wi)."""
        finer = F.interpolate(self.reduce(features[0]), scale_factor=self.scale, mode="nearest")
        prototypes = self.project(self.smooth(finer))
        coefficients = []
        for x, predict, refine in zip(features, self.predict, self.refine):
            values = refine(predict(x)).unflatten(1, (self.num_anchors, -1))
            coefficients.append(values.permute(0, 1, 3, 4, 2))
        return MaskOutput(coefficients, prototypes)

    def losses(self, output: MaskOutput, truth: Truth, targets: Assignment) -> dict[str, Tensor]:
        """See `TaskBranch`: "loss_masks"; `truth` has the field "masks", (M, h, w) uint8 at stride
        4, all 0 for objects whose mask is not known."""
        coefficients, prototypes = output
        masks = truth.fields["masks"]
        known = masks.bool().flatten(1).any(dim=1)[targets.number]
        if targets.valid is not None:
            known = known & targets.valid
        chosen = choose_rows(known, targets, len(prototypes), self.most_positives)
        loss = mask_loss(
            at_positives(coefficients, targets, chosen.row),
            prototypes,
            masks,
            targets.number[chosen.row],
            crop_corners(truth.boxes, (prototypes.shape[2], prototypes.shape[3])),
            chosen.weight,
        )
        return {"loss_masks": self.gain * loss}

    def decode(self, output: MaskOutput, image: int, detections: DetectedBoxes) -> BoxMasks:
        """The masks of the detections."""
        mix = coefficients_of_rows([x[image] for x in output.coefficients], detections.rows)
        return box_masks(mix, output.prototypes[image], detections.boxes, detections.view)

    def file_outputs(self) -> list[FileOutput]:
        """See `TaskBranch`."""
        return [
            FileOutput(
                "mask_coefficients",
                True,
                "number",
                "C factors of the prototypes; a pixel of the box is inside where their sum of "
                "products, bilinear between the centres of the prototypes' pixels, exceeds 0",
            ),
            FileOutput("mask_prototypes", False, "number", "C maps of the canvas, at `stride`"),
        ]

    def export(self, output: MaskOutput) -> list[Tensor]:
        """(N, R, C) coefficients and (N, C, h, w) prototypes."""
        cells = [x.flatten(1, 3) for x in output.coefficients]
        return [torch.cat(cells, dim=1).float(), output.prototypes.float()]

    def masks_of(self, tensors: Mapping[str, Tensor], detections: DetectedBoxes) -> BoxMasks:
        """See `TaskBranch`."""
        mix, prototypes = tensors["mask_coefficients"], tensors["mask_prototypes"]
        return box_masks(mix, prototypes, detections.boxes, detections.view)
