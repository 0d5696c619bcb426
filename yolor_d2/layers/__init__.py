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
from .implicit import Implicit, ImplicitAdd, ImplicitMul, build_implicit
from .spp import SpatialPyramidPooling

__all__ = [
    "CSPSPP",
    "FORMS",
    "FORM_D",
    "FORM_Y",
    "BlockForm",
    "CSPDownsample",
    "CSPNeckBlock",
    "CSPStage",
    "ConvNormAct",
    "HaarTransform",
    "Implicit",
    "ImplicitAdd",
    "ImplicitMul",
    "Residual",
    "SpaceToDepth",
    "SpatialPyramidPooling",
    "WaveletTransform",
    "build_downsample",
    "build_implicit",
    "build_wavelet_transform",
]
