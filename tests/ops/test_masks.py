"""Masks of detections: drawn by another way, moved, flipped, joined, and as run lengths."""

import numpy as np
import pycocotools.mask
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from yolor_d2.ops.masks import BoxMasks, MaskPiece

SIZE = (12, 17)
SETTINGS = settings(max_examples=40, deadline=None)


def piece(seed, size=SIZE):
    """With a box anywhere, also beyond the image or of a pixel, inside its window."""
    rng = np.random.default_rng(seed)
    left, top = rng.uniform(-4, size[1]), rng.uniform(-4, size[0])
    width, height = rng.choice([0.4, 1.0, 3.0, 9.5, 30.0], 2)
    box = (left, top, left + width, top + height)
    h, w = rng.integers(1, 6, 2)
    logits = torch.from_numpy(rng.normal(size=(h, w))).float()
    grow = rng.uniform(0, 2, 4)
    window = tuple(float(x) for x in np.array(box) + grow * [-1, -1, 1, 1])
    return MaskPiece(logits, window, tuple(map(float, box)))


def masks_of(seed, count=3, size=SIZE):
    rng = np.random.default_rng(seed)
    seeds = rng.integers(0, 2**31, (count, 3)).tolist()
    return BoxMasks([[piece(x, size) for x in row[: rng.integers(0, 4)]] for row in seeds], size)


def drawn(part, size):
    """By PyTorch's own interpolation."""
    height, width = size
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    (left, top, right, bottom), (x1, y1, x2, y2) = part.window, part.box
    places = torch.stack([(x - left) / (right - left), (y - top) / (bottom - top)], dim=2) * 2 - 1
    values = F.grid_sample(
        part.logits[None, None], places[None], padding_mode="border", align_corners=False
    )[0, 0]
    return values.masked_fill(~((x >= x1) & (x < x2) & (y >= y1) & (y < y2)), -1.0)


def assert_agree(found, values):
    clear = values.abs() > 1e-4  # at 0 rounding decides
    assert torch.equal(found[clear], values[clear] > 0)


@SETTINGS
@given(st.integers(0, 2**31))
def test_a_mask_is_the_interpolated_map_within_its_box(seed):
    one = piece(seed)
    assert_agree(BoxMasks([[one]], SIZE)[0], drawn(one, SIZE))


@pytest.mark.heavy
@SETTINGS
@given(st.integers(0, 2**31))
def test_all_ways_to_draw_are_one(seed):
    masks = masks_of(seed)
    dense = masks.tensor
    assert dense.shape == masks.shape == (3, *SIZE) and dense.dtype == torch.bool
    assert np.array_equal(np.asarray(masks), dense.numpy())
    assert np.asarray(masks, dtype=np.uint8).dtype == np.uint8
    for i, one in enumerate(masks):
        assert torch.equal(one, dense[i]) and torch.equal(masks[i], dense[i])
        parts = [drawn(x, SIZE) for x in masks.pieces[i]]
        if parts:  # inside any of them
            assert_agree(one, torch.stack(parts).amax(dim=0))
        else:
            assert not one.any()
    for item in (slice(1, None), [2, 0], torch.tensor([1]), np.array([True, False, True])):
        chosen = torch.from_numpy(
            np.arange(3)[np.asarray(item) if not isinstance(item, slice) else item]
        )
        assert torch.equal(masks[item].tensor, dense[chosen])
    assert torch.equal(BoxMasks.cat([masks, masks[1:]]).tensor, torch.cat([dense, dense[1:]]))
    joined = masks.union([[0, 2], [], [1]]).tensor
    assert torch.equal(joined, torch.stack([dense[0] | dense[2], dense[0] & False, dense[1]]))


@SETTINGS
@given(st.integers(0, 2**31), st.sampled_from([SIZE, (1, 1), (1, 9), (9, 1), (5, 4)]))
def test_run_lengths_are_those_of_pycocotools(seed, size):
    masks = masks_of(seed, 4, size)
    for mask, runs in zip(masks, masks.rle()):
        expected = pycocotools.mask.encode(np.asfortranarray(mask.numpy(), dtype=np.uint8))
        assert runs == {"size": list(size), "counts": expected["counts"].decode()}


@pytest.mark.parametrize(
    "box", [(0.0, 0.0, 17.0, 12.0), (3.0, 0.0, 5.0, 12.0), (0.0, 2.0, 1.0, 3.0)]
)
def test_run_lengths_of_filled_columns_go_on_in_the_next_one(box):
    masks = BoxMasks([[MaskPiece(torch.ones(1, 1), box, box)]], SIZE)
    expected = pycocotools.mask.encode(np.asfortranarray(masks[0].numpy(), dtype=np.uint8))
    assert masks.rle()[0]["counts"] == expected["counts"].decode()
    assert masks[0].sum() == (box[2] - box[0]) * (box[3] - box[1])


@SETTINGS
@given(st.integers(0, 2**31))
def test_flipped_twice_is_the_same_and_once_is_the_mirror(seed):
    masks = masks_of(seed)
    flipped = masks.flip()
    for mask, parts in zip(flipped, masks.pieces):
        # A pixel whose centre lies on the border of a box may change sides by rounding.
        if parts and all(abs(x.box[k] % 1 - 0.5) > 1e-3 for x in parts for k in (0, 2)):
            assert_agree(mask, torch.stack([drawn(x, SIZE).flip(1) for x in parts]).amax(dim=0))
    for one, other in zip(masks.pieces, flipped.flip().pieces):
        for a, b in zip(one, other):
            assert a.window == pytest.approx(b.window) and torch.equal(a.logits, b.logits)


@SETTINGS
@given(st.integers(0, 2**31), st.integers(-9, 9), st.integers(-9, 9))
def test_moved_by_whole_pixels_the_mask_moves(seed, x, y):
    masks = masks_of(seed)
    size = (40, 40)
    here = masks.move((1.0, 1.0), (10.0, 10.0), size).tensor
    there = masks.move((1.0, 1.0), (10.0 + x, 10.0 + y), size).tensor
    # Of what lies in both images, up to pixels on the border of a box by rounding.
    moved = here.roll((y, x), dims=(1, 2))
    inner = (slice(None), slice(10, 30), slice(10, 30))
    assert (moved[inner] != there[inner]).sum() <= 2


def test_enlarged_by_two_every_pixel_is_four():
    box = (2.0, 1.0, 6.0, 4.0)
    one = BoxMasks([[MaskPiece(torch.ones(2, 2), box, box)]], SIZE)
    large = one.move((2.0, 2.0), (0.0, 0.0), (24, 34)).tensor
    assert torch.equal(large, one.tensor.repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_pieces_may_be_made_when_they_are_needed():
    calls = []

    def make():
        calls.append(1)
        return [[piece(1)], [piece(2)]]

    masks = BoxMasks(make, SIZE, 2)
    assert len(masks) == 2 and masks.shape == (2, *SIZE) and not calls
    assert masks.to("cpu") is masks and "2" in repr(masks) and not calls
    assert torch.equal(masks.tensor, BoxMasks(make(), SIZE).tensor)
    assert torch.equal(masks[1:].tensor, masks.tensor[1:]) and len(calls) == 2


def test_nothing_at_all():
    none = BoxMasks([], SIZE)
    assert none.tensor.shape == (0, *SIZE) and none.rle() == [] and list(none) == []
