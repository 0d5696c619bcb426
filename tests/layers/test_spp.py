"""Spatial pyramid pooling against direct max-pools."""

import pytest
import torch
import torch.nn.functional as F

from yolor_d2.layers import FORM_V7, SPP, SPPCSPC, SPPT, SpatialPyramidPooling


@pytest.mark.parametrize("size", [(20, 17), (3, 2), (1, 1)])
@pytest.mark.parametrize("coarse_first", [False, True])
def test_equals_direct_max_pools(coarse_first, size):
    x = torch.randn(2, 3, *size) - 10  # all negative: padding must not win
    direct = [x] + [F.max_pool2d(x, k, stride=1, padding=k // 2) for k in (5, 9, 13)]
    expected = torch.cat(direct[::-1] if coarse_first else direct, dim=1)
    pool = SpatialPyramidPooling((5, 9, 13), coarse_first=coarse_first)
    assert torch.equal(pool(x), expected)


def test_other_sizes():
    x = torch.randn(1, 2, 9, 9)
    direct = [x] + [F.max_pool2d(x, k, stride=1, padding=k // 2) for k in (3, 11)]
    pool = SpatialPyramidPooling((3, 11), coarse_first=False)
    assert torch.equal(pool(x), torch.cat(direct, dim=1))


@pytest.mark.parametrize("sizes", [(5, 5), (9, 5), (4, 8)])
def test_sizes_must_be_odd_and_rising(sizes):
    with pytest.raises(ValueError, match=r"odd and rising, got \(\d, \d\)"):
        SpatialPyramidPooling(sizes, coarse_first=True)


def maxima(x, sizes=(5, 9, 13)):
    return [F.max_pool2d(x, k, stride=1, padding=k // 2) for k in sizes]


@pytest.mark.parametrize("sizes", [(5, 9, 13), (3, 5, 7)])
def test_spp_of_yolov5_joins_the_smallest_window_first(sizes):
    block = SPP(6, 10, sizes, form=FORM_V7).eval()
    assert block.before.conv.out_channels == 3  # half the input's
    x = torch.randn(1, 6, 15, 14)
    y = block.before(x)
    assert torch.equal(block(x), block.after(torch.cat([y, *maxima(y, sizes)], dim=1)))


def test_sppcspc_by_its_parts():
    """1x1, 3x3, 1x1, the pools with the smallest first, 1x1, 3x3; beside them 1x1 of the input."""
    block = SPPCSPC(6, 10, form=FORM_V7).eval()
    kernels = [
        [conv.conv.kernel_size[0] for conv in convs] for convs in (block.before, block.after)
    ]
    assert kernels == [[1, 3, 1], [1, 3]]
    x = torch.randn(1, 6, 15, 14)
    y = block.before(x)
    processed = block.after(torch.cat([y, *maxima(y)], dim=1))
    assert torch.equal(block(x), block.merge.output(torch.cat([processed, block.split(x)], dim=1)))


def test_sppt_by_its_parts():
    """One 1x1 convolution on either side of the pools, the largest window first."""
    block = SPPT(6, 10, form=FORM_V7).eval()
    kernels = [
        [conv.conv.kernel_size[0] for conv in convs] for convs in (block.before, block.after)
    ]
    assert kernels == [[1], [1]]
    x = torch.randn(1, 6, 15, 14)
    y = block.before(x)
    processed = block.after(torch.cat([*maxima(y)[::-1], y], dim=1))
    assert torch.equal(block(x), block.merge.output(torch.cat([processed, block.split(x)], dim=1)))
