"""CSP blocks: shapes, what the two forms hold, gradients. Their numbers: test_golden_blocks.py."""

import pytest
import torch
from torch import nn

from yolor_d2.layers import C3, CSPSPP, FORM_D, FORM_V7, FORM_Y, CSPNeckBlock, CSPStage, build_block

BLOCKS = {
    "stage": lambda form: CSPStage(6, 8, 2, transition=False, form=form),
    "stage, transition": lambda form: CSPStage(6, 8, 2, transition=True, form=form),
    "neck block": lambda form: CSPNeckBlock(6, 8, 2, form=form),
    "spp": lambda form: CSPSPP(6, 8, form=form),
    "c3": lambda form: C3(6, 8, 2, form=form),
}
# Learnable numbers by hand. conv(a, b, k) is a b k^2 weights and 2 b of its norm; bare has no norm.
COUNTS = {
    # entry (6, 4, 1), 2 x [(4, 4, 1), (4, 4, 3)], split (6, 4, 1), output (8, 8, 1)
    ("stage", "D"): (24 + 8) + 2 * (16 + 8 + 144 + 8) + (24 + 8) + (64 + 16),
    # the split is bare, the norm over the concatenation has 8 channels
    ("stage", "Y"): (24 + 8) + 2 * (16 + 8 + 144 + 8) + 24 + 16 + (64 + 16),
    # transition (4, 4, 1)
    ("stage, transition", "D"): 496 + (16 + 8),
    ("stage, transition", "Y"): 504 + 16,
    # entry (6, 8, 1), 2 x [(8, 8, 1), (8, 8, 3)], split (8, 8, 1), output (16, 8, 1)
    ("neck block", "D"): (48 + 16) + 2 * (64 + 16 + 576 + 16) + (64 + 16) + (128 + 16),
    ("neck block", "Y"): (48 + 16) + 2 * (64 + 16 + 576 + 16) + 64 + 32 + (128 + 16),
    # (6, 8, 1), (8, 8, 3), (8, 8, 1), (32, 8, 1), (8, 8, 3), split (6, 8, 1), output (16, 8, 1)
    ("spp", "D"): 64 + 592 + 80 + (256 + 16) + 592 + (48 + 16) + 144,
    ("spp", "Y"): 64 + 592 + 80 + (256 + 16) + 592 + 48 + 32 + 144,
}
COUNTS["c3", "V7"] = COUNTS["stage", "D"]
FORMS = {"D": FORM_D, "Y": FORM_Y, "V7": FORM_V7}


def build(case):
    name, form = case
    torch.manual_seed(0)
    return BLOCKS[name](FORMS[form])


@pytest.mark.parametrize("case", COUNTS)
def test_shape_and_parameter_count(case):
    block = build(case)
    assert block(torch.zeros(2, 6, 5, 7)).shape == (2, 8, 5, 7)
    assert sum(p.numel() for p in block.parameters()) == COUNTS[case]


@pytest.mark.parametrize("case", COUNTS)
def test_gradients_reach_every_parameter(case):
    block = build(case)
    output = block(torch.randn(2, 6, 5, 7))
    (output * torch.randn_like(output)).sum().backward()
    missing = [k for k, p in block.named_parameters() if p.grad is None or not p.grad.any()]
    assert not missing


def test_both_branches_meet_with_the_processed_one_first():
    stage = CSPStage(4, 8, 0, transition=False, form=FORM_D).eval()
    seen = []
    stage.merge.output.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.randn(1, 4, 3, 3)
    stage(x)
    assert torch.equal(seen[0], torch.cat([stage.entry(x), stage.split(x)], dim=1))


def test_form_y_normalises_the_whole_concatenation():
    stage = CSPStage(4, 8, 1, transition=True, form=FORM_Y)
    assert isinstance(stage.split, nn.Conv2d)
    assert isinstance(stage.transition, nn.Conv2d)
    norm, activation = stage.merge.norm_act
    assert norm.num_features == 8
    assert isinstance(activation, nn.SiLU)


def test_the_split_of_a_neck_block_follows_its_entry():
    block = CSPNeckBlock(4, 8, 1, form=FORM_D).eval()
    seen = []
    block.split.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.randn(1, 4, 3, 3)
    block(x)
    assert torch.equal(seen[0], block.entry(x))


@pytest.mark.parametrize("shortcut", [True, False])
def test_c3_by_its_parts(shortcut):
    """Units between 1x1 convolutions of half the width; the neck's do not add their input."""
    kind = "c3" if shortcut else "c3_plain"
    block = build_block((8, 2, kind), 6, form=FORM_V7, key="")[0].eval()
    assert type(block) is C3 and block.entry.conv.out_channels == 4
    x = torch.randn(1, 6, 5, 7)
    y = block.entry(x)
    for unit in block.units:
        processed = unit.expand(unit.reduce(y))
        y = y + processed if shortcut else processed
    assert torch.equal(block(x), block.merge.output(torch.cat([y, block.split(x)], dim=1)))


@pytest.mark.parametrize(("sizes", "expected"), [((), (5, 9, 13)), ((3, 5, 7), (3, 5, 7))])
def test_the_last_stage_of_yolov5_pools_first(sizes, expected):
    pool, block = build_block((8, 2, "spp_c3", *sizes), 6, form=FORM_V7, key="")[0]
    pooled = pool.pool(torch.zeros(1, 3, 9, 9))
    assert pooled.shape[1] == 3 * 4 and pool.pool.steps[0] == expected[0]
    assert type(block) is C3 and not any(unit.shortcut for unit in block.units)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ((8, 2, "spp_c3", 4), r"\[8, 2, 'spp_c3', 4\].*odd and rising, got \(4,\)"),
        ((8, 2, "c3", 4), r"\[8, 2, 'c3', 4\].*positional"),
    ],
)
def test_arguments_that_do_not_fit_are_named(spec, message):
    with pytest.raises(ValueError, match=message):
        build_block(spec, 6, form=FORM_V7, key="stages")
