"""Masks of the ground truth at stride 4."""

import numpy as np
import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.d2.structures import BitMasks, PolygonMasks
from yolor_d2.structures.mask_maps import mask_maps


def rectangle(x1, y1, x2, y2):
    return np.array([x1, y1, x2, y1, x2, y2, x1, y2], dtype=np.float64)


def draw(*objects, size=(8, 10), offset=(0, 0)):
    return mask_maps(PolygonMasks(list(objects)), len(objects), size, 4, offset).numpy()


def test_a_rectangle_on_cells_fills_them():
    (found,) = draw([rectangle(8, 4, 24, 16)])
    expected = np.zeros((8, 10))
    expected[1:4, 2:6] = 1
    assert np.array_equal(found, expected)
    assert np.array_equal(
        draw([rectangle(8, 4, 24, 16)], offset=(8, 4))[0][2:, 1:], found[:-2, :-1]
    )


def test_more_than_half_of_a_pixel_is_inside():
    (found,) = draw([rectangle(9.0, 5.0, 22.6, 14.9)])  # 3 of 4 rows and columns at the borders
    assert found[1:4, 2:6].all() and found.sum() == 12
    (found,) = draw([rectangle(11.0, 7.2, 21.0, 13.0)])
    assert found[2:3, 3:5].all() and found.sum() == 2


@pytest.mark.parametrize(
    "outline",
    [
        rectangle(13, 13, 14, 14),
        rectangle(15.9, 15.9, 16.1, 16.1),  # on four pixels
        rectangle(0, 9, 40, 9.3),  # a line
        np.array([5.0, 5.0, 5.0, 5.0, 5.0, 5.0]),
        rectangle(-3, -3, 1, 1),
        rectangle(38, 30, 60, 60),
    ],
)
def test_nothing_that_is_on_the_canvas_vanishes(outline):
    (found,) = draw([outline])
    assert 1 <= found.sum() <= 10
    y, x = (outline.reshape(-1, 2)[:, ::-1].mean(axis=0).clip(0, [31, 39]) // 4).astype(int)
    assert found[max(y - 1, 0) : y + 2, max(x - 5, 0) : x + 6].any()


def test_what_is_outside_and_what_has_no_polygon_stays_empty():
    assert not draw([rectangle(50, 50, 60, 60)], [rectangle(-9, 1, -5, 9)], []).any()
    assert draw().shape == (0, 8, 10)
    assert draw([rectangle(-1e9, -1e9, 1e9, 1e9)]).all()


def test_parts_are_joined_and_holes_stay():
    outer, other = rectangle(0, 0, 24, 24), rectangle(12, 12, 40, 32)
    assert np.array_equal(draw([outer, other])[0], draw([outer])[0] | draw([other])[0])
    # A hole that a cut of no width joins to the border around it.
    ring = [0, 0, 32, 0, 32, 32, 0, 32, 0, 0, 8, 8, 8, 24, 24, 24, 24, 8, 8, 8]
    (found,) = draw([np.array(ring, dtype=np.float64)])
    assert not found[2:6, 2:6].any() and found[:8, :8].sum() == 64 - 16


def test_pixels_and_polygons_agree():
    """Of discs anywhere: the fraction of pixels that differ is below a tenth of the border."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:61, :83] + 0.5
    turns = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    for _ in range(20):
        radius = rng.uniform(3, 30)
        cx, cy = rng.uniform(radius, 83 - radius), rng.uniform(radius, 61 - radius)
        pixels = (x - cx) ** 2 + (y - cy) ** 2 < radius**2
        outline = np.stack([cx + radius * np.cos(turns), cy + radius * np.sin(turns)], axis=1)
        offset = tuple(rng.integers(0, 9, 2).tolist())
        given = ((18, 24), 4, offset)
        one = mask_maps(PolygonMasks([[outline.ravel()]]), 1, *given)[0]
        masks = torch.from_numpy(pixels[None])
        two = mask_maps(BitMasks(masks), 1, *given)[0]
        assert torch.equal(two, mask_maps(masks, 1, *given)[0])
        assert (one != two).sum() <= 0.1 * 2 * np.pi * radius + 1
        assert abs(int(two.sum()) - pixels.sum() / 16) <= 0.2 * radius + 1


def test_another_kind_is_refused():
    with pytest.raises(TypeError, match=r"'gt_masks' are list, expected PolygonMasks"):
        mask_maps([1], 1, (4, 4), 4, (0, 0))
