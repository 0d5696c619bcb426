"""The backbone: stems, shapes and strides."""

import pytest
import torch

from yolor_d2.layers import FORM_D, CSPDownsample, Focus, HaarTransform, SpaceToDepth
from yolor_d2.networks import YOLORBackbone
from yolor_d2.networks.backbone import build_stage, build_stem_layer, level_name


def tiny_backbone(**changes):
    options = {
        "in_channels": 3,
        "stem": (("s2d",), ("conv", 4, 3, 2)),
        "stages": ((4, 1), (6, 2), (8, 0)),
        "transition": False,
        "form": FORM_D,
    }
    return YOLORBackbone(**(options | changes))


def test_outputs_start_at_stride_8():
    backbone = tiny_backbone()
    assert backbone.stage_strides == [4, 8, 16]
    assert (backbone.channels, backbone.strides) == ([6, 8], [8, 16])
    features = backbone(torch.zeros(2, 3, 32, 48))
    assert [tuple(x.shape) for x in features] == [(2, 6, 4, 6), (2, 8, 2, 3)]


def test_outputs_start_where_told():
    backbone = tiny_backbone(min_stride=4)
    assert (backbone.channels, backbone.strides) == ([4, 6, 8], [4, 8, 16])
    assert len(backbone(torch.zeros(2, 3, 32, 32))) == 3


def test_image_channels_are_a_choice():
    features = tiny_backbone(in_channels=12)(torch.zeros(1, 12, 32, 32).expand(2, -1, -1, -1))
    assert features[0].shape == (2, 6, 4, 4)


def test_stem_layers():
    layer, channels, stride = build_stem_layer(("s2d",), 3, FORM_D)
    assert (type(layer), channels, stride) == (SpaceToDepth, 12, 2)
    layer, channels, stride = build_stem_layer(("conv", 8, 3, 2), 3, FORM_D)
    assert (tuple(layer.conv.weight.shape), channels, stride) == ((8, 3, 3, 3), 8, 2)
    layer, channels, stride = build_stem_layer(("csp", 8), 3, FORM_D)
    assert (type(layer), channels, stride) == (CSPDownsample, 8, 2)
    layer, channels, stride = build_stem_layer(("dwt",), 3, FORM_D)
    assert (type(layer), channels, stride) == (HaarTransform, 12, 2)
    layer, channels, stride = build_stem_layer(("dwt", "db2"), 3, FORM_D)
    assert (layer.wavelet, channels, stride) == ("db2", 12, 2)


def test_yolov5_starts_with_focus():
    layer, channels, stride = build_stem_layer(("focus", 8), 3, FORM_D)
    assert (type(layer), channels, stride) == (Focus, 8, 2)
    with pytest.raises(ValueError, match=r"\['focus', 'db2'\].*'focus', channels.*'db2'"):
        build_stem_layer(("focus", "db2"), 3, FORM_D)


@pytest.mark.parametrize(("width", "widths"), [("next", [6, 8]), ("same", [4, 6])])
def test_width_of_what_halves_the_resolution(width, widths):
    backbone = tiny_backbone(downsample_width=width)
    assert [stage[0].conv.out_channels for stage in backbone.stages[1:]] == widths
    assert [stage[1].entry.conv.in_channels for stage in backbone.stages[1:]] == widths
    assert backbone.channels == [6, 8]
    pooled = tiny_backbone(downsample="max_pool", downsample_width="same")
    assert [tuple(x.shape[1:]) for x in pooled(torch.zeros(2, 3, 32, 32))] == [(6, 4, 4), (8, 2, 2)]


def test_an_unknown_width_of_what_halves_the_resolution_is_named():
    with pytest.raises(ValueError, match=r"DOWNSAMPLE_WIDTH is 'half'.*'next', 'same'"):
        tiny_backbone(downsample_width="half")


def test_a_residual_stage_is_half_as_wide_inside():
    stage, channels = build_stage((8, 2, "residual"), 8, transition=True, form=FORM_D)
    assert channels == 8
    assert [tuple(unit.reduce.conv.weight.shape) for unit in stage] == [(4, 8, 1, 1)] * 2


def test_an_unknown_stem_layer_is_named():
    with pytest.raises(ValueError, match="'blur'"):
        tiny_backbone(stem=(("blur",),))


def test_level_names_come_from_the_stride():
    assert [level_name("p", stride) for stride in (8, 16, 64)] == ["p3", "p4", "p6"]
