"""Folding space to depth into the convolution behind it."""

import pytest
import torch
from torch import nn

from yolor_d2.layers import FORM_D, FORM_V7, ConvNormAct, Focus, SpaceToDepth
from yolor_d2.layers.fuse import fuse_for_inference


@torch.no_grad()
def fuse_and_compare(block, *shape):
    """The fused block, in double precision; its outputs are those of the block."""
    for part in block.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2)
    block.double().eval()
    fused = fuse_for_inference(block)
    x = torch.rand(*shape, dtype=torch.float64)
    torch.testing.assert_close(fused(x), block(x), rtol=0, atol=1e-12)
    return fused


@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("form", [FORM_D, FORM_V7], ids=["D", "V7"])
def test_the_convolution_gathers_the_pixels_itself(kernel_size, stride, form):
    conv = ConvNormAct(12, 5, kernel_size, stride, form=form)
    fused = fuse_and_compare(nn.Sequential(SpaceToDepth(), conv), 2, 3, 16, 24)
    assert isinstance(fused[0], nn.Identity)
    assert fused[1].conv.kernel_size == (2 * kernel_size,) * 2
    assert fused[1].conv.stride == (2 * stride,) * 2


def test_focus_becomes_one_convolution():
    fused = fuse_and_compare(Focus(3, 8, form=FORM_V7), 1, 3, 16, 16)
    assert set(fused.fusion_report.folded) == {"conv.norm", "rearrange"}
    assert fused.conv.conv.weight.shape == (8, 3, 6, 6)


def test_twice_space_to_depth():
    """As in the stem of SSS, if a convolution followed there."""
    block = nn.Sequential(SpaceToDepth(), SpaceToDepth(), nn.Conv2d(48, 4, 3, padding=1))
    assert fuse_and_compare(block, 1, 3, 16, 24)[2].kernel_size == (12, 12)


@pytest.mark.parametrize(
    "options", [{"groups": 2}, {"padding_mode": "reflect"}, {"dilation": 2}, {"padding": "same"}]
)
def test_space_to_depth_stays_where_it_cannot_go(options):
    conv = nn.Conv2d(12, 8, 3, **({"padding": 1} | options))
    fused = fuse_and_compare(nn.Sequential(SpaceToDepth(), conv), 1, 3, 16, 16)
    assert isinstance(fused[0], SpaceToDepth)


def test_a_hook_sees_what_it_saw():
    block = nn.Sequential(SpaceToDepth(), ConvNormAct(12, 4, 3, form=FORM_D))
    seen = []
    block[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    fuse_and_compare(block, 1, 3, 16, 16)
    assert set(seen) == {12}
