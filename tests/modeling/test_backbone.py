"""Backbones as Detectron2 sees them: registry, announced shapes, features by name."""

import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.config import load_config
from yolor_d2.d2 import RUNTIME
from yolor_d2.d2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    ShapeSpec,
    build_backbone,
    build_model,
)
from yolor_d2.modeling import YOLORPAN, YOLORBottomUp

NAMES = ["build_yolor_backbone", "build_yolor_pan_backbone"]
LETTERS = [(NAMES[0], "c"), (NAMES[1], "p")]


def build(config, name, *opts):
    with torch.device("meta"):  # shapes need no memory
        return build_backbone(configure(config, name, *opts))


def configure(config, name, *opts):
    return load_config(config, ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.NAME", name, *opts])


def test_registered_names():
    assert all(name in BACKBONE_REGISTRY for name in NAMES)
    assert "YOLOR" in META_ARCH_REGISTRY


@pytest.mark.parametrize(("name", "letter"), LETTERS)
def test_p6_announces_four_levels(name, letter):
    backbone = build("yolor_p6.yaml", name)
    # Paper, figure A2: the neck gives back the widths of the backbone's last four stages.
    assert backbone.output_shape() == {
        f"{letter}3": ShapeSpec(channels=256, stride=8),
        f"{letter}4": ShapeSpec(channels=384, stride=16),
        f"{letter}5": ShapeSpec(channels=512, stride=32),
        f"{letter}6": ShapeSpec(channels=640, stride=64),
    }
    assert backbone.size_divisibility == 64


@pytest.mark.parametrize(("name", "letter"), LETTERS)
def test_ssss_announces_three_levels(name, letter):
    backbone = build("yolor_ssss_s2d.yaml", name)
    assert backbone.output_shape() == {
        f"{letter}3": ShapeSpec(channels=128, stride=8),
        f"{letter}4": ShapeSpec(channels=256, stride=16),
        f"{letter}5": ShapeSpec(channels=512, stride=32),
    }
    assert backbone.size_divisibility == 32


@pytest.mark.parametrize("config", ["yolor_p6.yaml", "yolor_ssss_s2d.yaml"])
@pytest.mark.parametrize("name", NAMES)
def test_features_are_as_announced(config, name):
    backbone = build(config, name)
    features = backbone(torch.empty(2, 3, 64, 128, device="meta"))
    assert {key: tuple(value.shape) for key, value in features.items()} == {
        key: (2, shape.channels, 64 // shape.stride, 128 // shape.stride)
        for key, shape in backbone.output_shape().items()
    }


def test_types_and_number_of_image_channels():
    bottom_up = build("yolor_ssss_s2d.yaml", NAMES[0], "MODEL.PIXEL_MEAN", str([0.0] * 4))
    pan = build("yolor_ssss_s2d.yaml", NAMES[1])
    assert isinstance(bottom_up, YOLORBottomUp)
    assert isinstance(pan, YOLORPAN) and isinstance(pan.bottom_up, YOLORBottomUp)
    # Detectron2 takes the image channels from the length of PIXEL_MEAN.
    assert bottom_up(torch.empty(1, 4, 64, 64, device="meta"))["c3"].shape == (1, 128, 8, 8)


def test_bottom_up_alone_serves_our_head():
    model = build_model(configure("yolor_ssss_s2d.yaml", NAMES[0])).eval()
    assert model.in_features == ["c3", "c4", "c5"]
    found = model([{"image": torch.zeros(3, 64, 64)}])[0]["instances"]
    assert found.image_size == (64, 64)


@pytest.mark.skipif(RUNTIME != "detectron2", reason="needs Detectron2")
def test_bottom_up_serves_detectron2s_own_neck():
    from detectron2.modeling import FPN

    bottom_up = build_backbone(configure("yolor_ssss_s2d.yaml", NAMES[0]))
    fpn = FPN(bottom_up, ["c3", "c4", "c5"], out_channels=4)
    features = fpn(torch.zeros(1, 3, 64, 64))
    assert {name: tuple(x.shape) for name, x in features.items()} == {
        "p3": (1, 4, 8, 8),
        "p4": (1, 4, 4, 4),
        "p5": (1, 4, 2, 2),
    }
    assert fpn.size_divisibility == 32
