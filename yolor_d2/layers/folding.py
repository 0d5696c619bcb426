"""Convolutions that do what the layers beside them do: the linear algebra of `layers.fuse`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .operators import Affine


def affine_of(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) of a batch norm in evaluation mode, float64."""
    assert norm.running_mean is not None and norm.running_var is not None
    mean, var = norm.running_mean.double(), norm.running_var.double()
    scale = (var + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight.double()
    shift = -mean * scale
    return scale, shift + norm.bias.double() if norm.affine else shift


def plain_conv(
    weight: Tensor,
    bias: Tensor,
    *,
    like: nn.Conv2d,
    in_channels: int | None = None,
    finer: int = 1,
) -> nn.Conv2d:
    """A convolution with these values and the geometry, type and device of another.

    Args:
        weight: of the new one.
        bias: of the new one.
        like: the other one.
        in_channels: of the new one; None takes the other's.
        finer: kernel, stride and padding are those of the other one, times this.
    """
    kernel_size, stride, padding = (
        value if isinstance(value, str) else tuple(finer * size for size in value)
        for value in (like.kernel_size, like.stride, like.padding)
    )
    conv = nn.Conv2d(
        like.in_channels if in_channels is None else in_channels,
        like.out_channels,
        kernel_size,  # type: ignore[arg-type]
        stride,  # type: ignore[arg-type]
        padding,  # type: ignore[arg-type]
        like.dilation,  # type: ignore[arg-type]
        like.groups,
        padding_mode=like.padding_mode,
        device="meta",
    )
    conv.weight = nn.Parameter(weight.to(like.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(like.weight.dtype), requires_grad=False)
    return conv.eval()


def bias_of(conv: nn.Conv2d) -> Tensor:
    """(O,) bias in float64, zeros where there is none."""
    if conv.bias is None:
        return torch.zeros(conv.out_channels, dtype=torch.float64, device=conv.weight.device)
    return conv.bias.double()


def scaled_conv(conv: nn.Conv2d, scale: Tensor | None, shift: Tensor | None) -> nn.Conv2d:
    """The convolution whose outputs are those of another, times `scale` plus `shift`, (O,) each."""
    weight, bias = conv.weight.double(), bias_of(conv)
    if scale is not None:
        weight, bias = weight * scale.view(-1, 1, 1, 1), bias * scale
    return plain_conv(weight, bias if shift is None else bias + shift, like=conv)


def obstacle(conv: nn.Conv2d, affine: Affine) -> str | None:
    """Why a convolution cannot take an affine map in front of it; None if it can."""
    if affine.before is not None and conv.groups != 1:
        return "has groups"
    if (affine.before is not None or affine.shift is not None) and pads_with_zeros(conv):
        return "pads with zeros at the border"
    return None


def pads_with_zeros(conv: nn.Conv2d) -> bool:
    if conv.padding_mode != "zeros":
        return False  # padding with values of the map itself: x + g is padded with x + g
    # "same" and "valid" are words; a kernel of one element needs no padding.
    if isinstance(conv.padding, str):
        return conv.padding == "same" and any(size > 1 for size in conv.kernel_size)
    return any(conv.padding)


def fed_conv(conv: nn.Conv2d, affine: Affine) -> nn.Conv2d:
    """The convolution that does on x what another does on [before, scale * x + shift]."""
    weight, bias = conv.weight.double(), bias_of(conv)  # (O, C / groups, k, k)
    if affine.before is not None:
        constant = weight[:, : len(affine.before)]
        weight = weight[:, len(affine.before) :]
        bias = bias + constant.sum(dim=(2, 3)) @ affine.before
    rows = torch.arange(conv.out_channels, device=weight.device)
    group = rows // (conv.out_channels // conv.groups)
    if affine.shift is not None:
        of_output = affine.shift.view(conv.groups, -1)[group]  # (O, C / groups)
        bias = bias + (weight.sum(dim=(2, 3)) * of_output).sum(dim=1)
    if affine.scale is not None:
        of_output = affine.scale.view(conv.groups, -1)[group]
        weight = weight * of_output[:, :, None, None]
    return plain_conv(weight, bias, like=conv, in_channels=weight.shape[1] * conv.groups)


def can_gather(conv: nn.Conv2d) -> bool:
    """Whether `gathering_conv` can be made of a convolution."""
    return (
        conv.groups == 1
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and (not isinstance(conv.padding, str))
    )


def gathering_conv(conv: nn.Conv2d) -> nn.Conv2d:
    """The convolution that does on an image what another does on its `SpaceToDepth`."""
    outputs, inputs, height, width = conv.weight.shape
    # The channels are the four places in a block, column by column, each with those of the image.
    places = conv.weight.view(outputs, 2, 2, inputs // 4, height, width)  # O, column, row, C, k, k
    weight = places.permute(0, 3, 4, 2, 5, 1).reshape(outputs, inputs // 4, 2 * height, 2 * width)
    return plain_conv(weight, bias_of(conv), like=conv, in_channels=inputs // 4, finer=2)
