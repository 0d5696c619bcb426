"""One network as a row of data: its parts and sizes, and how a row is scaled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..layers import BLOCKS, BlockForm, ImplicitOptions
from ..layers.blocks import DEFAULT_BLOCK, Block
from .backbone import NEXT, STEM_LAYERS, StemLayer
from .neck import JOINS_BLOCK, LATERAL_FIRST

Anchors = Sequence[Sequence[Sequence[float]]]


@dataclass(frozen=True)
class Variant:
    """One network.

    Attributes:
        form: where norms sit in CSP blocks and their epsilon, see `layers.BlockForm`.
        stem: layers before the first stage, see `networks.backbone.build_stem_layer`.
        stages: backbone stages, see `layers.build_block`; each but the first halves the resolution.
        transition: whether the processed branch of a backbone CSP block ends with a 1x1
            convolution.
        neck_widths: neck width of each level, fine to coarse.
        neck_units: units in each block of the neck, such as convolution pairs of a CSP block.
        anchors: (width, height) in input pixels, per level, fine to coarse.
        downsample: between stages, see `layers.build_downsample`.
        downsample_width: "next" or "same", see `networks.YOLORBackbone`.
        min_stride: stages of at least this stride feed the neck.
        spp, neck_block, neck_hidden, neck_lateral, neck_order: see `networks.PANNeck`.
        neck_joins, neck_output, auxiliary_widths: see `networks.PANNeck`.
        neck_downsample: on the bottom-up path of the neck; "" is the same as between stages.
        neck_downsample_width: "next" or "same", see `networks.PANNeck`.
        feature_alignment: implicit knowledge on the neck's outputs, see `layers.parse_implicit`.
        prediction_refinement: implicit knowledge on the head's outputs.
        top_down: implicit knowledge on the maps of the neck's top-down path.
        bottom_up: implicit knowledge on the maps of the neck's bottom-up path.
        implicit_options: what all implicit knowledge shares.
    """

    form: BlockForm
    stem: Sequence[StemLayer]
    stages: Sequence[Block]
    transition: bool
    neck_widths: Sequence[int]
    neck_units: int
    anchors: Anchors
    downsample: str = "conv"
    downsample_width: str = NEXT
    min_stride: int = 8
    spp: Sequence[str | int] = ("csp",)
    neck_block: str = "csp_neck"
    neck_hidden: Sequence[int] = ()
    neck_downsample: str = ""
    neck_downsample_width: str = NEXT
    neck_lateral: str = "conv"
    neck_order: str = LATERAL_FIRST
    neck_joins: str = JOINS_BLOCK
    neck_output: str = "conv"
    auxiliary_widths: Sequence[int] = ()
    feature_alignment: str = "add"
    prediction_refinement: str = "mul"
    top_down: str = "none"
    bottom_up: str = "none"
    implicit_options: ImplicitOptions = field(default_factory=ImplicitOptions)


def scale_width(channels: int, factor: float) -> int:
    """Channels times a factor, rounded up to a multiple of 8."""
    return channels if factor == 1 else math.ceil(channels * factor / 8) * 8


def deeper(units: int, factor: float) -> int:
    """Repetitions times a factor, to the nearest whole number, at least 1."""
    return max(round(units * factor), 1)


def resize(variant: Variant, width: float, depth: float, *, inside: bool) -> Variant:
    """A variant with its widths and repetitions multiplied; widths inside blocks if `inside`."""

    def layer(spec: StemLayer) -> StemLayer:
        if spec[0] in STEM_LAYERS and not STEM_LAYERS[str(spec[0])].has_width:
            return spec
        kind, channels, *rest = spec
        return (kind, scale_width(int(channels), width), *rest)

    def block(spec: Block) -> Block:
        channels, units, *kind = spec
        if inside and len(kind) > 1 and BLOCKS.traits_of(str(kind[0])).has_hidden:
            kind[1] = scale_width(int(kind[1]), width)
        return (scale_width(int(channels), width), deeper(int(units), depth), *kind)

    def wider(widths: Sequence[int]) -> tuple[int, ...]:
        return tuple(scale_width(channels, width) for channels in widths)

    return replace(
        variant,
        stem=tuple(map(layer, variant.stem)),
        stages=tuple(map(block, variant.stages)),
        neck_widths=wider(variant.neck_widths),
        neck_units=deeper(variant.neck_units, depth),
        neck_hidden=wider(variant.neck_hidden) if inside else variant.neck_hidden,
        auxiliary_widths=wider(variant.auxiliary_widths),
    )


def scale(variant: Variant, width: float = 1.0, depth: float = 1.0) -> Variant:
    """A variant with all widths and repetitions multiplied by these factors.

    Widths are rounded up to multiples of 8, repetitions to the nearest whole number, at least 1.
    """
    return variant if (width, depth) == (1, 1) else resize(variant, width, depth, inside=True)


def compound_scale(variant: Variant, depth: float) -> Variant:
    """A variant scaled as YOLOv7 scales concatenation-based networks (arXiv 2207.02696, section
    3.2 and figure 3).

    With the depth of a block its concatenation grows, and by the same factor all that follows: the
    block's output, stem, down-sampling, neck, heads. The width inside blocks stays. Blocks whose
    concatenation does not depend on their depth, such as CSP blocks, grow in depth alone.

    Args:
        depth: factor for the repetitions; 1.5 makes YOLOv7-E6 of W6, 2 makes D6 of it.

    Raises:
        ValueError: when the concatenations of the blocks do not grow by one factor.
    """

    def growth(kind: str, units: int) -> float:
        concatenated = BLOCKS.traits_of(kind).concatenated
        return concatenated(deeper(units, depth)) / concatenated(units) if concatenated else 1.0

    blocks = [(kind[0] if kind else DEFAULT_BLOCK, units) for _, units, *kind in variant.stages]
    blocks.append((variant.neck_block, variant.neck_units))
    factors = {growth(str(kind), int(units)) for kind, units in blocks}
    if len(factors) > 1:
        raise ValueError(
            f"compound scaling by {depth} (MODEL.YOLOR.COMPOUND_DEPTH): the concatenations of the "
            f"blocks grow by different factors, {sorted(factors)}; MODEL.YOLOR.WIDTH_FACTOR and "
            "DEPTH_FACTOR scale any network"
        )
    return resize(variant, factors.pop(), depth, inside=False)


def without_implicit(variant: Variant) -> Variant:
    """The variant without its implicit knowledge."""
    return replace(variant, feature_alignment="none", prediction_refinement="none")


def for_deployment(variant: Variant) -> Variant:
    """The variant without what its authors' files for inference lack: implicit knowledge, folded
    into the predictions there, and auxiliary heads."""
    return replace(without_implicit(variant), auxiliary_widths=())


def in_form(variant: Variant, form: BlockForm, activation: str = "silu") -> Variant:
    """The variant in another block form."""
    return replace(variant, form=replace(form, activation=activation))
