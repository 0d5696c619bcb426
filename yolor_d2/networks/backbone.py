"""Bottom-up backbone: a stem, then CSP stages, each at half the resolution of the one before."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from ..layers import (
    BlockForm,
    ConvNormAct,
    CSPDownsample,
    CSPStage,
    Residual,
    SpaceToDepth,
    build_downsample,
    build_wavelet_transform,
)

# One layer of a stem: its kind and its arguments, e.g. ("conv", 64, 3, 2); see `build_stem_layer`.
StemLayer = Sequence[str | int]
# One stage: (width, units), or (width, units, kind); see `build_stage`.
Stage = Sequence[int | str]


def level_name(prefix: str, stride: int) -> str:
    """Name of a feature map from its stride: ("p", 8) gives "p3"."""
    return f"{prefix}{int(math.log2(stride))}"


def build_stem_layer(
    spec: StemLayer, in_channels: int, form: BlockForm
) -> tuple[nn.Module, int, int]:
    """Build one stem layer.

    Args:
        spec: ("s2d",) space to depth; ("dwt",) or ("dwt", name) wavelet transform, Haar unless
            named; ("conv", channels, kernel, stride); ("csp", channels) CSP convolution at
            stride 2.
        in_channels: channels that reach the layer.
        form: norm and activation.

    Returns:
        The module, its output channels and its stride.

    Raises:
        ValueError: when the kind is unknown or its arguments do not fit.
    """
    kind, *args = spec
    match kind, args:
        case "s2d", []:
            return SpaceToDepth(), 4 * in_channels, 2
        case "dwt", []:
            return build_wavelet_transform(in_channels), 4 * in_channels, 2
        case "dwt", [str(wavelet)]:
            return build_wavelet_transform(in_channels, wavelet), 4 * in_channels, 2
        case "conv", [int(channels), int(kernel_size), 1 | 2 as stride] if kernel_size % 2:
            conv = ConvNormAct(in_channels, channels, kernel_size, stride, form=form)
            return conv, channels, stride
        case "csp", [int(channels)]:
            return CSPDownsample(in_channels, channels, form=form), channels, 2
    raise ValueError(
        f"stem layer (MODEL.YOLOR.STEM) is {list(spec)}, expected ['s2d'], ['dwt'], "
        "['dwt', wavelet], ['conv', channels, odd kernel, stride 1 or 2] or ['csp', channels]"
    )


def build_stage(
    spec: Stage, in_channels: int, *, transition: bool, form: BlockForm
) -> tuple[nn.Module, int]:
    """Build the block of one stage, which keeps the resolution.

    Args:
        spec: (width, units) for a CSP block; (width, units, "residual") for that many residual
            units, half as wide inside, on the input itself (stage B1 of YOLOv4-CSP).
        in_channels: channels that reach the block.
        transition: see `layers.CSPStage`.
        form: norm and activation.

    Returns:
        The module and its width.

    Raises:
        ValueError: when the kind is unknown or its arguments do not fit.
    """
    match list(spec):
        case [int(width), int(units)]:
            return CSPStage(in_channels, width, units, transition=transition, form=form), width
        case [int(width), int(units), "residual"] if width == in_channels:
            return nn.Sequential(
                *(Residual(width, width // 2, form=form) for _ in range(units))
            ), width
    raise ValueError(
        f"stage (MODEL.YOLOR.STAGES) is {list(spec)}, expected [width, units] or "
        f"[{in_channels}, units, 'residual'], as {in_channels} channels reach it"
    )


class YOLORBackbone(nn.Module):
    """Stem and stages.

    Args:
        in_channels: channels of the image.
        stem: layers up to the resolution of the first stage, see `build_stem_layer`.
        stages: see `build_stage`; every stage but the first halves the resolution first.
        transition: see `layers.CSPStage`.
        downsample: how stages halve the resolution, see `layers.build_downsample`.
        form: norm and activation.
        min_stride: stages of at least this stride are the outputs.

    Attributes:
        channels: width of each output, fine to coarse.
        strides: input pixels per cell of each output, fine to coarse.

    Raises:
        ValueError: when a layer is not known, or when no stage reaches `min_stride`.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        stem: Sequence[StemLayer],
        stages: Sequence[Stage],
        transition: bool,
        form: BlockForm,
        downsample: str = "conv",
        min_stride: int = 8,
    ):
        super().__init__()
        width, stride = in_channels, 1
        layers = []
        for layer_spec in stem:
            layer, width, layer_stride = build_stem_layer(layer_spec, width, form)
            layers.append(layer)
            stride *= layer_stride
        self.stem = nn.Sequential(*layers)

        self.stages = nn.ModuleList()
        self.stage_strides: list[int] = []
        self.min_stride = min_stride
        outputs: list[tuple[int, int]] = []
        for index, stage_spec in enumerate(stages):
            down: nn.Module = nn.Identity()
            if index > 0:
                stage_width = int(stage_spec[0])
                down = build_downsample(downsample, width, stage_width, form=form)
                width, stride = stage_width, 2 * stride
            block, width = build_stage(stage_spec, width, transition=transition, form=form)
            self.stages.append(nn.Sequential(down, block))
            self.stage_strides.append(stride)
            if stride >= min_stride:
                outputs.append((width, stride))
        if not outputs:
            raise ValueError(
                f"no stage has a stride of at least {min_stride} (MODEL.YOLOR.MIN_STRIDE): the "
                f"stages (MODEL.YOLOR.STAGES) have {self.stage_strides}"
            )
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
