"""Building blocks of the networks: torch only."""

from .conv import ACTIVATIONS, FORM_D, FORM_Y, FORMS, BlockForm, ConvNormAct, Residual
from .csp import CSPSPP, CSPNeckBlock, CSPStage
from .downsample import (
    DOWNSAMPLES,
    CSPDownsample,
    HaarTransform,
    SpaceToDepth,
    WaveletTransform,
    build_downsample,
    build_wavelet_transform,
)
from .implicit import (
    PER_ANCHOR,
    REPRESENTATIONS,
    SCOPES,
    AnchorwiseConv,
    FixedImplicit,
    Implicit,
    ImplicitOptions,
    ImplicitSpec,
    build_implicit,
    implicit_penalty,
    parse_implicit,
    register_representation,
    register_scope,
    split_levels,
    widened,
)
from .operators import OPERATORS, Affine, Operator, register_operator
from .registry import Registry
from .spp import SpatialPyramidPooling

__all__ = [
    "ACTIVATIONS",
    "CSPSPP",
    "DOWNSAMPLES",
    "FORMS",
    "FORM_D",
    "FORM_Y",
    "OPERATORS",
    "PER_ANCHOR",
    "REPRESENTATIONS",
    "SCOPES",
    "Affine",
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
    "Operator",
    "Registry",
    "Residual",
    "SpaceToDepth",
    "SpatialPyramidPooling",
    "WaveletTransform",
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
