"""Augmentations: hand-made cases, and for all of them that boxes follow what they surround."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolor_d2.data.augment import (
    FILL,
    Sample,
    clip_boxes,
    flip_horizontal,
    pad_to_square,
    paste,
    random_affine_matrix,
    random_hsv,
    resize_longer_side,
    warp_affine,
)
from yolor_d2.data.mosaic import mosaic4

PROPERTY = settings(max_examples=100, deadline=None, database=None, derandomize=True)
IDENTITY = np.array([[1.0, 0, 0], [0, 1, 0]])
SEEDS = st.integers(0, 2**31)


def sample_of(height, width, *boxes) -> Sample:
    """A black image with boxes, of classes 0, 1, 2, ..."""
    image = np.zeros((height, width, 3), np.uint8)
    return Sample(image, np.array(boxes, float).reshape(-1, 4), np.arange(len(boxes)))


@st.composite
def red_rectangles(draw, longest=80, shortest=16, least=5) -> Sample:
    """A red rectangle on black and its box; sides of the rectangle are at least `least` pixels."""
    height, width = draw(st.integers(shortest, longest)), draw(st.integers(shortest, longest))
    x1, y1 = draw(st.integers(0, width - least)), draw(st.integers(0, height - least))
    x2, y2 = draw(st.integers(x1 + least, width)), draw(st.integers(y1 + least, height))
    sample = sample_of(height, width, (x1, y1, x2, y2))
    sample.image[y1:y2, x1:x2, 0] = 255
    return sample


def assert_box_bounds_red(sample: Sample, tolerance: float) -> None:
    """The only box is that of the red pixels: red over both black and grey by more than a half."""
    red = sample.image[:, :, 0].astype(int) - sample.image[:, :, 1] > 127
    rows, columns = np.nonzero(red)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(sample.boxes, [found], rtol=0, atol=tolerance)


# ---- resize


def test_integer_boxes_are_not_truncated():
    """x, y, width, height of (10, 10, 31, 31) are corners (10, 10, 41, 41); 41 * 1.53 == 62.73."""
    image = np.zeros((100, 100, 3), np.uint8)
    boxes = np.array([[10, 10, 41, 41]])  # integers on purpose
    resized = resize_longer_side(Sample(image, boxes, np.array([0])), 153)
    assert resized.image.shape == (153, 153, 3)
    np.testing.assert_allclose(resized.boxes, [[15.3, 15.3, 62.73, 62.73]], rtol=1e-12)


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
    resized = resize_longer_side(sample_of(height, width, (0, 0, width, height)), size)
    assert resized.image.shape == (*expected, 3)
    assert resized.image.dtype == np.uint8
    # A box around the whole image stays one, whatever the rounding of its sides.
    np.testing.assert_allclose(resized.boxes, [[0, 0, expected[1], expected[0]]], rtol=1e-12)


def test_nothing_to_resize():
    sample = sample_of(32, 64, (1, 2, 3, 4))
    resized = resize_longer_side(sample, 64)
    np.testing.assert_array_equal(resized.image, sample.image)
    assert resized.boxes.tolist() == [[1, 2, 3, 4]]


def test_shrinking_averages():
    """To a quarter: all 16 pixels count, not only the four in the middle."""
    sample = sample_of(4, 8)
    sample.image[0, 0] = 160
    sample.image[3, 4:] = [40, 80, 120]
    # 160 / 16, and a row of four in 16 pixels.
    assert resize_longer_side(sample, 2).image.tolist() == [[[10, 10, 10], [10, 20, 30]]]


@PROPERTY
@given(red_rectangles(), st.integers(48, 120))
def test_box_follows_resize(sample, size):
    assert_box_bounds_red(resize_longer_side(sample, size), tolerance=0.6)


# ---- paste and pad_to_square


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


def test_pad_to_square_by_hand():
    padded = pad_to_square(sample_of(2, 6, (0, 0, 6, 2), (1, 0.5, 2, 1)), 6)
    grey, black = [FILL] * 6, [0] * 6
    assert padded.image[:, :, 1].tolist() == [black, black, grey, grey, grey, grey]
    assert padded.boxes.tolist() == [[0, 0, 6, 2], [1, 0.5, 2, 1]]  # the image stays at the corner
    assert padded.labels.tolist() == [0, 1]


@PROPERTY
@given(red_rectangles(longest=40))
def test_box_stays_on_its_object_in_a_square(sample):
    assert_box_bounds_red(pad_to_square(sample, 40), tolerance=0)


def test_clip_boxes():
    boxes = np.array([[-5.0, -1, 3, 4], [1, 2, 30, 40], [12, 2, 15, 4]])
    # Height 8, width 10; the last box lies outside and keeps no width.
    assert clip_boxes(boxes, 8, 10).tolist() == [[0, 0, 3, 4], [1, 2, 10, 8], [10, 2, 10, 4]]
    assert clip_boxes(np.zeros((0, 4)), 8, 10).shape == (0, 4)


# ---- affine map


def test_matrix_without_chance():
    """The centre of the input goes to that of the output: 64 - 32."""
    matrix, factor = random_affine_matrix(np.random.default_rng(0), 128, 64, 0.0, 0.0)
    assert factor == 1
    assert matrix.tolist() == [[1, 0, -32], [0, 1, -32]]


def test_matrix_stays_within_its_limits_and_fills_them():
    rng = np.random.default_rng(0)
    results = [random_affine_matrix(rng, 100, 50, 0.5, 0.1) for _ in range(500)]
    factors = np.array([factor for _, factor in results])
    centres = np.array([matrix @ [50, 50, 1] for matrix, _ in results])  # where the centre goes
    assert all(matrix[:, :2].tolist() == [[f, 0], [0, f]] for matrix, f in results)
    # Factors in [0.5, 1.5]; centres in 50 * [0.4, 0.6] == [20, 30], each axis on its own.
    for values, low, high in [
        (factors, 0.5, 1.5),
        (centres[:, 0], 20, 30),
        (centres[:, 1], 20, 30),
    ]:
        margin = 0.02 * (high - low)
        assert low <= values.min() < low + margin and high - margin < values.max() <= high
    assert abs(np.corrcoef(centres.T)[0, 1]) < 0.2


def test_identity_keeps_image_and_boxes():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    sample = Sample(image, np.array([[1.0, 2, 30, 31.5]]), np.array([3]))
    warped = warp_affine(sample, IDENTITY, 32, 1.0)
    np.testing.assert_array_equal(warped.image, image)
    assert warped.boxes.tolist() == [[1, 2, 30, 31.5]]
    assert warped.labels.tolist() == [3]


def test_whole_pixels_move_exactly_and_grey_comes_in():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    sample = Sample(image, np.array([[0.0, 0, 8, 8]]), np.array([0]))
    warped = warp_affine(sample, np.array([[1.0, 0, 3], [0, 1, -2]]), 8, 1.0)
    np.testing.assert_array_equal(warped.image[:6, 3:], image[2:, :5])
    assert (warped.image[6:] == FILL).all() and (warped.image[:, :3] == FILL).all()
    assert warped.boxes.tolist() == [[3, 0, 8, 6]]


def test_scale_keeps_pixel_edges_in_place():
    """Twice as large: both pixels at an edge take a quarter of their neighbour across it."""
    sample = sample_of(4, 4)
    sample.image[:, 2:] = 200
    warped = warp_affine(sample, np.array([[2.0, 0, 0], [0, 2, 0]]), 8, 2.0)
    assert warped.image[3, 1:7, 0].tolist() == [0, 0, 50, 150, 200, 200]  # the edge is at 4


def test_boxes_of_a_turned_image_are_those_of_their_corners():
    """A quarter turn: (x, y) goes to (40 - y, x)."""
    sample = sample_of(40, 40, (4, 10, 14, 16))
    turned = warp_affine(sample, np.array([[0.0, -1, 40], [1, 0, 0]]), 40, 1.0)
    assert turned.boxes.tolist() == [[24, 4, 30, 14]]  # 40 - 16, 4, 40 - 10, 14


@pytest.mark.parametrize(
    "box, kept",
    [
        ((10, 10, 12.1, 20), True),
        ((10, 10, 12, 20), False),  # a side must exceed 2 pixels
        ((10, 10, 20, 12), False),
        ((10, 10, 10, 20), False),  # no area
        ((-89, 10, 11, 20), True),  # 11 of 100 pixels inside
        ((-90, 10, 10, 20), False),  # a tenth inside is not enough
        ((20, 56, 30, 156), False),  # 8 of 100, at the lower border
        ((20, 70, 30, 80), False),  # wholly outside
        ((2, 10, 61, 13), True),  # 59 : 3 is less than 20
        ((2, 10, 62, 13), False),  # 60 : 3
        ((10, 2, 13, 62), False),
        ((0, 0, 64, 64), True),
    ],
)
def test_limits_of_boxes(box, kept):
    warped = warp_affine(sample_of(64, 64, box), IDENTITY, 64, 1.0)
    assert len(warped.boxes) == len(warped.labels) == kept


@pytest.mark.parametrize(
    "factor, box, kept",
    [
        (2.0, (10, 10, 11.1, 20), True),  # 2.2 pixels wide in the output
        (0.5, (10, 10, 13.9, 20), False),  # 1.95
        # 15 % of the width is inside, whatever the scale: 7.5 * 5 of 50 * 5 pixels.
        (0.5, (-85, 10, 15, 20), True),
        # 9 % is inside: 54 * 60 of 600 * 60 pixels.
        (6.0, (-91, 0, 9, 10), False),
    ],
)
def test_limits_hold_in_the_output(factor, box, kept):
    matrix = np.array([[factor, 0, 0], [0, factor, 0]])
    assert len(warp_affine(sample_of(64, 64, box), matrix, 64, factor).boxes) == kept


def test_labels_stay_with_their_boxes():
    sample = sample_of(64, 64, (0, 0, 1, 1), (5, 5, 20, 20), (70, 70, 90, 90), (8, 8, 30, 30))
    warped = warp_affine(sample, IDENTITY, 64, 1.0)
    assert warped.labels.tolist() == [1, 3]
    assert warped.boxes.tolist() == [[5, 5, 20, 20], [8, 8, 30, 30]]


def test_no_boxes():
    warped = warp_affine(sample_of(8, 8), IDENTITY, 16, 1.0)
    assert warped.image.shape == (16, 16, 3)
    assert warped.boxes.shape == (0, 4) and warped.labels.shape == (0,)


@PROPERTY
@given(red_rectangles(longest=48, shortest=48), SEEDS)
def test_box_follows_the_affine_map(sample, seed):
    matrix, factor = random_affine_matrix(np.random.default_rng(seed), 48, 64, 0.5, 0.5)
    warped = warp_affine(sample, matrix, 64, factor)
    if len(warped.boxes):
        assert_box_bounds_red(warped, tolerance=0.6)


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


# ---- all of it


@PROPERTY
@given(red_rectangles(), SEEDS, st.integers(0, 3), st.booleans())
def test_box_follows_through_a_mosaic(sample, seed, place, flip):
    """The whole way of a training sample; the other three images are empty."""
    rng = np.random.default_rng(seed)
    samples = [sample_of(40, 48) for _ in range(4)]
    samples[place] = sample
    joined = mosaic4([resize_longer_side(x, 48) for x in samples], 48, rng)
    warped = warp_affine(joined, *shuffle_matrix(rng, 96))
    final = flip_horizontal(warped) if flip else warped
    assert final.image.shape == (48, 48, 3)
    if len(final.boxes):
        assert_box_bounds_red(final, tolerance=1)


@PROPERTY
@given(red_rectangles(), SEEDS)
def test_box_follows_through_a_plain_sample(sample, seed):
    padded = pad_to_square(resize_longer_side(sample, 48), 48)
    warped = warp_affine(padded, *shuffle_matrix(np.random.default_rng(seed), 48))
    if len(warped.boxes):
        assert_box_bounds_red(warped, tolerance=1)


def shuffle_matrix(rng, in_size) -> tuple[np.ndarray, int, float]:
    """Arguments of `warp_affine` for an output of 48 pixels, with the paper's ranges."""
    matrix, factor = random_affine_matrix(rng, in_size, 48, 0.5, 0.5)
    return matrix, 48, factor
