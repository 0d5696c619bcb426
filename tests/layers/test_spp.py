"""Spatial pyramid pooling against direct max-pools."""

import pytest
import torch
import torch.nn.functional as F

from yolor_d2.layers import SpatialPyramidPooling


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
