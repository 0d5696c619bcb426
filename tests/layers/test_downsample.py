"""Space to depth, wavelets and CSP convolution."""

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yolor_d2.layers import (
    FORM_D,
    FORM_V7,
    MP,
    CSPDownsample,
    Focus,
    HaarTransform,
    SpaceToDepth,
    WaveletTransform,
    build_downsample,
    build_wavelet_transform,
)


def test_space_to_depth_keeps_every_value_in_its_group():
    x = torch.arange(16.0).view(1, 1, 4, 4)  # rows 0-3, 4-7, 8-11, 12-15
    groups = SpaceToDepth()(x)[0]
    expected = [
        [[0, 2], [8, 10]],  # row 0, column 0 of each 2x2 block
        [[4, 6], [12, 14]],  # row 1, column 0
        [[1, 3], [9, 11]],  # row 0, column 1
        [[5, 7], [13, 15]],  # row 1, column 1
    ]
    assert groups.tolist() == expected


def test_space_to_depth_orders_groups_before_channels():
    x = torch.stack([torch.zeros(2, 2), torch.ones(2, 2)])[None]
    assert SpaceToDepth()(x).flatten().tolist() == [0, 1] * 4


def test_haar_by_hand():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    # low (1+2+3+6)/4; h1 (1+2-3-6)/4 + .5; h2 (1-2+3-6)/4 + .5; h3 (1-2-3+6)/4 + .5
    assert HaarTransform(1)(x).flatten().tolist() == [3.0, -1.0, -0.5, 1.0]


def test_haar_puts_all_means_first():
    x = torch.stack([torch.full((2, 2), value) for value in (0.25, 0.75)])[None]
    assert HaarTransform(2)(x).flatten().tolist() == [0.25, 0.75] + [0.5] * 6


def test_wavelets_have_no_weights():
    for module in (HaarTransform(3), build_wavelet_transform(3, "db2")):
        assert list(module.parameters()) == [] and module.state_dict() == {}


@given(
    channels=st.integers(1, 4),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    seed=st.integers(),
)
def test_haar_equals_the_wavelet_package(channels, height, width, seed):
    generator = torch.Generator().manual_seed(seed % 2**31)
    x = torch.rand(2, channels, 2 * height, 2 * width, generator=generator)
    torch.testing.assert_close(HaarTransform(channels)(x), WaveletTransform("haar")(x))


@pytest.mark.parametrize("wavelet", ["db2", "bior1.3", "sym4"])
def test_other_wavelets_halve_any_even_size(wavelet):
    transform = build_wavelet_transform(3, wavelet)
    x = torch.rand(1, 3, 16, 24)
    assert transform(x).shape == (1, 12, 8, 12)
    # A constant has no details, and its mean is itself.
    flat = transform(torch.full((1, 3, 16, 24), 0.25))
    torch.testing.assert_close(flat[:, :3], torch.full((1, 3, 8, 12), 0.25), atol=1e-5, rtol=0)
    torch.testing.assert_close(flat[:, 3:], torch.full((1, 9, 8, 12), 0.5), atol=1e-5, rtol=0)


def test_an_unknown_wavelet_is_named():
    with pytest.raises(ValueError, match="'nonsense'"):
        build_wavelet_transform(3, "nonsense")


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_wavelets", None)
    with pytest.raises(ModuleNotFoundError, match=r"'db2'.*yolor_d2\[wavelets\]"):
        build_wavelet_transform(3, "db2")
    build_wavelet_transform(3, "haar")  # needs nothing


def test_csp_downsample_halves_and_joins():
    block = CSPDownsample(6, 10, form=FORM_D).eval()
    x = torch.rand(1, 6, 8, 12)
    output = block(x)
    assert output.shape == (1, 10, 4, 6)
    torch.testing.assert_close(output[:, :5], block.down(block.reduce(x)))


def test_mp_joins_the_convolution_first_and_is_half_as_wide_inside():
    block = MP(6, 10, form=FORM_V7).eval()
    widths = [(conv.conv.in_channels, conv.conv.out_channels) for conv in block.children()]
    assert widths == [(6, 5), (5, 5), (6, 5)]  # reduce, down, pooled
    x = torch.rand(1, 6, 8, 12)
    pooled = x.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(-1, -2))  # of every 2x2 block
    expected = torch.cat([block.down(block.reduce(x)), block.pooled(pooled)], dim=1)
    assert torch.equal(block(x), expected) and expected.shape == (1, 10, 4, 6)
    # `CSPDownsample` keeps the input's width in front of its 3x3 convolution.
    assert CSPDownsample(6, 10, form=FORM_V7).reduce.conv.out_channels == 6


def test_focus_is_a_convolution_over_the_four_groups():
    block = Focus(3, 5, form=FORM_V7).eval()
    x = torch.rand(1, 3, 8, 12)
    groups = [x[:, :, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
    assert torch.equal(block(x), block.conv(torch.cat(groups, dim=1)))
    assert block(x).shape == (1, 5, 4, 6)


def test_a_pool_keeps_its_width():
    pool = build_downsample("max_pool", 4, 4, form=FORM_V7)
    assert pool(torch.arange(16.0).view(1, 1, 4, 4)).flatten().tolist() == [5, 7, 13, 15]
    with pytest.raises(ValueError, match=r"'max_pool' keeps its width, 4 .* 8 .*DOWNSAMPLE_WIDTH"):
        build_downsample("max_pool", 4, 8, form=FORM_V7)


@pytest.mark.parametrize("kind", ["conv", "csp", "mp"])
def test_kinds_halve_any_even_size(kind):
    block = build_downsample(kind, 4, 6, form=FORM_V7)
    assert block(torch.zeros(2, 4, 6, 10)).shape == (2, 6, 3, 5)


def test_an_unknown_downsample_is_named():
    expected = r"'haar', expected one of \['conv', 'csp', 'max_pool', 'mp'\]"
    with pytest.raises(ValueError, match=expected):
        build_downsample("haar", 4, 8, form=FORM_D)
