"""Every block against numbers recorded from the reference implementation, in double precision."""

from dataclasses import replace

import golden_records
import pytest
import torch
from torch import nn

from yolor_d2.layers import (
    CSPSPP,
    FORM_D,
    FORM_Y,
    ConvNormAct,
    CSPDownsample,
    CSPNeckBlock,
    CSPStage,
    HaarTransform,
    SpaceToDepth,
    build_implicit,
)


def after_conv(channels: int, block: nn.Module) -> nn.Module:
    """The records of form D have one 1x1 convolution before the block."""
    return nn.Sequential(ConvNormAct(3, channels, 1, form=FORM_D), block)


BLOCKS = {
    "Y_spp": lambda: CSPSPP(24, 16, form=FORM_Y),
    "Y_cspc": lambda: CSPStage(20, 32, 2, transition=True, form=FORM_Y),
    "Y_cspf": lambda: CSPStage(20, 32, 2, transition=False, form=FORM_Y),
    "Y_plain": lambda: CSPNeckBlock(40, 24, 2, form=FORM_Y),
    "Y_downc": lambda: CSPDownsample(20, 32, form=FORM_Y),
    "reorg": SpaceToDepth,
    "dwt": lambda: HaarTransform(3),
    "implicit_a": lambda: build_implicit("add", 10),
    "implicit_m": lambda: build_implicit("mul", 10),
    "D_cspf": lambda: after_conv(20, CSPStage(20, 32, 2, transition=False, form=FORM_D)),
    "D_cspc": lambda: after_conv(20, CSPStage(20, 32, 2, transition=True, form=FORM_D)),
    "D_plain": lambda: after_conv(40, CSPNeckBlock(40, 24, 2, form=FORM_D)),
    "D_spp": lambda: after_conv(24, CSPSPP(24, 16, form=FORM_D)),
    "mish": lambda: replace(FORM_Y, activation="mish").act(),
}


@pytest.fixture(scope="module")
def record():
    return golden_records.load_record("blocks")


@pytest.mark.parametrize("case", BLOCKS)
def test_block_equals_the_record(case, record):
    info, arrays = record
    block = BLOCKS[case]()
    block.load_state_dict(golden_records.block_state(case, info[case]["keys"], block))
    x = torch.from_numpy(4 * golden_records.uniform(f"{case}:x", *info[case]["input"]) - 2)
    x = x.float().double()  # the record's input was rounded to float32
    with torch.no_grad():
        output = block.double().eval()(x)
    expected = torch.from_numpy(arrays[case]).double()
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)


def test_no_recorded_block_is_left_out(record):
    assert set(record[0]) == set(BLOCKS)


def test_uniform_numbers_follow_the_rule():
    # The first outputs of Philox under the key crc32("abc") = 891568578, as the records state them.
    expected = [0.4141009239224176, 0.8296929443073698, 0.6421243484283939]
    assert golden_records.uniform("abc", 3).tolist() == expected
