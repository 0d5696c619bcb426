"""Augmentations: hand-made cases, and for all of them that boxes follow what they surround."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rectangles import assert_box_bounds_red, red_rectangles, sample_of

from yolor_d2.data.augmentation.image import (
    clip_boxes,
    flip_horizontal,
    flip_vertical,
    mixup,
    paste,
    random_hsv,
    resize_longer_side,
    resized_size,
)

PROPERTY = settings(max_examples=100, deadline=None, database=None, derandomize=True)
SEEDS = st.integers(0, 2**31)


# ---- resize


@pytest.mark.parametrize(
    "height, width, size, expected",
    [
        (40, 80, 40, (20, 40)),
        (80, 40, 160, (160, 80)),
        (1, 1, 64, (64, 64)),
        (20, 10000, 64, (1, 64)),  # 20 * 64 / 10000 == 0.128, but no side vanishes
        (10000, 20, 64, (64, 1)),
        (3, 8, 4, (2, 4)),  # 1.5 rounds up
    ],
)
def test_sizes_after_resize(height, width, size, expected):
    assert resized_size(height, width, size) == expected
    resized = resize_longer_side(np.zeros((height, width, 3), np.uint8), size)
    assert resized.shape == (*expected, 3)
    assert resized.dtype == np.uint8


def test_nothing_to_resize():
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_longer_side(image, 64), image)


def test_shrinking_averages():
    """To a quarter: all 16 pixels count, not only the four in the middle."""
    sample = sample_of(4, 8)
    sample.image[0, 0] = 160
    sample.image[3, 4:] = [40, 80, 120]
    # 160 / 16, and a row of four in 16 pixels.
    assert resize_longer_side(sample.image, 2).tolist() == [[[10, 10, 10], [10, 20, 30]]]


# ---- paste


@pytest.mark.parametrize(
    "left, top, rows",
    [
        (1, 1, ["....", ".ab.", ".cd."]),
        (-1, -1, ["d...", "....", "...."]),
        (3, 2, ["....", "....", "...a"]),
        (-1, 1, ["....", "b...", "d..."]),
        (4, 0, ["....", "....", "...."]),  # just outside, on each side
        (-2, 0, ["....", "....", "...."]),
        (0, 3, ["....", "....", "...."]),
        (0, -2, ["....", "....", "...."]),
        (-50, 70, ["....", "....", "...."]),
    ],
)
def test_paste(left, top, rows):
    canvas = np.full((3, 4), ord("."), np.uint8)
    paste(canvas, np.array([[ord("a"), ord("b")], [ord("c"), ord("d")]], np.uint8), left, top)
    assert ["".join(map(chr, row)) for row in canvas] == rows


def test_paste_cuts_an_image_larger_than_the_canvas():
    canvas = np.zeros((2, 2), np.uint8)
    paste(canvas, np.arange(16, dtype=np.uint8).reshape(4, 4), -1, -1)
    assert canvas.tolist() == [[5, 6], [9, 10]]


def test_clip_boxes():
    boxes = np.array([[-5.0, -1, 3, 4], [1, 2, 30, 40], [12, 2, 15, 4]])
    # Height 8, width 10; the last box lies outside and keeps no width.
    assert clip_boxes(boxes, 8, 10).tolist() == [[0, 0, 3, 4], [1, 2, 10, 8], [10, 2, 10, 4]]
    assert clip_boxes(np.zeros((0, 4)), 8, 10).shape == (0, 4)


# ---- colour


class Fixed:
    """Stands in for a generator: `uniform` returns the given numbers."""

    def __init__(self, *numbers: float):
        self.numbers = np.array(numbers)

    def uniform(self, low, high, size):
        assert (low, high, size) == (-1, 1, len(self.numbers))
        return self.numbers


def one_pixel_hsv(colour, rng, gains) -> list[int]:
    return random_hsv(np.array([[colour]], np.uint8), rng, gains)[0, 0].tolist()


@pytest.mark.parametrize(
    "colour, expected",
    [
        ((255, 0, 0), [255, 0, 0]),  # red: 0 degrees
        ((0, 255, 0), [0, 255, 255]),  # green: 120 * 1.5 == 180 degrees, cyan
        ((0, 0, 255), [255, 0, 0]),  # blue: 240 * 1.5 == 360 degrees, red again
        # 350 * 1.5 == 525 == 360 + 165 degrees: green with 45 / 60 of blue.
        ((255, 0, 42), [0, 255, 191]),
        ((90, 90, 90), [90, 90, 90]),  # grey has no hue
    ],
)
def test_hue_turns_as_in_rgb(colour, expected):
    changed = one_pixel_hsv(colour, Fixed(1, 1, 1), (0.5, 0, 0))
    assert changed == pytest.approx(expected, abs=5)  # a degree is 255 / 60 levels


def test_saturation():
    # Saturation 255 * (200 - 100) / 200 == 127.5; half of it leaves 200 * (1 - 0.25) == 150.
    assert one_pixel_hsv((200, 100, 100), Fixed(0, -0.5, 0), (0, 1, 0)) == pytest.approx(
        [200, 150, 150], abs=2
    )
    assert one_pixel_hsv((200, 100, 100), Fixed(0, -1, 0), (0, 1, 0)) == [200, 200, 200]
    # Four times as much saturates: it stops at the pure colour.
    assert one_pixel_hsv((200, 100, 100), Fixed(0, 1, 0), (0, 3, 0)) == [200, 0, 0]


def test_value():
    assert one_pixel_hsv((200, 200, 200), Fixed(0, 0, -1), (0, 0, 0.5)) == [100, 100, 100]
    # 200 * 1.5 == 300 stops at white and does not wrap to 44.
    assert one_pixel_hsv((200, 200, 200), Fixed(0, 0, 1), (0, 0, 0.5)) == [255, 255, 255]


@PROPERTY
@given(SEEDS, st.integers(1, 9), st.integers(1, 9))
def test_zero_gains_change_nothing_but_rounding(seed, height, width):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = image.copy()
    changed = random_hsv(image, rng, (0, 0, 0))
    assert changed.shape == image.shape and changed.dtype == np.uint8
    np.testing.assert_array_equal(image, before)
    # A step of the 8-bit hue is 2 degrees, up to 255 / 30 levels; half of it, and a level or so.
    assert np.abs(changed.astype(int) - image).max() <= 5


@PROPERTY
@given(SEEDS)
def test_red_stays_red_under_small_gains(seed):
    red, green, blue = one_pixel_hsv((200, 40, 30), np.random.default_rng(seed), (0.015, 0.3, 0.3))
    assert red > 130 and max(green, blue) < red - 60


# ---- flip


def test_flip_by_hand():
    sample = sample_of(2, 3, (0, 0, 1, 2), (0.5, 1, 3, 1.5))
    sample.image[0, :, 0] = [1, 2, 3]
    flipped = flip_horizontal(sample)
    assert flipped.image[0, :, 0].tolist() == [3, 2, 1]
    assert flipped.boxes.tolist() == [[2, 0, 3, 2], [0, 1, 2.5, 1.5]]  # 3 - 1, 3 - 0 and so on
    assert flipped.labels.tolist() == [0, 1]


@PROPERTY
@given(red_rectangles())
def test_flip_twice_is_the_identity(sample):
    flipped = flip_horizontal(sample)
    assert_box_bounds_red(flipped, tolerance=0)
    again = flip_horizontal(flipped)
    np.testing.assert_array_equal(again.image, sample.image)
    np.testing.assert_array_equal(again.boxes, sample.boxes)


def test_flip_without_boxes():
    assert flip_horizontal(sample_of(4, 4)).boxes.shape == (0, 4)


def test_vertical_flip_by_hand():
    sample = sample_of(3, 2, (0, 0, 2, 1), (1, 0.5, 1.5, 3))
    sample.image[:, 0, 0] = [1, 2, 3]
    flipped = flip_vertical(sample)
    assert flipped.image[:, 0, 0].tolist() == [3, 2, 1]
    assert flipped.boxes.tolist() == [[0, 2, 2, 3], [1, 0, 1.5, 2.5]]  # 3 - 1, 3 - 0 and so on
    assert flipped.labels.tolist() == [0, 1]


@PROPERTY
@given(red_rectangles())
def test_vertical_flip_twice_is_the_identity(sample):
    flipped = flip_vertical(sample)
    assert_box_bounds_red(flipped, tolerance=0)
    again = flip_vertical(flipped)
    np.testing.assert_array_equal(again.image, sample.image)
    np.testing.assert_array_equal(again.boxes, sample.boxes)


# ---- mixup


def test_mixup_by_hand():
    first, second = sample_of(2, 2, (0, 0, 1, 1)), sample_of(2, 2, (0, 1, 2, 2), (1, 0, 2, 2))
    first.image[:], second.image[:] = 200, 100
    mixed = mixup(first, second, 0.3)
    assert (mixed.image == 130).all()  # 0.3 * 200 + 0.7 * 100
    assert mixed.boxes.tolist() == [[0, 0, 1, 1], [0, 1, 2, 2], [1, 0, 2, 2]]
    assert mixed.labels.tolist() == [0, 0, 1]


def test_mixup_keeps_all_of_many_boxes():
    many = sample_of(4, 4, *[(0, 0, 1, 1)] * 300)
    assert len(mixup(many, many, 0.5).labels) == 600
    assert mixup(sample_of(2, 2), sample_of(2, 2), 0.5).boxes.shape == (0, 4)
