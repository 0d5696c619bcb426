"""Decoding: one cell by hand, the order of the rows, and decode after encode."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolor_d2.ops import decode, decode_level, decode_passing, xyxy_to_cxcywh

PROPERTY = settings(max_examples=100, deadline=None, database=None, derandomize=True)


def test_one_cell_by_hand():
    logits = torch.full((1, 1, 2, 3, 6), -20.0)
    # sigmoid(0) = 0.5: the centre of the cell, the size of the anchor. sigmoid(ln 3) = 0.75.
    logits[0, 0, 1, 2] = torch.tensor([0.0, math.log(3), 0.0, math.log(3), 0.0, math.log(3)])
    rows = decode_level(logits, torch.tensor([[10.0, 20.0]]), stride=8)
    assert rows.shape == (1, 6, 6)
    # x: (2 * 0.5 - 0.5 + column 2) * 8 = 20      y: (2 * 0.75 - 0.5 + row 1) * 8 = 16
    # width: (2 * 0.5)^2 * 10 = 10                height: (2 * 0.75)^2 * 20 = 45
    expected = [20 - 5, 16 - 22.5, 20 + 5, 16 + 22.5, 0.5, 0.75]  # not clipped at 0
    assert rows[0, 5].tolist() == pytest.approx(expected, rel=1e-6)


def test_extreme_logits_reach_the_documented_range():
    logits = torch.full((1, 1, 1, 1, 6), 50.0)
    box = xyxy_to_cxcywh(decode_level(logits, torch.tensor([[10.0, 20.0]]), stride=8)[0, 0, :4])
    # Centre 1.5 cells from the corner, sizes four times the anchor.
    assert box.tolist() == pytest.approx([1.5 * 8, 1.5 * 8, 40, 80])


def test_rows_are_ordered_by_anchor_then_row_then_column():
    a, h, w = 2, 2, 3
    logits = torch.zeros(1, a, h, w, 6)
    logits[..., 4] = torch.arange(a * h * w, dtype=torch.float32).view(a, h, w)
    rows = decode_level(logits, torch.tensor([[1.0, 1.0], [3.0, 3.0]]), stride=1)[0]
    assert torch.equal(rows[:, 4], torch.arange(12.0).sigmoid())
    centres = (rows[:, :2] + rows[:, 2:4]) / 2
    assert centres[:4].tolist() == [[0.5, 0.5], [1.5, 0.5], [2.5, 0.5], [0.5, 1.5]]
    assert torch.equal(rows[:, 2] - rows[:, 0], torch.tensor([1.0] * 6 + [3.0] * 6))


def test_levels_are_joined_fine_to_coarse():
    levels = [torch.zeros(2, 1, 4, 4, 6), torch.zeros(2, 1, 2, 2, 6)]
    anchors = torch.tensor([[[4.0, 4.0]], [[8.0, 8.0]]])
    rows = decode(levels, anchors, [8, 16])
    assert rows.shape == (2, 16 + 4, 6)
    assert rows[0, 0, :4].tolist() == [2, 2, 6, 6]  # centre 4, size 4
    assert rows[0, 16, :4].tolist() == [4, 4, 12, 12]  # centre 8, size 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_decoded_in_float32(dtype):
    # Column 300 at stride 8 is 2404 pixels; float16 has steps of 2 there.
    logits = torch.zeros(1, 1, 1, 301, 6, dtype=dtype)
    rows = decode_level(logits, torch.tensor([[1.0, 1.0]]), stride=8)
    assert rows.dtype == torch.float32
    assert rows[0, 300, 0].item() == 300.5 * 8 - 0.5


def test_double_precision_stays():
    logits = torch.zeros(1, 1, 1, 1, 6, dtype=torch.float64)
    assert decode_level(logits, torch.ones(1, 2), stride=8).dtype == torch.float64


@PROPERTY
@given(
    column=st.integers(0, 39),
    row=st.integers(0, 39),
    offset=st.tuples(*[st.floats(-0.49, 1.49)] * 2),
    ratio=st.tuples(*[st.floats(0.01, 3.9)] * 2),
    stride=st.sampled_from([8, 16, 32, 64]),
)
def test_decode_after_encode_is_the_identity(column, row, offset, ratio, stride):
    anchor = torch.tensor([30.0, 70.0], dtype=torch.float64)
    offset, ratio = torch.tensor([offset, ratio], dtype=torch.float64)
    cell = torch.tensor([column, row], dtype=torch.float64)
    box = torch.cat([(cell + offset) * stride, ratio * anchor])
    # The inverse of decoding, from the formulas in the paper's notation.
    logits = torch.zeros(1, 1, 40, 40, 6, dtype=torch.float64)
    logits[0, 0, row, column, :2] = ((offset + 0.5) / 2).logit()
    logits[0, 0, row, column, 2:4] = (ratio.sqrt() / 2).logit()
    decoded = decode_level(logits, anchor[None], stride)[0, row * 40 + column, :4]
    torch.testing.assert_close(xyxy_to_cxcywh(decoded), box, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_passing_rows_are_those_of_all_rows(threshold):
    torch.manual_seed(0)
    anchors = torch.tensor([[[10.0, 13], [16, 30]], [[30.0, 61], [62, 45]]])
    levels = [torch.randn(2, 2, 4, 6, 7), torch.randn(2, 2, 2, 3, 7)]
    for image, everything in enumerate(decode(levels, anchors, [8, 16])):
        rows, numbers = decode_passing(levels, image, anchors, [8, 16], threshold)
        best = everything[:, 4] * everything[:, 5:].amax(dim=1)
        expected = ((everything[:, 4] > threshold) & (best > threshold)).nonzero()[:, 0]
        assert numbers.tolist() == expected.tolist()
        assert (0 < len(numbers) < len(everything)) or threshold in (0.0, 0.9, 1.0)
        torch.testing.assert_close(rows, everything[expected])


def test_a_row_with_one_class_that_is_no_number_passes():
    """Objectness and the other class are sure; see `ops.nms.select_candidates`."""
    level = torch.full((1, 1, 1, 2, 7), 8.0)
    level[..., 5] = torch.nan
    level[0, 0, 0, 1, 4] = -8.0
    rows, numbers = decode_passing([level], 0, torch.ones(1, 1, 2), [8], 0.5)
    assert numbers.tolist() == [0] and rows[0, 6] > 0.99
