"""Every block against numbers recorded from the reference implementation, in double precision."""

from dataclasses import replace

import golden_records
import pytest
import torch
from torch import nn

from yolor_d2.layers import (
    C3,
    CSPSPP,
    FORM_D,
    FORM_V7,
    FORM_Y,
    MP,
    SPP,
    SPPCSPC,
    SPPT,
    ConvNormAct,
    CSPDownsample,
    CSPNeckBlock,
    CSPStage,
    Focus,
    HaarTransform,
    RepConv,
    SpaceToDepth,
    build_block,
    build_implicit,
)
from yolor_d2.layers.fuse import fuse_for_inference


def after_conv(channels: int, block: nn.Module) -> nn.Module:
    """The records of form D have one 1x1 convolution before the block."""
    return nn.Sequential(ConvNormAct(3, channels, 1, form=FORM_D), block)


def elan(kind: str, num_convs: int, form=FORM_V7) -> nn.Module:
    return build_block((20, num_convs, kind, 8), 12, form=form, key="")[0]


class DownAndJoin(nn.Sequential):
    """`MP` on the bottom-up path of YOLOv7's neck, joined with a map of the top-down path."""

    def __init__(self):
        super().__init__(ConvNormAct(12, 5, 1, 2, form=FORM_V7), MP(12, 24, form=FORM_V7))

    def forward(self, x):
        return torch.cat([self[1](x), self[0](x)], dim=1)


FORM_TINY = replace(FORM_V7, activation="leaky_relu")
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
    "v7_elan4": lambda: elan("elan", 4),
    "v7_elan6": lambda: elan("elan", 6),
    "v7_elan8": lambda: elan("elan", 8),
    "v7_elan2_tiny": lambda: elan("elan_t", 2, FORM_TINY),
    "v7_elanh4": lambda: elan("elan_h", 4),
    "v7_elanh6": lambda: elan("elan_h", 6),
    "v7_elanh8": lambda: elan("elan_h", 8),
    "v7_eelan6": lambda: elan("e_elan", 6),
    "v7_eelanh6": lambda: elan("e_elan_h", 6),
    "v7_mp": lambda: MP(12, 12, form=FORM_V7),
    "v7_mp_pan": DownAndJoin,
    "v7_spp_tiny": lambda: SPPT(12, 8, form=FORM_TINY),
    "v7_sppcspc_b": lambda: SPPCSPC(14, 10, form=FORM_V7),
    "v7_downc": lambda: CSPDownsample(12, 20, form=FORM_V7),
    "v7_repconv": lambda: RepConv(10, 14, form=FORM_V7),
    "v5_c3": lambda: C3(12, 16, 2, form=FORM_V7),
    "v5_c3_plain": lambda: C3(12, 16, 2, shortcut=False, form=FORM_V7),
    "v5_spp": lambda: SPP(16, 16, form=FORM_V7),
    "v5_spp_p6": lambda: SPP(16, 16, (3, 5, 7), form=FORM_V7),
    "v5_focus": lambda: Focus(3, 8, form=FORM_V7),
}


@pytest.fixture(scope="module")
def record():
    info, arrays = golden_records.load_record("blocks")
    for name in ("blocks_v7", "blocks_v5"):
        more_info, more_arrays = golden_records.load_record(name)
        info |= {case: value for case, value in more_info.items() if case.startswith("v")}
        arrays |= {key.removesuffix("/out"): value for key, value in more_arrays.items()}
    return info, arrays


def recorded_block(case, record):
    """The block with the recorded weights, in double precision, and the record's input."""
    info = record[0][case]
    block = BLOCKS[case]()
    block.load_state_dict(golden_records.block_state(case, info["keys"], block))
    x = torch.from_numpy(4 * golden_records.uniform(f"{case}:x", *info["input"]) - 2)
    return block.double().eval(), x.float().double()  # the record's input was rounded to float32


@pytest.mark.parametrize("case", BLOCKS)
@torch.no_grad()
def test_block_equals_the_record(case, record):
    block, x = recorded_block(case, record)
    expected = torch.from_numpy(record[1][case]).double()
    for form in (fuse_for_inference(block), block):  # an activation alone works in place
        torch.testing.assert_close(form(x.clone()), expected, atol=1e-5, rtol=0)


def test_no_recorded_block_is_left_out(record):
    heads = {"v7_iaux"}  # tests/networks/test_golden_head.py
    assert set(record[0]) == set(BLOCKS) | heads


def test_merged_branches_equal_the_record(record):
    block, _ = recorded_block("v7_repconv", record)
    conv = fuse_for_inference(block)[0]
    for name in ("weight", "bias"):
        expected = torch.from_numpy(record[1][f"v7_repconv/fused_{name}"]).double()
        torch.testing.assert_close(getattr(conv, name), expected, atol=1e-6, rtol=0)


def test_uniform_numbers_follow_the_rule():
    # The first outputs of Philox under the key crc32("abc") = 891568578, as the records state them.
    expected = [0.4141009239224176, 0.8296929443073698, 0.6421243484283939]
    assert golden_records.uniform("abc", 3).tolist() == expected
