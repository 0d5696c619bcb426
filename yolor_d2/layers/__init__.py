"""Building blocks of the networks: torch only."""

from .blocks import BLOCKS, build_block
from .conv import ACTIVATIONS, FORM_D, FORM_V7, FORM_Y, FORMS, BlockForm, ConvNormAct, Residual
from .csp import C3, CSPSPP, SPPCSPC, SPPT, CSPNeckBlock, CSPStage
from .downsample import (
    DOWNSAMPLES,
    MP,
    CSPDownsample,
    Focus,
    HaarTransform,
    SpaceToDepth,
    WaveletTransform,
    build_downsample,
    build_wavelet_transform,
)
from .elan import EELAN, ELAN
from .implicit import (
    AnchorwiseConv,
    FixedImplicit,
    Implicit,
    build_implicit,
    implicit_penalty,
    widened,
)
from .implicit_words import (
    PER_ANCHOR,
    REPRESENTATIONS,
    SCOPES,
    ImplicitOptions,
    ImplicitSpec,
    parse_implicit,
    register_representation,
    register_scope,
    split_levels,
)
from .operators import OPERATORS, Affine, Operator, register_operator
from .registry import Registry
from .repconv import RepConv
from .spp import SPP, SPPS, SpatialPyramidPooling

__all__ = [
    "ACTIVATIONS",
    "BLOCKS",
    "C3",
    "CSPSPP",
    "DOWNSAMPLES",
    "EELAN",
    "ELAN",
    "FORMS",
    "FORM_D",
    "FORM_V7",
    "FORM_Y",
    "MP",
    "OPERATORS",
    "PER_ANCHOR",
    "REPRESENTATIONS",
    "SCOPES",
    "SPP",
    "SPPCSPC",
    "SPPS",
    "SPPT",
    "Affine",
    "AnchorwiseConv",
    "BlockForm",
    "CSPDownsample",
    "CSPNeckBlock",
    "CSPStage",
    "ConvNormAct",
    "FixedImplicit",
    "Focus",
    "HaarTransform",
    "Implicit",
    "ImplicitOptions",
    "ImplicitSpec",
    "Operator",
    "Registry",
    "RepConv",
    "Residual",
    "SpaceToDepth",
    "SpatialPyramidPooling",
    "WaveletTransform",
    "build_block",
    "build_downsample",
    "build_implicit",
    "build_wavelet_transform",
    "implicit_penalty",
    "parse_implicit",
    "register_operator",
    "register_representation",
    "register_scope",
    "split_levels",
    "widened",
]
