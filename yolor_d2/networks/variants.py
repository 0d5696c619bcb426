"""The table of published networks: every model is a row of data, none has code of its own.

Widths, depths and anchors follow the paper's appendix (figure A2) and the authors' released
configurations; parameter counts with 80 classes are checked against the paper in tests/networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..layers import FORM_D, FORM_Y, BlockForm
from .backbone import StemLayer


@dataclass(frozen=True)
class Variant:
    """One network.

    Attributes:
        form: where norms sit in CSP blocks and their epsilon, see `layers.BlockForm`.
        stem: layers before the first stage, see `networks.backbone.build_stem_layer`.
        stages: (width, residual units) of each backbone stage; each but the first halves the
            resolution.
        transition: whether the processed branch of a backbone CSP block ends with a 1x1
            convolution.
        neck_widths: neck width of each level, fine to coarse.
        neck_units: convolution pairs in each CSP block of the neck.
        anchors: (width, height) in input pixels, per level, fine to coarse.
        feature_alignment: implicit operator on the neck's outputs.
        prediction_refinement: implicit operator on the head's outputs.
    """

    form: BlockForm
    stem: Sequence[StemLayer]
    stages: Sequence[tuple[int, int]]
    transition: bool
    neck_widths: Sequence[int]
    neck_units: int
    anchors: Sequence[Sequence[tuple[int, int]]]
    feature_alignment: str = "add"
    prediction_refinement: str = "mul"


# Anchors for COCO at 640 px (three levels) and 1280 px (four levels), from the authors'
# configurations.
ANCHORS_640 = (
    ((12, 16), (19, 36), (40, 28)),
    ((36, 75), (76, 55), (72, 146)),
    ((142, 110), (192, 243), (459, 401)),
)
ANCHORS_1280 = (
    ((19, 27), (44, 40), (38, 94)),
    ((96, 68), (86, 152), (180, 137)),
    ((140, 301), (303, 264), (238, 542)),
    ((436, 615), (739, 380), (925, 792)),
)

YOLOR_P6 = Variant(
    form=FORM_D,
    stem=(("s2d",), ("conv", 64, 3, 1), ("conv", 128, 3, 2)),
    stages=((128, 3), (256, 7), (384, 7), (512, 3), (640, 3)),
    transition=False,
    neck_widths=(128, 192, 256, 320),
    neck_units=3,
    anchors=ANCHORS_1280,
)

# YOLOv4-CSP at half the width and a third of the depth behind three space-to-depth steps.
YOLOR_SSSS_S2D = Variant(
    form=FORM_Y,
    stem=(("s2d",), ("s2d",), ("s2d",)),
    stages=((128, 3), (256, 3), (512, 1)),
    transition=True,
    neck_widths=(64, 128, 256),
    neck_units=1,
    anchors=ANCHORS_640,
)

VARIANTS: dict[str, Variant] = {
    "yolor_p6": YOLOR_P6,
    "yolor_p6_paper": replace(YOLOR_P6, form=FORM_Y),
    "yolor_ssss_s2d": YOLOR_SSSS_S2D,
}


def get_variant(name: str) -> Variant:
    """Look a network up by name.

    Raises:
        ValueError: when there is no such network; the message lists those that exist.
    """
    if name not in VARIANTS:
        raise ValueError(f"unknown network {name!r}, expected one of {sorted(VARIANTS)}")
    return VARIANTS[name]
