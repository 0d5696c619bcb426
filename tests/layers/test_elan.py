"""The family of ELAN blocks: wiring, order of the concatenation, kinds. Their numbers:
test_golden_blocks.py."""

import pytest
import torch

from yolor_d2.layers import BLOCKS, EELAN, ELAN, FORM_V7, build_block


def build(kind, width=10, units=4, *hidden):
    torch.manual_seed(0)
    return build_block((width, units, kind, *hidden), 6, form=FORM_V7, key="")[0].eval()


def chain_of(block, x):
    """Skip and entry, then the maps of the chain, each from the one before."""
    maps = [block.entry(x)]
    for conv in block.chain:
        maps.append(conv(maps[-1]))
    return block.skip(x), *maps


# Which maps of the chain are joined, newest first; 0 is the entry, which the skip follows.
JOINED = {
    ("elan", 4): (4, 2, 0),
    ("elan", 6): (6, 4, 2, 0),
    ("elan", 8): (8, 6, 4, 2, 0),
    ("elan_t", 2): (2, 1, 0),
    ("elan_h", 4): (4, 3, 2, 1, 0),
    ("elan_h", 6): (6, 5, 4, 3, 2, 1, 0),
}


@pytest.mark.parametrize(("kind", "units"), JOINED)
def test_wiring_of_the_chain(kind, units):
    block = build(kind, 10, units, 4)
    assert isinstance(block, ELAN) and len(block.chain) == units
    x = torch.randn(2, 6, 5, 7)
    skip, *maps = chain_of(block, x)
    joined = torch.cat([*(maps[i] for i in JOINED[kind, units]), skip], dim=1)
    assert torch.equal(block(x), block.output(joined))
    assert block(x).shape == (2, 10, 5, 7)


@pytest.mark.parametrize(
    ("kind", "inside", "chain", "own"),
    [("elan", 4, 4, 6), ("elan_t", 4, 4, 6), ("elan_h", 8, 4, 6)],  # own: of width 8, hidden 6
)
def test_widths_inside(kind, inside, chain, own):
    """Half the width of the block, that of ELAN-H the whole width and its chain half of it; or what
    the row says."""
    block = build(kind, 8)
    convs = (block.entry, block.skip, *block.chain)
    widths = [conv.conv.out_channels for conv in convs]
    assert widths == [inside, inside, *[chain] * 4]
    assert build(kind, 8, 4, own).entry.conv.out_channels == own


@pytest.mark.parametrize(("kind", "units"), JOINED)
def test_the_forecast_of_the_concatenation_is_its_width(kind, units):
    block = build(kind, 10, units, 8)
    forecast = BLOCKS.traits_of(kind).concatenated(units)
    assert block.output.conv.in_channels == 8 * forecast
    assert BLOCKS.traits_of(f"e_{kind}") == BLOCKS.traits_of(kind)


@pytest.mark.parametrize("kind", ["elan", "elan_h", "elan_t"])
def test_the_extended_form_is_a_sum_and_its_tap_the_second_block(kind):
    block = build(f"e_{kind}", 10, 4, 4)
    assert isinstance(block, EELAN)
    assert all(type(part) is ELAN for part in (block.first, block.second))
    x = torch.randn(2, 6, 5, 7)
    first, second = block.first(x), block.second(x)
    assert not torch.equal(first, second)
    total, tap = block.forward_parts(x)
    assert torch.equal(tap, second)  # before the addition
    assert torch.equal(total, first + second) and torch.equal(block(x), total)


def test_the_sum_takes_any_two_blocks():
    block = EELAN(torch.nn.Identity(), torch.nn.ReLU())
    assert block(torch.tensor([-1.0, 2.0])).tolist() == [-1, 4]


@pytest.mark.parametrize("kind", ["elan", "e_elan_h"])
def test_gradients_reach_every_parameter(kind):
    block = build(kind).train()
    output = block(torch.randn(2, 6, 5, 7))
    (output * torch.randn_like(output)).sum().backward()
    assert all(p.grad.any() for p in block.parameters())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ((10, 4, "elan", 4, 4), r"stages is \[10, 4, 'elan', 4, 4\].*takes"),
        ((10, 4, "elan_x"), r"'elan_x'.*with a kind of.*'elan', 'elan_h', 'elan_t'"),
        ((10, 4.5, "elan"), r"\[10, 4\.5, 'elan'\]"),
    ],
)
def test_arguments_that_do_not_fit_are_named(spec, message):
    with pytest.raises(ValueError, match=message):
        build_block(spec, 6, form=FORM_V7, key="stages")
