"""Bottom-up backbone: a stem, then CSP stages, each at half the resolution of the one before."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from ..layers import BlockForm, ConvNormAct, CSPStage, Residual, SpaceToDepth

# One layer of a stem: its kind and its arguments, e.g. ("conv", 64, 3, 2).
StemLayer = tuple


def level_name(prefix: str, stride: int) -> str:
    """Name of a feature map from its stride: ("p", 8) gives "p3"."""
    return f"{prefix}{int(math.log2(stride))}"


def build_stem_layer(
    spec: StemLayer, in_channels: int, form: BlockForm
) -> tuple[nn.Module, int, int]:
    """Build one stem layer.

    Args:
        spec: ("s2d",) space to depth; ("conv", channels, kernel, stride); ("residual", hidden).
        in_channels: channels that reach the layer.
        form: norm and activation.

    Returns:
        The module, its output channels and its stride.

    Raises:
        ValueError: when the kind is unknown.
    """
    kind, *args = spec
    if kind == "s2d":
        return SpaceToDepth(), 4 * in_channels, 2
    if kind == "conv":
        channels, kernel_size, stride = args
        return ConvNormAct(in_channels, channels, kernel_size, stride, form=form), channels, stride
    if kind == "residual":
        return Residual(in_channels, *args, form=form), in_channels, 1
    raise ValueError(f"stem layer is {spec!r}, expected kind 's2d', 'conv' or 'residual'")


class YOLORBackbone(nn.Module):
    """Stem and CSP stages.

    Args:
        in_channels: channels of the image.
        stem: layers up to the resolution of the first stage.
        stages: (width, residual units) per stage; every stage but the first halves the resolution
            first.
        transition: see `layers.CSPStage`.
        form: norm and activation.
        min_stride: stages of at least this stride are the outputs.

    Attributes:
        channels: width of each output, fine to coarse.
        strides: input pixels per cell of each output, fine to coarse.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        stem: Sequence[StemLayer],
        stages: Sequence[tuple[int, int]],
        transition: bool,
        form: BlockForm,
        min_stride: int = 8,
    ):
        super().__init__()
        width, stride = in_channels, 1
        layers = []
        for spec in stem:
            layer, width, layer_stride = build_stem_layer(spec, width, form)
            layers.append(layer)
            stride *= layer_stride
        self.stem = nn.Sequential(*layers)

        self.stages = nn.ModuleList()
        self.stage_strides: list[int] = []
        self.min_stride = min_stride
        outputs: list[tuple[int, int]] = []
        for index, (stage_width, num_units) in enumerate(stages):
            down: nn.Module = nn.Identity()
            if index > 0:
                down = ConvNormAct(width, stage_width, 3, 2, form=form)
                width, stride = stage_width, 2 * stride
            block = CSPStage(width, stage_width, num_units, transition=transition, form=form)
            self.stages.append(nn.Sequential(down, block))
            self.stage_strides.append(stride)
            width = stage_width
            if stride >= min_stride:
                outputs.append((stage_width, stride))
        self.channels = [channels for channels, _ in outputs]
        self.strides = [stride for _, stride in outputs]

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) image to maps (N, Ci, H / stride_i, W / stride_i), fine to coarse."""
        x = self.stem(x)
        features = []
        for stage, stride in zip(self.stages, self.stage_strides):
            x = stage(x)
            if stride >= self.min_stride:
                features.append(x)
        return features
