"""Keypoints of objects: named points such as corners or joints, with a score each.

Branch, decoding and the loss "oks" are those of the authors' pose network (YOLOv7, branch `pose`,
after YOLO-Pose, arXiv 2204.06806): every anchor of every cell says where the points of its object
lie, from its cell on, and the loss is 1 - OKS, the similarity by which COCO evaluates keypoints.
What is ours: implicit knowledge in the branch, any number of points and of layers, whole
convolutions, points as seen from the box, the loss "huber", the map that corrects points
(`nearby_loss`, `correct_points`), and that objects of which no point is labelled take part in no
loss (theirs learn that nothing is visible).

Sigmas say how far off a point of a kind may be, as a fraction of the object's size. For 17 points
they are those that COCO has published, in the order of its "person"; for any other number 0.1 each,
a choice of this project: about that of a hip (0.107), the loosest of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ...layers import BlockForm, ConvNormAct, ImplicitOptions, build_implicit, widened
from ...ops.assign import Assignment
from ...ops.decode import cell_grid, decode_offsets
from ...ops.device import constant
from ...ops.losses import at_least_float32
from ...ops.truth import Truth
from .branch import DetectedBoxes, FileOutput, TaskBranch
from .keypoint_losses import POINT_LOSSES, keypoint_losses, nearby_loss, sigmas_of

# Fractions of a box for an output of 1, of points as seen from it. With 1 the learning rates of
# other layers make points jump about at first, which detection suffers from (docs/multi_task.md).
BOX_FRACTION = 0.25
# What narrow networks keep, of which a quarter would be few.
LEAST_CHANNELS = 32
# Values of `KeypointBranch.layout` and `origin`.
LAYOUTS = ("", "yolov7")
ORIGINS = ("box", "cell")


def correct_points(points: Tensor, near: Tensor, stride: int, times: int) -> Tensor:
    """Move points by what a map says at the place where they are, again and again.

    Written in operators that exported files may hold; between the centres of cells the map is
    bilinear.

    Args:
        points: (N, R, K, 2) in input pixels.
        near: (N, 2 K, H, W), see `nearby_loss`.
        stride: input pixels per cell.
        times: how often.
    """
    near = at_least_float32(near)
    images, _, height, width = near.shape
    kinds = points.shape[2]
    cells = near.unflatten(1, (kinds, 2)).permute(0, 1, 3, 4, 2).reshape(-1, 2)
    first = torch.arange(images, device=near.device)[:, None] * kinds
    first = (first + torch.arange(kinds, device=near.device))[:, None] * (height * width)
    for _ in range(times):
        x, y = (points / stride - 0.5).unbind(dim=3)  # (N, R, K)
        x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
        left, top = x.floor(), y.floor()
        right, low = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
        shift = torch.zeros_like(points)
        for column, across in ((left, 1 - (x - left)), (right, x - left)):
            for row, down in ((top, 1 - (y - top)), (low, y - top)):
                place = first + row.long() * width + column.long()
                values = cells.index_select(0, place.flatten()).view(points.shape)
                shift = shift + values * (across * down)[..., None]
        points = points + shift * stride
    return points


def place_points(offsets: Tensor, corner: Tensor, stride: int) -> Tensor:
    """(..., 2) points in input pixels, from outputs of the branch and the (..., 2) cell that each
    belongs to."""
    return (2 * offsets - 0.5 + corner) * stride


def keypoints_of_rows(levels: Sequence[Tensor], rows: Tensor, strides: Sequence[int]) -> Tensor:
    """Points of decoded rows.

    Args:
        levels: L (A, H, W, K, 3) of one image, see `KeypointBranch.forward`.
        rows: (R,) int64 numbers of rows in the order of `ops.decode.decode`.
        strides: L strides.

    Returns:
        (R, K, 3) x, y in input pixels, score in 0-1; at least float32.
    """
    decoded_points = at_least_float32(levels[0]).new_zeros(len(rows), *levels[0].shape[3:])
    start = 0
    for level, stride in zip(levels, strides):
        anchors, height, width = level.shape[:3]
        size = height * width
        here = (rows >= start) & (rows < start + anchors * size)
        # Every row is looked up on every level, so that no shape depends on a value.
        number = (rows - start).clamp(0, anchors * size - 1)
        anchor, cell = number // size, number % size
        values = at_least_float32(level[anchor, cell // width, cell % width])  # (R, K, 3)
        corner = cell_grid(height, width, values).view(size, 2)[cell][:, None]
        points = place_points(values[..., :2], corner, stride)
        decoded = torch.cat([points, values[..., 2:].sigmoid()], dim=2)
        decoded_points = torch.where(here[:, None, None], decoded, decoded_points)
        start += anchors * size
    return decoded_points


class KeypointBranch(TaskBranch):
    """K points for every anchor of every cell.

    On each level `layers` times a 3x3 convolution of `channels`; or so many times a depthwise 3x3
    and a 1x1 convolution, then a depthwise 3x3 one, as wide as the feature. All have norm and
    activation. Then implicit; a plain 1x1 convolution.

    Args:
        in_channels: width of each input feature, fine to coarse.
        strides: input pixels per cell of each level.
        num_anchors: anchors A per cell.
        num_keypoints: points K of an object, at least 1.
        layers: convolutions, or pairs of them; the authors have 5 pairs.
        channels: width of 3x3 convolutions that are not depthwise; 0: a quarter of that of the
            feature, so that they stay a small part of what a step costs, but at least 32.
        depthwise: whether they are such pairs, as the authors' are.
        implicit: implicit knowledge, see `layers.parse_implicit`; the authors' branch has none.
        options: what all implicit knowledge shares.
        sigmas: see `sigmas_of`.
        loss: a name of `POINT_LOSSES`; the authors have "oks".
        gain: weight of the loss of the points; the authors have 0.1.
        refinements: how often points are corrected by a map of the finest level, which says from
            every cell near a point where that point lies; 0, as the authors have it, is without
            this map. What a point looks like is learned from far fewer objects so than where it
            lies as seen from the middle of an object.
        refinement_gain: weight of the loss of that map.
        visibility_gain: weight of the loss of the scores; the authors have the gain of classes,
            0.3 * 1 / 80 * 3 / 4 for their network.
        layout: which channels belong to which anchor. "": those of its own. "yolov7": as in the
            authors' network, whose weights need that. It joins the channels of detection, of all
            anchors, and those of points, of all anchors, and cuts the whole into A parts: the first
            anchor's box lies among the channels of detection, those of the others among channels
            of points. Nothing but these weights asks for it; objectness then starts at 0.5 for all
            anchors but the first.
        origin: what the outputs are relative to. "cell": the cell and its size, as the authors'.
            "box": the middle and the sides of the anchor's box, as detection has it at this moment;
            it learns nothing from that.
        anchors: (L, A, 2) widths and heights in input pixels, for the origin "box".
        form: norm and activation of the convolutions.

    Raises:
        ValueError: when there is no point, or a value is not possible; it names the key.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        strides: Sequence[int],
        num_anchors: int,
        num_keypoints: int,
        layers: int = 5,
        channels: int = 0,
        depthwise: bool = True,
        implicit: str = "none",
        options: ImplicitOptions = ImplicitOptions(),
        sigmas: Sequence[float] = (),
        loss: str = "huber",
        gain: float = 0.1,
        refinements: int = 0,
        refinement_gain: float = 0.1,
        visibility_gain: float = 0.01,
        layout: str = "",
        origin: str = "cell",
        anchors: Tensor | None = None,
        form: BlockForm,
    ):
        super().__init__(gain)
        if num_keypoints < 1:
            raise ValueError(
                f"MODEL.YOLOR.TASKS.KEYPOINTS.NUM_KEYPOINTS is {num_keypoints}, expected at least "
                "1 (yolor-d2 train takes it from the training data)"
            )
        choices = (
            ("LAYOUT", layout, LAYOUTS),
            ("LOSS", loss, POINT_LOSSES),
            ("ORIGIN", origin, ORIGINS),
        )
        for key, value, known in choices:
            if value not in known:
                raise ValueError(
                    f"MODEL.YOLOR.TASKS.KEYPOINTS.{key} is {value!r}, expected one of {list(known)}"
                )
        if layout and origin != "cell":
            raise ValueError(
                f"MODEL.YOLOR.TASKS.KEYPOINTS.ORIGIN is {origin!r}, expected 'cell' with LAYOUT "
                f"{layout!r}"
            )
        if origin == "box" and anchors is None:
            raise ValueError("points relative to boxes need the anchors")
        self.origin = origin
        self.anchors: Tensor | None
        self.register_buffer("anchors", anchors, persistent=False)
        self.strides = list(strides)
        self.num_anchors = num_anchors
        self.num_keypoints = num_keypoints
        self.visibility_gain = visibility_gain
        self.layout = layout
        self.loss = loss
        self.sigmas = sigmas_of(num_keypoints, sigmas)
        # Which point of an object each one of the mirrored object is.
        self.flip_order = list(range(num_keypoints))
        # Classes whose objects have points; none for all.
        self.classes: list[int] = []

        def whole(width: int, hidden: int, count: int) -> list[ConvNormAct]:
            widths = [width] + count * [hidden]
            return [ConvNormAct(*pair, 3, form=form) for pair in pairwise(widths)]

        def separable(width: int) -> list[ConvNormAct]:
            def spatial() -> ConvNormAct:
                return ConvNormAct(width, width, 3, groups=width, form=form)

            pairs = [(spatial(), ConvNormAct(width, width, form=form)) for _ in range(layers)]
            return [conv for pair in pairs for conv in pair] + [spatial()]

        hidden = [channels or max(width // 4, LEAST_CHANNELS) for width in in_channels]
        if depthwise:
            convs, widths = [separable(width) for width in in_channels], list(in_channels)
        else:
            convs = [whole(*pair, layers) for pair in zip(in_channels, hidden)]
            widths = hidden if layers else list(in_channels)
        self.convs = nn.ModuleList(nn.Sequential(*x) for x in convs)
        self.implicit = nn.ModuleList(
            build_implicit(implicit, width, options=options) for width in widths
        )
        self.predict = nn.ModuleList(
            nn.Conv2d(widened(module, width), num_anchors * num_keypoints * 3, 1)
            for module, width in zip(self.implicit, widths)
        )
        self.refinements = refinements
        self.refinement_gain = refinement_gain
        self.near: nn.Sequential | None = None
        if refinements:
            self.near = nn.Sequential(
                *whole(in_channels[0], hidden[0], 2),
                nn.Conv2d(hidden[0], 2 * num_keypoints, 1),
            )
            self.by_data = ("near.2.weight", "near.2.bias")
        if not layout:  # else detection depends on the number of points too
            self.by_data += tuple(
                f"predict.{i}.{name}"
                for i in range(len(self.predict))
                for name in ("weight", "bias")
            )

    def chains(self) -> Iterator[list[nn.Module]]:
        """Layers that follow each other directly, see `layers.fuse`."""
        for implicit, predict in zip(self.implicit, self.predict):
            yield [implicit, predict]

    def forward(self, features: Sequence[Tensor], windows: Tensor) -> list[Tensor]:
        """Features (N, Ci, Hi, Wi) to (N, A, Hi, Wi, K, 3), fine to coarse, and with `refinements`
        one more map, see `nearby_loss`.

        The last axis is tx, ty, tv: the point lies at (2 t - 0.5 + cell) * stride, any distance
        away; its score is the sigmoid of tv. With the origin "box" it becomes so in `share`.
        """
        levels = [
            predict(implicit(convs(x)))
            for x, convs, implicit, predict in zip(
                features, self.convs, self.implicit, self.predict
            )
        ]
        shape = self.num_anchors, self.num_keypoints, 3
        output = [x.unflatten(1, shape).permute(0, 1, 4, 5, 2, 3) for x in levels]
        return output if self.near is None else [*output, self.near(features[0])]

    def split(self, output: list[Tensor]) -> tuple[list[Tensor], Tensor | None]:
        """The levels of an output, and the map that corrects points."""
        return (output, None) if self.near is None else (output[:-1], output[-1])

    def share(
        self, levels: list[Tensor], output: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """See `TaskBranch` and `layout`; auxiliary heads keep their own channels."""
        if self.origin == "box":
            assert self.anchors is not None
            own, _ = self.split(output)
            placed = zip(levels, own, self.anchors, self.strides)
            return levels, [self.from_boxes(*x) for x in placed] + output[len(own) :]
        if not self.layout:
            return levels, output
        own, _ = self.split(output)
        mixed = [self.mix(*pair) for pair in zip(levels, own)]
        count = len(own)
        return (
            [x for x, _ in mixed] + levels[count:],
            [x for _, x in mixed] + output[count:],
        )

    def from_boxes(self, logits: Tensor, points: Tensor, anchors: Tensor, stride: int) -> Tensor:
        """Points (N, A, H, W, K, 3) as seen from the boxes of logits (N, A, H, W, 5 + classes) to
        points as seen from cells."""
        sizes = (anchors / stride).view(-1, 1, 1, 2)
        centres, sizes = decode_offsets(at_least_float32(logits[..., :4].detach()), sizes)
        offsets = at_least_float32(points[..., :2]) * (BOX_FRACTION * sizes)[..., None, :]
        offsets = offsets + centres[..., None, :]
        return torch.cat([(offsets + 0.5) / 2, at_least_float32(points[..., 2:])], dim=-1)

    def mix(self, logits: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """(N, A, H, W, 5 + classes) logits and (N, A, H, W, K, 3) points, cut anew."""
        outputs = logits.shape[-1]
        detection = logits.permute(0, 1, 4, 2, 3).flatten(1, 2)  # (N, A * outputs, H, W)
        others = points.permute(0, 1, 4, 5, 2, 3).flatten(1, 3)  # (N, A * 3 K, H, W)
        by_anchor = torch.cat([detection, others], dim=1).unflatten(1, (self.num_anchors, -1))
        by_anchor = by_anchor.permute(0, 1, 3, 4, 2)  # (N, A, H, W, outputs + 3 K)
        return (
            by_anchor[..., :outputs],
            by_anchor[..., outputs:].unflatten(-1, (self.num_keypoints, 3)),
        )

    def losses(self, output: list[Tensor], truth: Truth, targets: Assignment) -> dict[str, Tensor]:
        """See `TaskBranch`: "loss_keypoints", "loss_visibility" and, of the map that corrects
        points, "loss_refinement"; `truth` has the field "keypoints", see `keypoint_losses`."""
        levels, near = self.split(output)
        points, visibility = keypoint_losses(
            levels, targets, truth.fields["keypoints"], self.strides, self.sigmas, self.loss
        )
        losses = {
            "loss_keypoints": self.gain * points,
            "loss_visibility": self.visibility_gain * visibility,
        }
        if near is not None:
            nearby = nearby_loss(near, truth, self.strides[0], self.sigmas)
            losses["loss_refinement"] = self.refinement_gain * nearby
        return losses

    def decode(self, output: list[Tensor], image: int, detections: DetectedBoxes) -> Tensor:
        """(D, K, 3) x, y in the wanted size, not cut at the border of the image; score in 0-1, and
        0 for objects of classes that have no points."""
        levels, near = self.split(output)
        decoded = keypoints_of_rows([x[image] for x in levels], detections.rows, self.strides)
        if near is not None:
            points = self.correct(decoded[None, ..., :2], near[image : image + 1])
            decoded = torch.cat([points[0], decoded[..., 2:]], dim=2)
        if self.classes and detections.labels is not None:
            known = constant(tuple(self.classes), detections.labels)
            has_points = (detections.labels[:, None] == known).any(dim=1)
            decoded[..., 2] *= has_points[:, None]
        return torch.cat([detections.view.to_image(decoded[..., :2]), decoded[..., 2:]], dim=2)

    def correct(self, points: Tensor, near: Tensor) -> Tensor:
        """See `correct_points`."""
        return correct_points(points, near, self.strides[0], self.refinements)

    def file_outputs(self) -> list[FileOutput]:
        """See `TaskBranch`."""
        return [
            FileOutput("keypoints", True, "pixels", "x, y of every point, not cut at the border"),
            FileOutput("keypoint_scores", True, "score", "of every point, in 0-1"),
        ]

    def export(self, output: list[Tensor]) -> list[Tensor]:
        """(N, R, K, 2) points in pixels of the canvas, and (N, R, K) scores."""
        levels, near = self.split(output)
        points, scores = [], []
        for level, stride in zip(levels, self.strides):
            level = at_least_float32(level)  # (N, A, H, W, K, 3)
            height, width = level.shape[2:4]
            corner = cell_grid(height, width, level)[:, :, None]
            points.append(place_points(level[..., :2], corner, stride).flatten(1, 3))
            scores.append(level[..., 2].sigmoid().flatten(1, 3))
        placed = torch.cat(points, dim=1)
        if near is not None:
            placed = self.correct(placed, near)
        return [placed, torch.cat(scores, dim=1)]
