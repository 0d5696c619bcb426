"""The published networks: parameter counts, shapes, forms; on the meta device, without values."""

import pytest
import torch
from torch import nn

from yolor_d2.networks import VARIANTS, build_network, get_variant

# With 80 classes. yolor_p6 and yolor_ssss are the paper's tables; yolor_p6_paper is what the
# authors' branch of the paper builds.
PUBLISHED = {
    "yolor_p6": 37_265_016,
    "yolor_p6_paper": 37_270_264,
    "yolor_ssss_s2d": 9_216_634,
}
# One number per neck output and per head output: P6 256 + 384 + 512 + 640 + 4 * 255, SSSS
# 128 + 256 + 512 + 3 * 255.
IMPLICIT = {"yolor_p6": 2_812, "yolor_p6_paper": 2_812, "yolor_ssss_s2d": 1_661}
STRIDES = {name: [8, 16, 32, 64] for name in ("yolor_p6", "yolor_p6_paper")}
STRIDES["yolor_ssss_s2d"] = [8, 16, 32]
NORM_EPS = {"yolor_p6": 1e-4, "yolor_p6_paper": 1e-3, "yolor_ssss_s2d": 1e-3}


def build_on_meta(name, **options):
    with torch.device("meta"):
        return build_network(name, **options)


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_every_network_is_checked_here():
    assert set(VARIANTS) == set(PUBLISHED) == set(IMPLICIT) == set(STRIDES) == set(NORM_EPS)


@pytest.mark.parametrize("name", VARIANTS)
def test_published_parameter_count(name):
    assert count(build_on_meta(name)) == PUBLISHED[name]


@pytest.mark.parametrize("name", VARIANTS)
def test_without_implicit_knowledge(name):
    network = build_on_meta(name, feature_alignment="none", prediction_refinement="none")
    assert count(network) == PUBLISHED[name] - IMPLICIT[name]


@pytest.mark.parametrize("name", VARIANTS)
def test_shapes_and_strides(name):
    network = build_on_meta(name).eval()
    assert network.strides == STRIDES[name]
    assert network.size_divisibility == STRIDES[name][-1]
    levels = network(torch.zeros(2, 3, 256, 384, device="meta"))
    expected = [(2, 3, 256 // stride, 384 // stride, 85) for stride in STRIDES[name]]
    assert [tuple(x.shape) for x in levels] == expected
    rows = sum(3 * (256 // stride) * (384 // stride) for stride in STRIDES[name])
    assert network.decode(levels).shape == (2, rows, 85)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_norm_has_the_epsilon_of_the_form(name):
    norms = [m for m in build_on_meta(name).modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(NORM_EPS[name], 0.03)}


def test_the_form_is_a_choice():
    assert count(build_on_meta("yolor_p6", form="Y")) == PUBLISHED["yolor_p6_paper"]
    assert count(build_on_meta("yolor_p6_paper", form="D")) == PUBLISHED["yolor_p6"]


def test_other_numbers_of_classes_and_image_channels():
    # 79 classes fewer: in each of 3 anchors, a row of weights, a bias and an implicit number.
    fewer = 3 * 79 * ((256 + 384 + 512 + 640) + 2 * 4)
    assert count(build_on_meta("yolor_p6", num_classes=1)) == PUBLISHED["yolor_p6"] - fewer
    # 9 channels more, four times as many after space to depth, reach a 3x3 convolution to 64.
    more = 9 * 4 * 9 * 64
    assert count(build_on_meta("yolor_p6", in_channels=12)) == PUBLISHED["yolor_p6"] + more


def test_an_unknown_name_is_named_beside_the_known_ones():
    with pytest.raises(ValueError, match=r"'yolor_p7'.*yolor_p6.*yolor_ssss_s2d"):
        get_variant("yolor_p7")
