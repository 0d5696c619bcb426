"""Mosaic of four: who lies where, borders, fill and labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolor_d2.data.augment import FILL, Sample
from yolor_d2.data.mosaic import mosaic4

PROPERTY = settings(max_examples=50, deadline=None, database=None, derandomize=True)


class FixedCentre:
    """Stands in for a generator: the samples meet in the given point."""

    def __init__(self, x: int, y: int):
        self.centre = np.array([x, y])

    def integers(self, low, high, size, endpoint):
        assert (size, endpoint) == (2, True)
        assert (low <= self.centre).all() and (self.centre <= high).all()
        return self.centre


def plain(value: int, height: int, width: int, label: int | None = None) -> Sample:
    """An image of one colour, with a box around all of it."""
    boxes = np.array([[0.0, 0.0, width, height]])
    labels = np.array([value if label is None else label])
    return Sample(np.full((height, width, 3), value, np.uint8), boxes, labels)


def join(samples, x, y, size=4) -> Sample:
    return mosaic4(samples, size, FixedCentre(x, y))


def test_four_squares_meet_in_the_centre():
    joined = join([plain(i, 4, 4) for i in (1, 2, 3, 4)], 4, 4)
    rows = [[1] * 4 + [2] * 4] * 4 + [[3] * 4 + [4] * 4] * 4
    assert joined.image[:, :, 0].tolist() == rows
    assert joined.image.shape == (8, 8, 3) and joined.image.dtype == np.uint8
    assert joined.boxes.tolist() == [[0, 0, 4, 4], [4, 0, 8, 4], [0, 4, 4, 8], [4, 4, 8, 8]]
    assert joined.labels.tolist() == [1, 2, 3, 4]


def test_samples_touch_the_centre_and_grey_fills_the_rest():
    joined = join([plain(1, 2, 3), plain(2, 1, 2), plain(3, 3, 1), plain(4, 2, 2)], 4, 3)
    f = FILL
    assert joined.image[:, :, 0].tolist() == [
        [f, f, f, f, f, f, f, f],
        [f, 1, 1, 1, f, f, f, f],  # 2 high, 3 wide, its lower right corner in (4, 3)
        [f, 1, 1, 1, 2, 2, f, f],
        [f, f, f, 3, 4, 4, f, f],
        [f, f, f, 3, 4, 4, f, f],
        [f, f, f, 3, f, f, f, f],
        [f, f, f, f, f, f, f, f],
        [f, f, f, f, f, f, f, f],
    ]
    assert f == 114
    assert joined.boxes.tolist() == [[1, 1, 4, 3], [4, 2, 6, 3], [3, 3, 4, 6], [4, 3, 6, 5]]


def test_what_leaves_the_canvas_is_cut():
    # In the corner (2, 6) of the inner half: 0 loses two columns on the left, 3 two rows below.
    joined = join([plain(i, 4, 4) for i in (1, 2, 3, 4)], 2, 6)
    assert joined.boxes.tolist() == [[0, 2, 2, 6], [2, 2, 6, 6], [0, 6, 2, 8], [2, 6, 6, 8]]
    assert joined.image[5, :, 0].tolist() == [1, 1, 2, 2, 2, 2, FILL, FILL]
    assert joined.image[7, :, 0].tolist() == [3, 3, 4, 4, 4, 4, FILL, FILL]


def test_the_part_next_to_the_centre_is_the_one_that_stays():
    columns = Sample(
        np.broadcast_to(np.arange(4, dtype=np.uint8)[None, :, None], (4, 4, 3)),
        np.array([[0.0, 0, 1, 4], [1.5, 0, 4, 4]]),
        np.array([7, 8]),
    )
    joined = join([columns, plain(9, 4, 4), plain(9, 4, 4), plain(9, 4, 4)], 2, 4)
    assert joined.image[0, :2, 0].tolist() == [2, 3]
    # The first box is gone but for an empty rest, which the affine map drops afterwards.
    assert joined.boxes[:2].tolist() == [[0, 0, 0, 4], [0, 0, 2, 4]]
    assert joined.labels[:2].tolist() == [7, 8]


def test_labels_follow_their_boxes():
    two = Sample(np.zeros((2, 2, 3), np.uint8), np.array([[0.0, 0, 1, 1], [1, 1, 2, 2]]), [5, 6])
    none = Sample(np.zeros((2, 2, 3), np.uint8), np.zeros((0, 4)), np.zeros(0, np.int64))
    joined = join([none, two, plain(0, 2, 2, label=9), none], 4, 4)
    assert joined.labels.tolist() == [5, 6, 9]
    assert joined.boxes.tolist() == [[4, 2, 5, 3], [5, 3, 6, 4], [2, 4, 4, 6]]


def test_no_boxes_at_all():
    none = Sample(np.zeros((2, 2, 3), np.uint8), np.zeros((0, 4)), np.zeros(0, np.int64))
    joined = join([none] * 4, 4, 4)
    assert joined.boxes.shape == (0, 4)
    assert joined.labels.shape == (0,) and joined.labels.dtype == np.int64


def test_inputs_stay_as_they_are():
    sample = plain(1, 4, 4)
    join([sample] * 4, 2, 2)
    assert sample.boxes.tolist() == [[0, 0, 4, 4]]
    assert (sample.image == 1).all()


def test_the_centre_reaches_both_ends_of_the_inner_half():
    rng = np.random.default_rng(0)
    corners = [mosaic4([plain(1, 1, 1)] * 4, 4, rng).boxes[3, :2] for _ in range(200)]
    assert np.min(corners, axis=0).tolist() == [2, 2]
    assert np.max(corners, axis=0).tolist() == [6, 6]


@PROPERTY
@given(st.integers(0, 2**31), st.integers(2, 21), st.data())
def test_boxes_bound_what_is_drawn(seed, size, data):
    """Each sample is one colour with a box around it: the box in the mosaic is that of its pixels.

    Nothing is interpolated, so they agree exactly.
    """
    sides = data.draw(st.lists(st.integers(1, size), min_size=8, max_size=8))
    samples = [plain(i + 1, sides[2 * i], sides[2 * i + 1]) for i in range(4)]
    joined = mosaic4(samples, size, np.random.default_rng(seed))
    assert joined.image.shape == (2 * size, 2 * size, 3)
    for label, box in zip(joined.labels, joined.boxes):
        rows, columns = np.nonzero(joined.image[:, :, 0] == label)
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert box.tolist() == expected


@pytest.mark.parametrize("seed", [0, 1])
def test_chance_comes_from_the_generator(seed):
    samples = [plain(i, 8, 8) for i in range(4)]
    first, again = (mosaic4(samples, 8, np.random.default_rng(seed)) for _ in range(2))
    np.testing.assert_array_equal(first.image, again.image)
    other = mosaic4(samples, 8, np.random.default_rng(seed + 10))
    assert (other.boxes != first.boxes).any()
