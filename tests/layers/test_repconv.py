"""Convolutions of several branches, and merging them into one."""

import copy

import pytest
import torch
from torch import nn

from yolor_d2.layers import FORM_V7, RepConv
from yolor_d2.layers.fuse import fuse_for_inference
from yolor_d2.networks.complexity import count_fused_parameters, count_parameters

CASES = [
    {"in_channels": 4, "out_channels": 6},
    {"in_channels": 4, "out_channels": 6, "stride": 2},
    {"in_channels": 5, "out_channels": 5, "identity": True},
]


def build(in_channels=4, out_channels=4, kind=RepConv, **options):
    """In double precision, with statistics far from neutral."""
    torch.manual_seed(0)
    block = kind(in_channels, out_channels, form=FORM_V7, **options)
    for norm in block.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
    return block.double().eval()


def images(channels):
    return torch.randn(2, channels, 6, 7, dtype=torch.float64)


def by_hand(norm, y):
    """A norm in evaluation mode, written out."""
    scale = norm.weight / (norm.running_var + 1e-3).sqrt()
    return (y - norm.running_mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_the_branches_are_added_before_the_activation(case):
    block, x = build(**case), images(case["in_channels"])
    stride = case.get("stride", 1)
    y = by_hand(block.dense[1], nn.functional.conv2d(x, block.dense[0].weight, None, stride, 1))
    y += by_hand(
        block.pointwise[1], nn.functional.conv2d(x, block.pointwise[0].weight, None, stride)
    )
    if "identity" in case:
        y += by_hand(block.identity, x)
    torch.testing.assert_close(block(x), y * y.sigmoid(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_merged_it_is_one_convolution(case):
    block, x = build(**case), images(case["in_channels"])
    fused = fuse_for_inference(block)
    conv, act = fused
    assert type(conv) is nn.Conv2d and isinstance(act, nn.SiLU)
    assert conv.weight.shape == block.dense[0].weight.shape
    torch.testing.assert_close(fused(x), block(x), atol=1e-12, rtol=0)
    assert count_parameters(fused) == count_fused_parameters(block)
    # All but the 3x3 convolution.
    gone = ["dense.1", "pointwise.0", "pointwise.1"] + ["identity"] * ("identity" in case)
    assert fused.fusion_report.folded == gone and not fused.fusion_report.kept
    again = fuse_for_inference(fused)
    assert torch.equal(again[0].weight, conv.weight)
    assert again.fusion_report == fused.fusion_report


def test_the_identity_by_hand():
    """Norms at their start divide by sqrt(1 + eps) and add nothing."""
    block = RepConv(2, 2, identity=True, form=FORM_V7).double()
    nn.init.zeros_(block.dense[0].weight)
    nn.init.constant_(block.pointwise[0].weight, 3)
    conv = fuse_for_inference(block)[0]
    assert not conv.bias.any()
    weight = conv.weight * (1 + 1e-3) ** 0.5
    centre = torch.tensor([[3.0 + 1, 3], [3, 3 + 1]], dtype=torch.float64)
    torch.testing.assert_close(weight[:, :, 1, 1], centre, atol=1e-15, rtol=0)
    assert weight.count_nonzero() == 4  # nothing beside the centre


@pytest.mark.parametrize(
    ("options", "message"),
    [({"out_channels": 6}, "4 channels of input, 6 of output"), ({"stride": 2}, "stride 2")],
)
def test_an_identity_needs_equal_shapes(options, message):
    with pytest.raises(ValueError, match=f"RepConv.*{message}"):
        build(identity=True, **options)


class Negated(RepConv):
    """A class that computes something of its own."""

    def forward(self, x):
        return -super().forward(x)


class Named(RepConv):
    """A class that computes what `RepConv` does."""


def with_hook(place):
    block = build()
    module = block.get_submodule(place)
    module.register_forward_hook(lambda _, inputs, output: 2 * output)
    return block


def without_statistics():
    block = build()
    block.dense[1] = nn.BatchNorm2d(4, track_running_stats=False).double().eval()
    return block


def unknown_norm():
    class Doubled(nn.BatchNorm2d):
        def forward(self, x):
            return 2 * super().forward(x)

    block = build()
    block.pointwise[1].__class__ = Doubled
    return block


LEFT = {
    "forward of its own": lambda: build(kind=Negated),
    "hook": lambda: with_hook(""),
    "hook on a branch": lambda: with_hook("pointwise"),
    "hook on a convolution": lambda: with_hook("dense.0"),
    "hook on a norm": lambda: with_hook("pointwise.1"),
    "norm without statistics": without_statistics,
    "norm with a forward of its own": unknown_norm,
}


@pytest.mark.parametrize("case", LEFT)
@torch.no_grad()
def test_what_nobody_here_knows_keeps_its_branches(case):
    block, x = LEFT[case](), images(4)
    fused = fuse_for_inference(block)
    assert type(fused) is type(block)
    torch.testing.assert_close(fused(x), block(x), atol=1e-12, rtol=0)


@torch.no_grad()
def test_a_subclass_that_computes_the_same_is_merged():
    block, x = build(kind=Named), images(4)
    fused = fuse_for_inference(block)
    assert isinstance(fused[0], nn.Conv2d)
    torch.testing.assert_close(fused(x), block(x), atol=1e-12, rtol=0)


@torch.no_grad()
def test_convolutions_may_have_a_bias():
    block, x = build(), images(4)
    for branch in (block.dense, block.pointwise):
        branch[0].bias = nn.Parameter(torch.randn(4, dtype=torch.float64))
    torch.testing.assert_close(fuse_for_inference(block)(x), block(x), atol=1e-12, rtol=0)


@torch.no_grad()
def test_shared_parts_keep_their_branches():
    block, x = build(), images(4)
    twice = nn.Sequential(block, block)
    other = copy.deepcopy(block)
    other.dense[0] = block.dense[0]  # one convolution of two blocks
    for shared in (twice, nn.Sequential(block, other)):
        fused = fuse_for_inference(shared)
        assert all(isinstance(part, RepConv) for part in fused)
        torch.testing.assert_close(fused(x), shared(x), atol=1e-12, rtol=0)
