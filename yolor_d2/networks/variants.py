"""The table of published networks: every model is a row of data, none has code of its own.

Stems, topologies, widths and depths follow the paper's appendix (figures A2 and A3) and the
authors' released configurations, anchors the latter. Parameter counts with 80 classes are checked
against the paper in tests/networks; docs/models.md lists them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..layers import FORM_D, FORM_Y, BlockForm, ImplicitOptions
from .backbone import STEM_LAYERS, Stage, StemLayer

Anchors = Sequence[Sequence[Sequence[float]]]


@dataclass(frozen=True)
class Variant:
    """One network.

    Attributes:
        form: where norms sit in CSP blocks and their epsilon, see `layers.BlockForm`.
        stem: layers before the first stage, see `networks.backbone.build_stem_layer`.
        stages: backbone stages, see `networks.backbone.build_stage`; each but the first halves the
            resolution.
        transition: whether the processed branch of a backbone CSP block ends with a 1x1
            convolution.
        neck_widths: neck width of each level, fine to coarse.
        neck_units: convolution pairs in each CSP block of the neck.
        anchors: (width, height) in input pixels, per level, fine to coarse.
        downsample: between stages and on the way up the neck, see `layers.build_downsample`.
        spp_extra_pairs: see `layers.CSPSPP`.
        min_stride: stages of at least this stride feed the neck.
        feature_alignment: implicit knowledge on the neck's outputs, see `layers.parse_implicit`.
        prediction_refinement: implicit knowledge on the head's outputs.
        top_down: implicit knowledge on the maps of the neck's way down.
        bottom_up: implicit knowledge on the maps of the neck's way up.
        implicit_options: what all implicit knowledge shares.
    """

    form: BlockForm
    stem: Sequence[StemLayer]
    stages: Sequence[Stage]
    transition: bool
    neck_widths: Sequence[int]
    neck_units: int
    anchors: Anchors
    downsample: str = "conv"
    spp_extra_pairs: int = 0
    min_stride: int = 8
    feature_alignment: str = "add"
    prediction_refinement: str = "mul"
    top_down: str = "none"
    bottom_up: str = "none"
    implicit_options: ImplicitOptions = field(default_factory=ImplicitOptions)


def scale_width(channels: int, factor: float) -> int:
    """Channels times a factor, rounded up to a multiple of 8."""
    return channels if factor == 1 else math.ceil(channels * factor / 8) * 8


def scale(variant: Variant, width: float = 1.0, depth: float = 1.0) -> Variant:
    """A variant with all widths and repetitions multiplied by these factors.

    Widths are rounded up to multiples of 8, repetitions to the nearest whole number, at least 1.
    """
    if (width, depth) == (1, 1):
        return variant

    def deeper(units: int) -> int:
        return max(round(units * depth), 1)

    def wider(layer: StemLayer) -> StemLayer:
        if layer[0] in STEM_LAYERS and not STEM_LAYERS[str(layer[0])].has_width:
            return layer
        kind, channels, *rest = layer
        return (kind, scale_width(int(channels), width), *rest)

    return replace(
        variant,
        stem=tuple(wider(layer) for layer in variant.stem),
        stages=tuple(
            (scale_width(int(channels), width), deeper(int(units)), *kind)
            for channels, units, *kind in variant.stages
        ),
        neck_widths=tuple(scale_width(channels, width) for channels in variant.neck_widths),
        neck_units=deeper(variant.neck_units),
    )


def without_implicit(variant: Variant) -> Variant:
    """The variant without its implicit knowledge."""
    return replace(variant, feature_alignment="none", prediction_refinement="none")


# ---- Anchors for COCO, from the authors' configurations

# Three levels at 640 px.
ANCHORS_640 = (
    ((12, 16), (19, 36), (40, 28)),
    ((36, 75), (76, 55), (72, 146)),
    ((142, 110), (192, 243), (459, 401)),
)
# Four levels at 1280 px.
ANCHORS_1280 = (
    ((19, 27), (44, 40), (38, 94)),
    ((96, 68), (86, 152), (180, 137)),
    ((140, 301), (303, 264), (238, 542)),
    ((436, 615), (739, 380), (925, 792)),
)

# ---- Stems, named as in the paper's figure A2

STEM_A = (("conv", 32, 3, 1), ("conv", 64, 3, 2))
STEM_B = (("s2d",), ("conv", 64, 3, 1))
STEM_C = (("s2d",),) * 2
STEM_C_DWT = (("dwt",),) * 2
STEM_D = (("s2d",), ("conv", 64, 3, 1), ("conv", 128, 3, 2))
STEM_E = (("s2d",), ("conv", 64, 3, 1), ("csp", 128))  # at width 1; used at 1.25
STEM_F = (("s2d",),) * 3
STEM_F_DWT = (("dwt",),) * 3

# ---- Topology 1: YOLOv4-CSP, whose stage B1 is a residual unit at stride 2

YOLOR_CSP = Variant(
    form=FORM_D,
    stem=STEM_A,
    stages=((64, 1, "residual"), (128, 2), (256, 8), (512, 8), (1024, 4)),
    transition=True,
    neck_widths=(128, 256, 512),
    neck_units=2,
    anchors=ANCHORS_640,
)
YOLOR_CSP_X = replace(
    YOLOR_CSP,
    stem=(("conv", 32, 3, 1), ("conv", 80, 3, 2)),
    stages=((80, 1, "residual"), (160, 3), (320, 10), (640, 10), (1280, 5)),
    neck_widths=(160, 320, 640),
    neck_units=3,
    spp_extra_pairs=1,
)
YOLOR_CSP_FAST = replace(YOLOR_CSP, stem=STEM_B)

# ---- Topologies 2 (no stage B1) and 4 (neither B1 nor B2): YOLOv4-CSP at half the width and a
# third of the depth

SMALL_CSP = scale(replace(YOLOR_CSP, form=FORM_Y), width=0.5, depth=0.33)
YOLOR_SSS = replace(SMALL_CSP, stages=SMALL_CSP.stages[1:], stem=STEM_C)
YOLOR_SSSS = replace(SMALL_CSP, stages=SMALL_CSP.stages[2:], stem=STEM_F)

# ---- Topology 3 (no stage B1, four levels, CSP fusion first): the P6 family

YOLOR_P6 = Variant(
    form=FORM_D,
    stem=STEM_D,
    stages=((128, 3), (256, 7), (384, 7), (512, 3), (640, 3)),
    transition=False,
    neck_widths=(128, 192, 256, 320),
    neck_units=3,
    anchors=ANCHORS_1280,
)
YOLOR_W6 = replace(
    YOLOR_P6,
    stages=((128, 3), (256, 7), (512, 7), (768, 3), (1024, 3)),
    neck_widths=(128, 256, 384, 512),
)
YOLOR_E6 = scale(replace(YOLOR_W6, form=FORM_Y, stem=STEM_E, downsample="csp"), width=1.25)
YOLOR_D6 = replace(YOLOR_E6, stages=((160, 3), (320, 15), (640, 15), (960, 7), (1280, 7)))

# ---- Scaled-YOLOv4 (arXiv 2011.08036, section 4.3), the paper's large baselines: no implicit
# knowledge, four anchors a level

SCALED_YOLOV4_P5 = without_implicit(
    Variant(
        form=replace(FORM_Y, activation="mish"),
        stem=STEM_A,
        stages=((64, 1), (128, 3), (256, 15), (512, 15), (1024, 7)),
        transition=True,
        neck_widths=(128, 256, 512),
        neck_units=3,
        anchors=(
            ((13, 17), (31, 25), (24, 51), (61, 45)),
            ((48, 102), (119, 96), (97, 189), (217, 184)),
            ((171, 384), (324, 451), (616, 618), (800, 800)),
        ),
    )
)
SCALED_YOLOV4_P6 = replace(
    SCALED_YOLOV4_P5,
    stages=(*SCALED_YOLOV4_P5.stages, (1024, 7)),
    neck_widths=(128, 256, 512, 512),
    anchors=(
        ((13, 17), (31, 25), (24, 51), (61, 45)),
        ((61, 45), (48, 102), (119, 96), (97, 189)),
        ((97, 189), (217, 184), (171, 384), (324, 451)),
        ((324, 451), (545, 357), (616, 618), (1024, 1024)),
    ),
)
SCALED_YOLOV4_P7 = replace(
    scale(
        replace(
            SCALED_YOLOV4_P6,
            stages=(*SCALED_YOLOV4_P6.stages, (1024, 7)),
            neck_widths=(128, 256, 512, 512, 512),
        ),
        width=1.25,
    ),
    anchors=(
        ((13, 17), (22, 25), (27, 66), (55, 41)),
        ((57, 88), (112, 69), (69, 177), (136, 138)),
        ((136, 138), (287, 114), (134, 275), (268, 248)),
        ((268, 232), (504, 445), (416, 640), (640, 640)),
        ((812, 393), (477, 808), (1070, 908), (1408, 1408)),
    ),
)


def in_form(variant: Variant, form: BlockForm, activation: str = "silu") -> Variant:
    """The variant in another block form."""
    return replace(variant, form=replace(form, activation=activation))


# `_paper` is the form of the authors' `paper` branch where the paper's count is that of the other.
# Names with yolov4 have no implicit knowledge. Activations are those of the released
# configurations, or of the paper's text where nothing was released (CSP-fast, P6-light).
VARIANTS: dict[str, Variant] = {
    "yolov4_csp": without_implicit(YOLOR_CSP),
    "yolov4_csp_paper": in_form(without_implicit(YOLOR_CSP), FORM_Y, "mish"),
    "yolov4_csp_x": without_implicit(YOLOR_CSP_X),
    "yolov4_csp_fast": in_form(without_implicit(YOLOR_CSP_FAST), FORM_D, "mish"),
    "yolov4_csp_sss_s2d": without_implicit(YOLOR_SSS),
    "yolov4_csp_sss_dwt": without_implicit(replace(YOLOR_SSS, stem=STEM_C_DWT)),
    "yolov4_csp_ssss_s2d": without_implicit(YOLOR_SSSS),
    "yolov4_csp_ssss_dwt": without_implicit(replace(YOLOR_SSSS, stem=STEM_F_DWT)),
    "yolov4_p6_light": in_form(without_implicit(YOLOR_P6), FORM_D, "mish"),
    "yolor_csp": YOLOR_CSP,
    "yolor_csp_paper": in_form(YOLOR_CSP, FORM_Y),
    "yolor_csp_x": YOLOR_CSP_X,
    "yolor_csp_fast": in_form(YOLOR_CSP_FAST, FORM_D, "mish"),
    "yolor_sss_s2d": YOLOR_SSS,
    "yolor_sss_dwt": replace(YOLOR_SSS, stem=STEM_C_DWT),
    "yolor_ssss_s2d": YOLOR_SSSS,
    "yolor_ssss_dwt": replace(YOLOR_SSSS, stem=STEM_F_DWT),
    "yolor_p6": YOLOR_P6,
    "yolor_p6_paper": in_form(YOLOR_P6, FORM_Y),
    "yolor_w6": YOLOR_W6,
    "yolor_w6_paper": in_form(YOLOR_W6, FORM_Y),
    "yolor_e6": YOLOR_E6,
    "yolor_d6": YOLOR_D6,
    "scaled_yolov4_p5": SCALED_YOLOV4_P5,
    "scaled_yolov4_p6": SCALED_YOLOV4_P6,
    "scaled_yolov4_p7": SCALED_YOLOV4_P7,
}


def get_variant(name: str) -> Variant:
    """Look a network up by name.

    Raises:
        ValueError: when there is no such network; the message lists those that exist.
    """
    if name not in VARIANTS:
        raise ValueError(f"unknown network {name!r}, expected one of {sorted(VARIANTS)}")
    return VARIANTS[name]
