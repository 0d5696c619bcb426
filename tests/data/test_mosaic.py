"""Mosaics of four and nine: who lies where, and that nobody covers anybody."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolor_d2.data.augmentation.mosaic import mosaic4_corners, mosaic9_corners

PROPERTY = settings(max_examples=100, deadline=None, database=None, derandomize=True)
LAYOUTS = {4: mosaic4_corners, 9: mosaic9_corners}


class Fixed:
    """Stands in for a generator: the point is the given one."""

    def __init__(self, x: int, y: int):
        self.point = np.array([x, y])

    def integers(self, low, high, size, endpoint):
        assert (size, endpoint) == (2, True)
        assert (low <= self.point).all() and (self.point <= high).all()
        return self.point


def rectangles(corners, sizes) -> np.ndarray:
    """(N, 4) xyxy."""
    return np.concatenate([corners, corners + np.asarray(sizes)[:, ::-1]], axis=1)


def test_four_images_touch_the_centre():
    sizes = [(2, 3), (1, 2), (3, 1), (2, 2)]  # heights and widths
    corners = mosaic4_corners(np.array(sizes), 4, Fixed(4, 3))
    assert corners.tolist() == [[1, 1], [4, 2], [3, 3], [4, 3]]
    assert rectangles(corners, sizes).tolist() == [
        [1, 1, 4, 3],
        [4, 2, 6, 3],
        [3, 3, 4, 6],
        [4, 3, 6, 5],
    ]


def test_nine_squares_fill_the_canvas():
    """The window at (2, 3) of three times three squares of 4 pixels."""
    corners = mosaic9_corners(np.full((9, 2), 4), 4, Fixed(2, 3))
    columns, rows = (-2, 2, 6), (-3, 1, 5)  # 0, 4 and 8 minus the place of the window
    clockwise = [(1, 1), (1, 0), (2, 0), (2, 1), (2, 2), (1, 2), (0, 2), (0, 1), (0, 0)]
    assert corners.tolist() == [[columns[x], rows[y]] for x, y in clockwise]


def test_nine_images_by_hand():
    """Heights and widths differ; the middle image, 4 high and 6 wide, has its corner at (8, 8)."""
    sizes = [(4, 6), (3, 5), (2, 4), (7, 3), (1, 8), (5, 2), (6, 4), (2, 7), (3, 1)]
    corners = mosaic9_corners(np.array(sizes), 8, Fixed(0, 0))
    assert corners.tolist() == [
        [8, 8],
        [8, 5],  # on top of the middle one: 8 - 3
        [13, 6],  # to the right of the one before: 8 + 5; its lower edge at 8
        [14, 8],  # 8 + 6
        [14, 15],  # below the one before: 8 + 7
        [12, 12],  # its right edge at that of the middle one: 14 - 2; 8 + 4
        [8, 12],  # 12 - 4
        [1, 10],  # its lower edge at 12: 8 - 7, 12 - 2
        [7, 7],  # above the one before: 8 - 1, 10 - 3
    ]


@PROPERTY
@given(st.sampled_from([4, 9]), st.integers(2, 40), st.integers(0, 2**31), st.data())
def test_images_never_overlap(count, size, seed, data):
    side = st.integers(1, size)
    sizes = np.array(data.draw(st.lists(st.tuples(side, side), min_size=count, max_size=count)))
    boxes = rectangles(LAYOUTS[count](sizes, size, np.random.default_rng(seed)), sizes)
    for one, other in itertools.combinations(boxes, 2):
        overlap = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
        assert (overlap <= 0).any()
    np.testing.assert_array_equal(boxes[:, 2:] - boxes[:, :2], sizes[:, ::-1])
    # The first one, which the sample is about, is on the canvas.
    assert (boxes[0, :2] < 2 * size).all() and (boxes[0, 2:] > 0).all()


@pytest.mark.parametrize("count, low, high", [(4, 2, 6), (9, 0, 4)])
def test_the_random_point_reaches_both_ends_of_its_range(count, low, high):
    """That of four is where the last image begins; that of nine is taken from (4, 4)."""
    rng = np.random.default_rng(0)
    sizes = np.ones((count, 2), int)
    corners = np.array([LAYOUTS[count](sizes, 4, rng) for _ in range(200)])
    points = corners[:, 3] if count == 4 else 4 - corners[:, 0]
    assert points.min(axis=0).tolist() == [low, low]
    assert points.max(axis=0).tolist() == [high, high]


@pytest.mark.parametrize("count", [4, 9])
def test_chance_comes_from_the_generator(count):
    sizes = np.full((count, 2), 8)
    first, again, other = (
        LAYOUTS[count](sizes, 8, np.random.default_rng(seed)).tolist() for seed in (0, 0, 10)
    )
    assert first == again != other
