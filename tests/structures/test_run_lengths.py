"""Run lengths: by hand, against COCO's own tools, and that their polygons are the mask again."""

import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from yolor_d2.structures.run_lengths import polygons_of, read_runs, unpack

# pycocotools is older than numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PROPERTY = settings(max_examples=80, deadline=None, database=None, derandomize=True)


def encode(mask: np.ndarray) -> dict:
    """COCO's text, by its own tools."""
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def fill(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Pixels by COCO's own tools."""
    if not polygons:
        return np.zeros((height, width), bool)
    outlines = [points.ravel().astype(float).tolist() for points in polygons]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(outlines, height, width))).astype(
        bool
    )


@st.composite
def masks(draw) -> np.ndarray:
    """Noise, blobs with holes in them, and shapes inside holes."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    kind = draw(st.sampled_from(["noise", "blobs", "rings", "all", "none"]))
    if kind == "noise":
        return rng.random((height, width)) < draw(st.sampled_from([0.1, 0.5, 0.9]))
    if kind == "blobs":
        grid = rng.normal(size=(6, 6)).astype(np.float32)
        return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) > 0
    if kind == "rings":
        y, x = np.mgrid[:height, :width] - rng.uniform(0, 20)
        return np.hypot(x, y) % 7 < 3
    return np.full((height, width), kind == "all")


@PROPERTY
@given(masks())
def test_filled_polygons_are_the_mask(mask):
    """Exactly, by COCO's rule, with holes, islands in them, and parts that touch at corners."""
    encoded = encode(mask)
    polygons = polygons_of(encoded, mask.shape)
    np.testing.assert_array_equal(fill(polygons, *mask.shape), mask)
    for points in polygons:
        assert points.dtype == np.float32 and len(points) >= 4
        assert (points == points.round()).all() and (points >= 0).all()
        assert (points <= mask.shape[::-1]).all()
    # Shoelace: joined holes count as nothing.
    areas = [x @ np.roll(y, 1) - y @ np.roll(x, 1) for x, y in (p.T for p in polygons)]
    assert abs(sum(map(abs, areas)) / 2 - mask.sum()) < 1e-3


@PROPERTY
@given(masks())
def test_runs_of_either_form(mask):
    encoded = encode(mask)
    runs, height, width = read_runs(encoded)
    assert (height, width) == mask.shape
    values = np.repeat(np.arange(len(runs)) % 2, runs).reshape(mask.shape, order="F")
    np.testing.assert_array_equal(values, mask)
    as_text = {**encoded, "counts": encoded["counts"].decode()}
    as_list = {"size": [*mask.shape], "counts": runs.tolist()}
    for other in (as_text, as_list):
        np.testing.assert_array_equal(read_runs(other)[0], runs)


def test_by_hand():
    # Columns of three rows: 0 1 1 | 0 0 1.
    (points,) = polygons_of({"size": [3, 2], "counts": [1, 2, 2, 1]})
    corners = {tuple(x) for x in points.tolist()}
    assert corners == {(0, 1), (1, 1), (1, 2), (2, 2), (2, 3), (0, 3)} and len(points) == 6
    (one,) = polygons_of({"size": [50, 60], "counts": [50 * 7 + 4, 1, 50 * 52 + 45]})
    assert sorted(one.tolist()) == [[7, 4], [7, 5], [8, 4], [8, 5]]
    assert polygons_of({"size": [3, 2], "counts": [6]}) == []


def test_a_hole_is_joined_by_a_cut_of_no_width():
    mask = np.ones((5, 5), bool)
    mask[2, 2] = False
    (points,) = polygons_of(encode(mask))
    steps = {tuple(map(tuple, (a, b))) for a, b in zip(points, np.roll(points, -1, axis=0))}
    there_and_back = [pair for pair in steps if pair[::-1] in steps]
    assert len(points) == 4 + 4 + 2 and len(there_and_back) == 2


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"size": [3, 2]},
        {"size": [3], "counts": [6]},
        {"size": [3, 2], "counts": [5]},
        {"size": [3, 2], "counts": [7]},
        {"size": [3, 2], "counts": [-1, 7]},
        {"size": [3, 2], "counts": [2**62, 2**62]},
        {"size": [3, 2], "counts": [2**80]},
        {"size": [3, 2], "counts": [1.5, 4.5]},
        {"size": [3, 2], "counts": ["6"]},
        {"size": [3, 2], "counts": 6},
        {"size": [3, 2], "counts": None},
        {"size": [0, 2], "counts": []},
        {"size": [True, True], "counts": [1]},
        {"size": [3, "2"], "counts": [6]},
        {"size": [2**20, 2**20], "counts": [2**40]},
        {"size": [3, 2], "counts": ""},
        {"size": [3, 2], "counts": "P"},  # unfinished
        {"size": [3, 2], "counts": "o" * 40 + "0"},  # a number without end
        {"size": [3, 2], "counts": "!!"},
        {"size": [3, 2], "counts": "\u00fc6"},
        {"size": [3, 2], "counts": b"~~"},
    ],
)
def test_what_is_no_mask(shape):
    with pytest.raises(ValueError, match=r"run lengths|counts"):
        polygons_of(shape)


def test_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\[3, 2\].*\[2, 3\]"):
        polygons_of({"size": [3, 2], "counts": [0, 6]}, (2, 3))


@settings(PROPERTY, max_examples=200)
@given(st.binary(max_size=12))
def test_any_text_is_read_or_refused(text):
    try:
        found = unpack(text)
    except ValueError:
        return
    assert found.dtype == np.int64 and len(found) <= len(text)


def test_many_holes_take_no_time():
    """Some 10,000 corners and 1,500 holes; all distances of them would be gigabytes."""
    mask = np.ones((160, 160), bool)
    mask[1:-1:4, 1:-1:4] = False
    start = time.process_time()
    (points,) = polygons_of(encode(mask))
    assert time.process_time() - start < 5
    np.testing.assert_array_equal(fill([points], 160, 160), mask)
