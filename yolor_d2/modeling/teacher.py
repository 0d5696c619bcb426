"""A model that learns from another network beside the ground truth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..d2.utils import comm
from ..layers import implicit_penalty
from ..ops import DistillationGains, distillation_losses
from ..ops.distillation import common_levels
from .batch import StagedBatch
from .images import PAD_VALUE
from .meta_arch import YOLOR


def extend_canvas(pixels: Tensor, stride: int, grey: Tensor) -> Tensor:
    """Pixels whose sides are multiples of a stride, grey on the right and below where they were
    not: cells stay where they are.

    Args:
        pixels: (N, C, H, W) normalised.
        stride: greatest of the network that takes them.
        grey: (C, 1, 1) normalised.
    """
    height, width = pixels.shape[2:]
    below, right = -height % stride, -width % stride
    if below == right == 0:
        return pixels
    extended = F.pad(pixels, (0, right, 0, below))
    extended[:, :, height:] = grey
    extended[:, :, :, width:] = grey
    return extended


class TaughtModel(nn.Module):
    """A student and its teacher, on the same batches: what is trained in the student's place.

    The student knows nothing of it: its weights, its average and its files are those of the student
    alone. What trains a `YOLOR` trains this one too.

    Args:
        student: the model that is wanted.
        teacher: has the student's classes, and one of its strides at least.
        gains: how much the teacher counts.
        joint: train the teacher by its own detection loss, on the same batches; otherwise it stays
            unchanged, in evaluation mode.

    Raises:
        ValueError: when the two have no stride in common.
    """

    def __init__(
        self,
        student: YOLOR,
        teacher: YOLOR,
        gains: DistillationGains = DistillationGains(),
        *,
        joint: bool,
    ):
        super().__init__()
        if not common_levels(student.strides, teacher.strides):
            raise ValueError(
                f"MODEL.YOLOR.TEACHER.CONFIG names a network with strides {teacher.strides}, the "
                f"model has {student.strides}: no level is common"
            )
        self.student = student
        self.teacher = teacher
        self.gains = gains
        self.joint = joint
        if not joint:
            teacher.requires_grad_(False)
        self.train(student.training)

    def train(self, mode: bool = True) -> TaughtModel:
        super().train(mode)
        if not self.joint:
            self.teacher.eval()
        return self

    # What a training loop asks a `YOLOR` for.

    @property
    def follows_recipe(self) -> bool:
        return self.student.follows_recipe

    @follows_recipe.setter
    def follows_recipe(self, value: bool) -> None:
        self.student.follows_recipe = value

    @property
    def positives(self) -> Tensor | None:
        return self.student.positives

    def name_positives(self, counts: Sequence[float]) -> dict[str, float]:
        return self.student.name_positives(counts)

    def stage(self, batched_inputs: list[dict]) -> StagedBatch:
        return self.student.stage(batched_inputs)

    def trained(self) -> list[YOLOR]:
        """The models whose weights change."""
        return [self.student, self.teacher] if self.joint else [self.student]

    def forward(self, batched_inputs: list[dict] | StagedBatch) -> dict[str, Tensor] | list[dict]:
        """`YOLOR.forward` of the student; in training its losses, then `loss_distill_*` and, of a
        teacher that is trained along, `loss_teacher_*`."""
        student = self.student
        if not self.training:
            return student(batched_inputs)
        if not student.training:
            raise RuntimeError("something has left the student in evaluation mode")
        batch = student.begin(batched_inputs)
        pixels = student.preprocess(batch).tensor
        levels, outputs = student.run(pixels, batch.geometry.window)
        losses = student.forward_training(levels, batch, outputs)
        teacher_levels = self.run_teacher(pixels)
        num_images = len(batch.inputs) * comm.get_world_size()  # as the student's are summed
        terms = self.compute_distillation(levels, teacher_levels)
        for name, term in zip(terms._fields, terms):
            losses[f"loss_distill_{name}"] = term * num_images
        if self.joint:
            losses |= self.losses_of_teacher(teacher_levels, batch, num_images)
        return losses

    def run_teacher(self, pixels: Tensor) -> list[Tensor]:
        """The teacher's logits, of auxiliary heads too where it is trained."""
        student, teacher = self.student, self.teacher
        grey = (PAD_VALUE - student.pixel_mean) / student.pixel_std
        with torch.set_grad_enabled(self.joint and torch.is_grad_enabled()):
            pixels = extend_canvas(pixels, teacher.stride, grey)
            return teacher.run_network(pixels)[1]

    def compute_distillation(self, levels: list[Tensor], teacher_levels: list[Tensor]):
        """`ops.distillation_losses` of the lead heads."""
        student, teacher = self.student, self.teacher
        return distillation_losses(
            levels[: len(student.strides)],
            teacher_levels[: len(teacher.strides)],
            student.anchors,
            teacher.anchors,
            student.strides,
            teacher.strides,
            student.gains,
            self.gains,
        )

    def losses_of_teacher(
        self, levels: list[Tensor], batch: StagedBatch, num_images: int
    ) -> dict[str, Tensor]:
        """The teacher's own detection loss, as `YOLOR.forward_training` weighs it."""
        assert batch.truth is not None
        losses, _ = self.teacher.compute_losses(levels, batch.truth)
        named = {name: loss * num_images for name, loss in losses.items()}
        penalty = implicit_penalty(self.teacher)
        if penalty is not None:
            named["loss_implicit"] = penalty
        return {name.replace("loss_", "loss_teacher_", 1): loss for name, loss in named.items()}
