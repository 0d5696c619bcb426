"""Convolution, batch normalisation and activation as one block, and the published block forms.

The authors published every YOLOR network in two forms that differ in where batch normalisation sits
inside a CSP block and in its epsilon; YOLOv7 and YOLOv5 have a third. `BlockForm` carries that
choice (and the activation) through all blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .registry import Registry


class SiLU(nn.SiLU):
    """In place at inference. In training that would cost a copy: the gradient needs the input."""

    def forward(self, input: Tensor) -> Tensor:
        return F.silu(input, inplace=not torch.is_grad_enabled())


class Mish(nn.Mish):
    """See `SiLU`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.mish(input, inplace=not torch.is_grad_enabled())


class LeakyReLU(nn.LeakyReLU):
    """Slope 0.1, as in YOLOv7-tiny; see `SiLU`."""

    def __init__(self):
        super().__init__(0.1)

    def forward(self, input: Tensor) -> Tensor:
        return F.leaky_relu(input, self.negative_slope, inplace=not torch.is_grad_enabled())


# What makes an activation without arguments.
ACTIVATIONS: Registry[Callable[[], nn.Module]] = Registry("activation", "MODEL.YOLOR.ACTIVATION")
ACTIVATIONS.add("silu", SiLU)
ACTIVATIONS.add("mish", Mish)
ACTIVATIONS.add("leaky_relu", LeakyReLU)


@dataclass(frozen=True)
class BlockForm:
    """How the blocks of one network normalise and activate.

    Attributes:
        merge_norm: True normalises and activates the concatenation inside a CSP block and leaves
            the split convolution bare; False gives the split convolution its own norm and
            activation instead.
        norm_eps: epsilon of every batch norm.
        norm_momentum: weight of the newest batch in the running statistics (PyTorch's convention).
        activation: key of `ACTIVATIONS`.
    """

    merge_norm: bool
    norm_eps: float
    norm_momentum: float = 0.03
    activation: str = "silu"

    def norm(self, channels: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(channels, eps=self.norm_eps, momentum=self.norm_momentum)

    def act(self) -> nn.Module:
        return ACTIVATIONS.lookup(self.activation)()


# The darknet form: its parameter counts are those of the paper's YOLOR-P6 and W6.
FORM_D = BlockForm(merge_norm=False, norm_eps=1e-4)
# The yaml form: its parameter counts are those of the paper's E6, D6 and of the small SSS / SSSS
# models.
FORM_Y = BlockForm(merge_norm=True, norm_eps=1e-3)
# YOLOv7 and YOLOv5 release 5: the norms of form D, the epsilon of form Y.
FORM_V7 = BlockForm(merge_norm=False, norm_eps=1e-3)
FORMS = {"D": FORM_D, "Y": FORM_Y, "V7": FORM_V7}


class ConvNormAct(nn.Module):
    """Convolution without bias and with "same" padding, batch norm, activation.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd, so that the padding keeps (H, W) at stride 1.
        stride: 1 or 2.
        groups: of channels; as many as channels for a depthwise convolution.
        form: norm and activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        form: BlockForm,
    ):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=False,
        )
        self.norm = form.norm(out_channels)
        self.act = form.act()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Residual(nn.Module):
    """x + conv3x3(conv1x1(x)).

    Args:
        channels: channels of input and output.
        hidden: channels between the two convolutions; equal to `channels` inside CSP blocks.
        shortcut: add x; otherwise the two convolutions alone, as in the neck of YOLOv5.
        form: norm and activation.
    """

    def __init__(
        self,
        channels: int,
        hidden: int | None = None,
        *,
        shortcut: bool = True,
        form: BlockForm,
    ):
        super().__init__()
        hidden = channels if hidden is None else hidden
        self.reduce = ConvNormAct(channels, hidden, 1, form=form)
        self.expand = ConvNormAct(hidden, channels, 3, form=form)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        processed = self.expand(self.reduce(x))
        return x + processed if self.shortcut else processed
