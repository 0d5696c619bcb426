"""Bottom-up backbone: a stem, then stages, each at half the resolution of the one before."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ..layers import (
    BLOCKS,
    BlockForm,
    ConvNormAct,
    CSPDownsample,
    Focus,
    SpaceToDepth,
    build_block,
    build_downsample,
    build_wavelet_transform,
)
from ..layers.blocks import Block
from ..layers.registry import OWN_PART, Registry, origin

# One layer of a stem: its kind and its arguments, e.g. ("conv", 64, 3, 2); see `build_stem_layer`.
StemLayer = Sequence[str | int]
# The blocks that stages are made of; the neck has the same (`layers.blocks`).
STAGES = BLOCKS
STAGES_KEY = "stage (MODEL.YOLOR.STAGES)"

# Values of MODEL.YOLOR.DOWNSAMPLE_WIDTH: whether what halves the resolution already gives the width
# of what follows it, or keeps that of what it follows.
NEXT, SAME = "next", "same"


def level_name(prefix: str, stride: int) -> str:
    """Name of a feature map from its stride: ("p", 8) gives "p3"."""
    return f"{prefix}{int(math.log2(stride))}"


# Builds a stem layer, see `StemKind`.
StemBuilder = Callable[..., tuple[nn.Module, int, int]]


class StemKind(NamedTuple):
    """What a kind of stem layer is.

    Attributes:
        build: called with the channels that reach the layer, the arguments of the configuration,
            and the form by keyword; gives the module, its output channels and its stride. It raises
            a ValueError or TypeError for arguments that do not fit.
        usage: how the configuration writes it, for messages.
        has_width: whether the first argument is a width, which MODEL.YOLOR.WIDTH_FACTOR scales.
    """

    build: StemBuilder
    usage: str
    has_width: bool = False


STEM_LAYERS: Registry[StemKind] = Registry("stem layer", "MODEL.YOLOR.STEM")


def register_stem_layer(
    name: str, usage: str, *, has_width: bool = False
) -> Callable[[StemBuilder], StemBuilder]:
    """Decorator for a function that builds a kind of stem layer, see `StemKind`."""

    def keep(build: StemBuilder) -> StemBuilder:
        if name in STEM_LAYERS and origin(STEM_LAYERS[name].build) == origin(build):
            del STEM_LAYERS[name]  # a cell of a notebook that is run again
        elif name in STEM_LAYERS:
            raise ValueError(f"{name!r} is already the name of a stem layer")
        STEM_LAYERS.add(name, StemKind(build, usage, has_width))
        return build

    return keep


@register_stem_layer("s2d", "['s2d']")
def space_to_depth(in_channels: int, *, form: BlockForm) -> tuple[nn.Module, int, int]:
    return SpaceToDepth(), 4 * in_channels, 2


@register_stem_layer("dwt", "['dwt'] or ['dwt', wavelet]")
def wavelet_transform(
    in_channels: int, wavelet: str = "haar", *, form: BlockForm
) -> tuple[nn.Module, int, int]:
    if not isinstance(wavelet, str):
        raise TypeError(f"the wavelet is {wavelet!r}, expected a name")
    return build_wavelet_transform(in_channels, wavelet), 4 * in_channels, 2


@register_stem_layer("conv", "['conv', channels, odd kernel, stride 1 or 2]", has_width=True)
def stem_conv(
    in_channels: int, channels: int, kernel_size: int, stride: int, *, form: BlockForm
) -> tuple[nn.Module, int, int]:
    sizes = (channels, kernel_size, stride)
    if not all(isinstance(x, int) for x in sizes) or kernel_size % 2 == 0 or stride not in (1, 2):
        raise ValueError("the kernel must be odd, and the stride 1 or 2")
    return ConvNormAct(in_channels, channels, kernel_size, stride, form=form), channels, stride


def require_width(channels: int) -> None:
    if not isinstance(channels, int):
        raise TypeError(f"the width is {channels!r}, expected a whole number")


@register_stem_layer("csp", "['csp', channels]", has_width=True)
def stem_csp(in_channels: int, channels: int, *, form: BlockForm) -> tuple[nn.Module, int, int]:
    require_width(channels)
    return CSPDownsample(in_channels, channels, form=form), channels, 2


@register_stem_layer("focus", "['focus', channels]", has_width=True)
def stem_focus(in_channels: int, channels: int, *, form: BlockForm) -> tuple[nn.Module, int, int]:
    require_width(channels)
    return Focus(in_channels, channels, form=form), channels, 2


def build_stem_layer(
    spec: StemLayer, in_channels: int, form: BlockForm
) -> tuple[nn.Module, int, int]:
    """Build one stem layer.

    Args:
        spec: ("s2d",) space to depth; ("dwt",) or ("dwt", name) wavelet transform, Haar unless
            named; ("conv", channels, kernel, stride); ("csp", channels) CSP convolution at
            stride 2; ("focus", channels) space to depth and a 3x3 convolution; or another name of
            `STEM_LAYERS` and its arguments.
        in_channels: channels that reach the layer.
        form: norm and activation.

    Returns:
        The module, its output channels and its stride.

    Raises:
        ValueError: when the kind is unknown or its arguments do not fit.
    """
    kind, *args = spec
    expected = ", ".join(known.usage for known in STEM_LAYERS.values())
    message = f"stem layer (MODEL.YOLOR.STEM) is {list(spec)}, expected {expected}; {OWN_PART}"
    if kind not in STEM_LAYERS:
        raise ValueError(message)
    try:
        return STEM_LAYERS[str(kind)].build(in_channels, *args, form=form)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{message} ({error})") from error


def build_stage(
    spec: Block, in_channels: int, *, transition: bool, form: BlockForm
) -> tuple[nn.Module, int]:
    """Build the block of one stage, see `layers.build_block`."""
    return build_block(spec, in_channels, transition=transition, form=form, key=STAGES_KEY)


def check_word(word: str, expected: Sequence[str], key: str) -> str:
    """A word of the configuration, if it is one of those expected.

    Raises:
        ValueError: when it is another one.
    """
    if word not in expected:
        raise ValueError(f"MODEL.YOLOR.{key} is {word!r}, expected one of {list(expected)}")
    return word


class YOLORBackbone(nn.Module):
    """Stem and stages.

    Args:
        in_channels: channels of the image.
        stem: layers up to the resolution of the first stage, see `build_stem_layer`.
        stages: see `build_stage`; every stage but the first halves the resolution first.
        transition: see `layers.CSPStage`.
        downsample: how stages halve the resolution, see `layers.build_downsample`.
        downsample_width: whether that gives the width of the stage ("next") or keeps that of the
            stage before ("same").
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
        stages: Sequence[Block],
        transition: bool,
        form: BlockForm,
        downsample: str = "conv",
        downsample_width: str = NEXT,
        min_stride: int = 8,
    ):
        super().__init__()
        check_word(downsample_width, (NEXT, SAME), "DOWNSAMPLE_WIDTH")
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
                wider = int(stage_spec[0]) if downsample_width == NEXT else width
                down = build_downsample(downsample, width, wider, form=form)
                width, stride = wider, 2 * stride
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
