"""One matrix for pixels and boxes: hand-made cases, and that boxes follow what they surround."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rectangles import assert_box_bounds_red, red_bounds, red_rectangles, sample_of, tile_of

from yolor_d2.data.augmentation import warp as module
from yolor_d2.data.augmentation.image import FILL, Sample
from yolor_d2.data.augmentation.mosaic import mosaic4_corners, mosaic9_corners
from yolor_d2.data.augmentation.warp import (
    Warp,
    Window,
    map_points,
    random_warp,
    render,
    seen_window,
    translation,
    warp_image,
)

PROPERTY = settings(max_examples=100, deadline=None, database=None, derandomize=True)
SEEDS = st.integers(0, 2**31)


def scaling(factor, x=0.0, y=0.0) -> np.ndarray:
    return np.array([[factor, 0, x], [0, factor, y], [0, 0, 1]])


def view(sample, matrix, out_size, scale=1.0) -> Sample:
    """The sample alone through a matrix."""
    height, width = sample.image.shape[:2]
    return render([tile_of(sample)], (height, width), Warp(matrix, scale), (out_size, out_size))


def noise(height, width) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


# ---- the matrix


def plain_warp(rng, canvas=(100, 100), out=(50, 50), scale=0.0, translate=0.0, **more) -> Warp:
    return random_warp(rng, canvas, out, scale=scale, translate=translate, **more)


def test_matrix_without_chance():
    """The centre of the canvas goes to that of the output: 64 - 32."""
    warp = plain_warp(np.random.default_rng(0), (128, 128), (64, 64))
    assert warp.scale == 1
    assert warp.matrix.tolist() == [[1, 0, -32], [0, 1, -32], [0, 0, 1]]


def test_matrix_of_rectangles():
    """Height 20, width 60 to height 40, width 100: 50 - 30 and 20 - 10."""
    warp = plain_warp(np.random.default_rng(0), (20, 60), (40, 100))
    assert warp.matrix.tolist() == [[1, 0, 20], [0, 1, 10], [0, 0, 1]]


def test_matrix_stays_within_its_limits_and_fills_them():
    rng = np.random.default_rng(0)
    warps = [plain_warp(rng, (1000, 1000), (500, 500), 0.5, 0.1) for _ in range(500)]
    factors = np.array([warp.scale for warp in warps])
    centres = np.array([map_points(np.array([500.0, 500]), warp.matrix) for warp in warps])
    assert all(np.diag(warp.matrix)[:2].tolist() == [warp.scale] * 2 for warp in warps)
    # Factors in [0.5, 1.5]; centres in 500 * [0.4, 0.6] == [200, 300], each axis on its own and
    # within half a pixel of the canvas.
    for values, low, high, slack in [
        (factors, 0.5, 1.5, 0),
        (centres[:, 0], 200, 300, 0.75),
        (centres[:, 1], 200, 300, 0.75),
    ]:
        margin = 0.02 * (high - low)
        assert low - slack <= values.min() < low + margin
        assert high - margin < values.max() <= high + slack
    assert abs(np.corrcoef(centres.T)[0, 1]) < 0.2


def test_zoom_multiplies_the_factor():
    first, second = (plain_warp(np.random.default_rng(3), scale=0.5, zoom=z) for z in (1, 2))
    assert second.scale == 2 * first.scale
    assert second.matrix[0, 0] == 2 * first.matrix[0, 0]


def test_what_is_off_takes_no_chance():
    """Samples of runs without rotation, shear and perspective stay what they were."""
    rng, other = np.random.default_rng(0), np.random.default_rng(0)
    plain_warp(rng, scale=0.5, translate=0.1)
    other.uniform(size=3)  # the factor and the centre
    assert rng.random() == other.random()


@pytest.mark.parametrize("key", ["degrees", "shear", "perspective"])
def test_a_limit_turns_on_its_part_alone(key):
    rng = np.random.default_rng(0)
    limit = {"degrees": 30, "shear": 20, "perspective": 0.002}[key]
    matrices = np.array([plain_warp(rng, **{key: limit}).matrix for _ in range(300)])
    centres = map_points(np.array([50.0, 50]), matrices[0])
    np.testing.assert_allclose(centres, [25, 25], rtol=1e-9)  # the centre stays the centre
    linear = matrices[:, :2, :2] if key != "perspective" else None
    if key == "degrees":  # angles fill [-30, 30]
        angles = np.rad2deg(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))
        np.testing.assert_allclose(np.linalg.det(linear), 1)
        found = angles
    elif key == "shear":  # slopes fill tan of [-20, 20] on both axes
        np.testing.assert_array_equal(linear[:, [0, 1], [0, 1]], 1)
        found = np.rad2deg(np.arctan(linear[:, [0, 1], [1, 0]]))
    else:
        found = matrices[:, 2, :2]
    assert -limit <= found.min() < -0.95 * limit and 0.95 * limit < found.max() <= limit


# ---- pixels and boxes by hand


def test_identity_keeps_image_and_boxes():
    sample = Sample(noise(32, 32), np.array([[1.0, 2, 30, 31.5]]), np.array([3]))
    seen = view(sample, scaling(1), 32)
    np.testing.assert_array_equal(seen.image, sample.image)
    assert seen.boxes.tolist() == [[1, 2, 30, 31.5]]
    assert seen.labels.tolist() == [3]


@pytest.mark.parametrize("fast", [True, False])
def test_whole_pixels_move_exactly_and_grey_comes_in(fast, monkeypatch):
    if not fast:
        monkeypatch.setattr(module, "MIN_RESIZE_SCALE", math.inf)
    sample = Sample(noise(8, 8), np.array([[0.0, 0, 8, 8]]), np.array([0]))
    seen = view(sample, scaling(1, 3, -2), 8)
    np.testing.assert_array_equal(seen.image[:6, 3:], sample.image[2:, :5])
    assert (seen.image[6:] == FILL).all() and (seen.image[:, :3] == FILL).all()
    assert seen.boxes.tolist() == [[3, 0, 8, 6]]


@pytest.mark.parametrize("fast", [True, False])
def test_scale_keeps_pixel_edges_in_place(fast, monkeypatch):
    """Twice as large: both pixels at an edge take a quarter of their neighbour across it."""
    if not fast:
        monkeypatch.setattr(module, "MIN_RESIZE_SCALE", math.inf)
    sample = sample_of(4, 4)
    sample.image[:, 2:] = 200
    seen = view(sample, scaling(2), 8, 2.0)
    assert seen.image[3, 1:7, 0].tolist() == [0, 0, 50, 150, 200, 200]  # the edge is at 4


def test_boxes_of_a_turned_image_are_those_of_their_corners():
    """A quarter turn: (x, y) goes to (40 - y, x)."""
    sample = sample_of(40, 40, (4, 10, 14, 16))
    seen = view(sample, np.array([[0.0, -1, 40], [1, 0, 0], [0, 0, 1]]), 40)
    assert seen.boxes.tolist() == [[24, 4, 30, 14]]  # 40 - 16, 4, 40 - 10, 14


def test_perspective_by_hand():
    """Divided by 1 + x / 40: 20 goes to 20 / 1.5, 40 to 20."""
    sample = sample_of(40, 40, (20, 10, 40, 30))
    seen = view(sample, np.array([[1.0, 0, 0], [0, 1, 0], [1 / 40, 0, 1]]), 40)
    # Left edge from 10 / 1.5 to 20; the right one, farther away, from 5 to 15.
    np.testing.assert_allclose(seen.boxes, [[20 / 1.5, 5, 20, 20]])


def test_what_lies_outside_the_canvas_is_cut_off():
    """Also where the output shows what is beside the canvas."""
    white = Sample(np.full((8, 8, 3), 255, np.uint8), np.array([[0.0, 0, 8, 8]]), np.array([1]))
    tiles = [tile_of(white, -4, 2)]
    seen = render(tiles, (8, 8), Warp(translation(4, 4)), (16, 16))
    rows, columns = np.nonzero(seen.image[:, :, 0] == 255)
    assert [columns.min(), rows.min(), columns.max(), rows.max()] == [4, 6, 7, 11]
    assert seen.boxes.tolist() == [[4, 6, 8, 12]]


def test_tiles_out_of_sight_are_not_read():
    def unread():
        raise AssertionError("this tile is not seen")

    black = sample_of(8, 8, (0, 0, 8, 8))
    hidden = dataclasses.replace(tile_of(black, 8, 0), read=unread)
    for matrix in (scaling(1), scaling(0.9), scaling(1, 0.5, 0.25)):
        seen = render([tile_of(black), hidden], (16, 16), Warp(matrix), (6, 6))
        assert len(seen.boxes) == 1
    # Nothing is seen at all, near the canvas and far from it.
    for x in (-20, -20.5, -1e6, 40.5):
        seen = render([hidden], (16, 16), Warp(scaling(1, x, 0)), (6, 6))
        assert seen.boxes.shape == (0, 4) and (seen.image == FILL).all()


@pytest.mark.parametrize(
    "box, kept",
    [
        ((10, 10, 12.1, 20), True),
        ((10, 10, 12, 20), False),  # a side must exceed 2 pixels
        ((10, 10, 20, 12), False),
        ((10, 10, 10, 20), False),  # no area
        ((2, 10, 61, 13), True),  # 59 : 3 is less than 20
        ((2, 10, 62, 13), False),  # 60 : 3
        ((10, 2, 13, 62), False),
        ((0, 0, 64, 64), True),
    ],
)
def test_limits_of_boxes(box, kept):
    seen = view(sample_of(64, 64, box), scaling(1), 64)
    assert len(seen.boxes) == len(seen.labels) == kept


@pytest.mark.parametrize(
    "factor, box, shift, kept",
    [
        (2.0, (10, 10, 11.1, 20), 0, True),  # 2.2 pixels wide in the output
        (0.5, (10, 10, 13.9, 20), 0, False),  # 1.95
        (1.0, (0, 10, 50, 20), -44, True),  # 6 of 50 pixels are inside
        (1.0, (0, 10, 50, 20), -45, False),  # a tenth is not enough
        (1.0, (0, 10, 50, 20), -60, False),
        # 15 % of the width is inside, whatever the scale: 3 * 10 of 20 * 10 pixels.
        (0.5, (0, 10, 40, 30), -17, True),
        (2.0, (0, 10, 50, 20), -91, False),  # 9 of 100 pixels
    ],
)
def test_limits_hold_in_the_output(factor, box, shift, kept):
    assert len(view(sample_of(64, 64, box), scaling(factor, shift), 64, factor).boxes) == kept


def test_labels_stay_with_their_boxes():
    sample = sample_of(64, 64, (0, 0, 1, 1), (5, 5, 20, 20), (30, 30, 31, 31), (8, 8, 30, 30))
    seen = view(sample, scaling(1), 64)
    assert seen.labels.tolist() == [1, 3]
    assert seen.boxes.tolist() == [[5, 5, 20, 20], [8, 8, 30, 30]]


def test_no_boxes():
    seen = view(sample_of(8, 8), scaling(1), 16)
    assert seen.image.shape == (16, 16, 3)
    assert seen.boxes.shape == (0, 4) and seen.labels.shape == (0,)
    assert seen.labels.dtype == np.int64


def test_hundreds_of_boxes_stay():
    boxes = [(i % 40, i // 40, i % 40 + 20, i // 40 + 20) for i in range(300)]
    assert len(view(sample_of(64, 64, *boxes), scaling(1), 64).boxes) == 300


# ---- the part of the canvas that is seen


def test_seen_window_by_hand():
    canvas = Window(0, 0, 100, 80)
    # Output pixel x shows (x + 20) / 2: from 10 to 26; two more on each side.
    assert seen_window(scaling(2, -20, -20), canvas, (32, 32)) == Window(8, 8, 28, 28)
    assert seen_window(scaling(1, 50, 0), canvas, (32, 32)) == Window(0, 0, 0, 34)
    assert seen_window(scaling(0.1), canvas, (32, 32)) == canvas
    # 1 - x / 100 and less is behind the observer from 100 on; the output looks there.
    beyond = np.array([[1.0, 0, 0], [0, 1, 0], [-0.01, 0, 1]])
    assert seen_window(np.linalg.inv(beyond), canvas, (200, 200)) == canvas


MATRICES = st.fixed_dictionaries(
    {
        "scale": st.sampled_from([0.0, 0.5, 0.9]),
        "translate": st.sampled_from([0.0, 0.1, 0.5]),
        "degrees": st.sampled_from([0.0, 10.0, 180.0]),
        "shear": st.sampled_from([0.0, 10.0]),
        "perspective": st.sampled_from([0.0, 0.001, 0.008]),
        "zoom": st.sampled_from([0.5, 1.0, 1.5]),
    }
)
SIMPLE = MATRICES.map(lambda x: {**x, "degrees": 0.0, "shear": 0.0, "perspective": 0.0})


@PROPERTY
@given(SEEDS, st.one_of(MATRICES, SIMPLE), st.sampled_from([(48, 48), (32, 64)]))
def test_the_view_is_that_of_the_whole_canvas(seed, options, out_size):
    """An independent way: all tiles on a canvas in full, then one warp of it.

    A resize rounds as little as a warp, but OpenCV's warp knows 32 places within a pixel only.
    """
    rng = np.random.default_rng(seed)
    canvas = np.full((96, 96, 3), FILL, np.uint8)
    samples = [sample_of(int(h), int(w)) for h, w in rng.integers(20, 49, size=(4, 2))]
    corners = mosaic4_corners(np.array([x.image.shape[:2] for x in samples]), 48, rng)
    for i, (sample, (left, top)) in enumerate(zip(samples, corners.tolist())):
        sample.image[:] = 40 + 50 * i
        y1, x1 = max(top, 0), max(left, 0)
        height, width = sample.image.shape[:2]
        canvas[y1 : max(top + height, 0), x1 : max(left + width, 0)] = 40 + 50 * i
    warp = random_warp(rng, (96, 96), out_size, **options)
    tiles = [tile_of(sample, *corner) for sample, corner in zip(samples, corners.tolist())]
    found = render(tiles, (96, 96), warp, out_size).image.astype(int)
    expected = warp_image(canvas, warp.matrix, out_size)
    difference = np.abs(found - expected)
    # Only at the first row and column does a resize repeat them instead of looking beyond.
    assert difference[1:, 1:].max() <= 8
    assert difference.mean() < 1


# ---- boxes follow


@PROPERTY
@given(red_rectangles(longest=48, shortest=48), SEEDS, SIMPLE)
def test_box_follows_scale_and_shift(sample, seed, options):
    warp = random_warp(np.random.default_rng(seed), (48, 48), (64, 64), **options)
    seen = view(sample, warp.matrix, 64, warp.scale)
    if len(seen.boxes):
        assert_box_bounds_red(seen, tolerance=0.7)


@pytest.mark.heavy
@PROPERTY
@given(red_rectangles(longest=60, shortest=60, least=16), SEEDS, MATRICES)
def test_box_follows_any_warp(sample, seed, options):
    """The box is that of the mapped corners; interpolation rounds sharp ones."""
    options["scale"] = min(options["scale"], 0.5)
    warp = random_warp(np.random.default_rng(seed), (60, 60), (160, 160), **options)
    seen = view(sample, warp.matrix, 160, warp.scale)
    if len(seen.boxes) == 0:
        return
    box, bounds = seen.boxes[0], np.array(red_bounds(seen.image))
    assert (bounds[:2] > box[:2] - 1).all() and (bounds[2:] < box[2:] + 1).all()
    x1, y1, x2, y2 = sample.boxes[0]
    corners = map_points(np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]), warp.matrix)
    # Of a turned rectangle that the border cuts, less may be left than the box says.
    if (corners >= 0).all() and (corners <= 160).all():
        turned = options["degrees"] or options["shear"] or options["perspective"]
        np.testing.assert_allclose(box, bounds, atol=2.5 if turned else 1)


LAYOUTS = st.sampled_from([(4, mosaic4_corners), (9, mosaic9_corners)])


@pytest.mark.heavy
@PROPERTY
@given(red_rectangles(longest=48, least=6), SEEDS, LAYOUTS, SIMPLE, st.integers(0, 8))
def test_box_follows_through_mosaics(sample, seed, layout, options, place):
    """The other images are black, of random sizes, and cover nothing of the red rectangle."""
    count, corners_of = layout
    rng = np.random.default_rng(seed)
    samples = [sample_of(int(h), int(w)) for h, w in rng.integers(8, 49, size=(count, 2))]
    samples[place % count] = sample
    sizes = np.array([x.image.shape[:2] for x in samples])
    corners = corners_of(sizes, 48, rng).tolist()
    tiles = [tile_of(x, *corner) for x, corner in zip(samples, corners)]
    warp = random_warp(rng, (96, 96), (64, 64), **options)
    seen = render(tiles, (96, 96), warp, (64, 64))
    assert seen.image.shape == (64, 64, 3)
    if len(seen.boxes):
        assert_box_bounds_red(seen, tolerance=1)
