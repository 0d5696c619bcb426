"""Building blocks of the networks: torch only."""

from .conv import FORM_D, FORM_Y, FORMS, BlockForm, ConvNormAct, Residual
from .csp import CSPSPP, CSPNeckBlock, CSPStage
from .downsample import SpaceToDepth
from .implicit import Implicit, ImplicitAdd, ImplicitMul, build_implicit
from .spp import SpatialPyramidPooling

__all__ = [
    "CSPSPP",
    "FORMS",
    "FORM_D",
    "FORM_Y",
    "BlockForm",
    "CSPNeckBlock",
    "CSPStage",
    "ConvNormAct",
    "Implicit",
    "ImplicitAdd",
    "ImplicitMul",
    "Residual",
    "SpaceToDepth",
    "SpatialPyramidPooling",
    "build_implicit",
]
