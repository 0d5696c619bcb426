"""Building blocks of the networks: torch only."""

from .conv import FORM_D, FORM_Y, FORMS, BlockForm, ConvNormAct, Residual
from .csp import CSPSPP, CSPNeckBlock, CSPStage
from .downsample import (
    CSPDownsample,
    HaarTransform,
    SpaceToDepth,
    WaveletTransform,
    build_downsample,
    build_wavelet_transform,
)
from .implicit import (
    AnchorwiseConv,
    FixedImplicit,
    Implicit,
    ImplicitOptions,
    ImplicitSpec,
    build_implicit,
    implicit_penalty,
    parse_implicit,
    split_levels,
    widened,
)
from .spp import SpatialPyramidPooling

__all__ = [
    "CSPSPP",
    "FORMS",
    "FORM_D",
    "FORM_Y",
    "AnchorwiseConv",
    "BlockForm",
    "CSPDownsample",
    "CSPNeckBlock",
    "CSPStage",
    "ConvNormAct",
    "FixedImplicit",
    "HaarTransform",
    "Implicit",
    "ImplicitOptions",
    "ImplicitSpec",
    "Residual",
    "SpaceToDepth",
    "SpatialPyramidPooling",
    "WaveletTransform",
    "build_downsample",
    "build_implicit",
    "build_wavelet_transform",
    "implicit_penalty",
    "parse_implicit",
    "split_levels",
    "widened",
]
