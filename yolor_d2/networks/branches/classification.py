"""Which classes are in an image: joint detection with multi-label classification (paper section
5.4, JDC; with implicit knowledge iJDC).

The paper names the task and that its branch may have an implicit vector of its own. It does not say
how the branch looks or what its loss is: both are this project's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers import BlockForm, ConvNormAct, ImplicitOptions, build_implicit, widened
from ...ops.assign import Assignment
from ...ops.truth import Truth
from .branch import DetectedBoxes, TaskBranch


def mean_over_image(x: Tensor, windows: Tensor, stride: int) -> Tensor:
    """Average over the cells of each image, without those of the canvas around it.

    Args:
        x: (N, C, H, W) feature.
        windows: (N, 4) xyxy of each image on the canvas, in input pixels, whole numbers.
        stride: input pixels per cell.

    Returns:
        (N, C) means over the cells that an image touches, at least one each.
    """
    height, width = x.shape[2:]
    left, top, right, bottom = windows[:, :, None].unbind(dim=1)  # (N, 1)
    down = torch.arange(height, device=x.device) * stride
    across = torch.arange(width, device=x.device) * stride
    rows = (down < bottom) & (down + stride > top)  # (N, H)
    columns = (across < right) & (across + stride > left)  # (N, W)
    inside = (rows[:, None, :, None] & columns[:, None, None, :]).to(x.dtype)  # (N, 1, H, W)
    # float32, as the sum over many cells leaves the range of half precision.
    return (x * inside).sum(dim=(2, 3), dtype=torch.float32) / inside.sum(
        dim=(2, 3), dtype=torch.float32
    )


def present_classes(
    image: Tensor, labels: Tensor, num_images: int, num_classes: int, valid: Tensor | None = None
) -> Tensor:
    """Which classes the boxes of each image have.

    Args:
        image: (M,) int64 index of each box's image.
        labels: (M,) int64 classes.
        num_images: N.
        num_classes: K.
        valid: (M,) bool, which boxes count; None counts all.

    Returns:
        (N, K) float32, 1 where an image has a box of the class, else 0.
    """
    seen = torch.ones(labels.shape, device=labels.device) if valid is None else valid.float()
    counts = torch.zeros(num_images, num_classes, device=labels.device)
    return counts.index_put((image, labels), seen, accumulate=True).clamp(max=1)


def presence_loss(logits: Tensor, present: Tensor) -> Tensor:
    """Mean binary cross entropy over images and classes.

    Args:
        logits: (N, K).
        present: (N, K) in 0-1, see `present_classes`.

    Returns:
        0-dim float32.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), present)


class ClassificationBranch(TaskBranch):
    """Which classes are in an image: 3x3 convolution, implicit, average on each level, linear.

    All levels take part, since the presence of a class may rest on an object of any size.

    Args:
        in_channels: width of each input feature, fine to coarse.
        strides: input pixels per cell of each level.
        num_classes: classes K.
        channels: width of the convolution.
        implicit: implicit knowledge, see `layers.parse_implicit`; the paper adds a vector.
        options: what all implicit knowledge shares.
        gain: weight of the loss.
        form: norm and activation of the convolution.
    """

    by_data = ("linear.weight", "linear.bias")

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        strides: Sequence[int],
        num_classes: int,
        channels: int = 128,
        implicit: str = "none",
        options: ImplicitOptions = ImplicitOptions(),
        gain: float = 0.1,
        form: BlockForm,
    ):
        super().__init__(gain)
        self.strides = list(strides)
        self.convs = nn.ModuleList(ConvNormAct(c, channels, 3, form=form) for c in in_channels)
        self.implicit = nn.ModuleList(
            build_implicit(implicit, channels, options=options) for _ in in_channels
        )
        widths = [widened(module, channels) for module in self.implicit]
        self.linear = nn.Linear(sum(widths), num_classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Sequence[Tensor], windows: Tensor) -> Tensor:
        """Features (N, Ci, Hi, Wi) and windows, see `mean_over_image`, to (N, K) logits."""
        means = [
            mean_over_image(implicit(conv(x)), windows, stride)
            for x, conv, implicit, stride in zip(features, self.convs, self.implicit, self.strides)
        ]
        return self.linear(torch.cat(means, dim=1))

    def losses(self, output: Tensor, truth: Truth, targets: Assignment) -> dict[str, Tensor]:
        """See `TaskBranch`: "loss_image_classes"."""
        present = present_classes(truth.image, truth.labels, *output.shape, valid=truth.valid)
        return {"loss_image_classes": self.gain * presence_loss(output, present)}

    def decode(self, output: Tensor, image: int, detections: DetectedBoxes) -> Tensor:
        """(K,) scores of the classes in 0-1."""
        return output[image].float().sigmoid()
