"""Sizes of batches: fixed, drawn for each batch, or rectangles around their images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolor_d2.data.batch_shapes import BatchShapes, Frame
from yolor_d2.data.sampler import RectangularOrder

PROPERTY = settings(max_examples=100, deadline=None, database=None, derandomize=True)


def test_squares_of_one_size():
    """Any size, whatever the stride: the model pads."""
    shapes = BatchShapes(50, batch_size=4, stride=32)
    assert {shapes.frame(position) for position in range(40)} == {Frame(50, 50, 1.0)}


def test_sizes_of_multi_scale_by_hand():
    """640 * [0.5, 1.5] is [320, 960]: 10 to 30 times 32."""
    shapes = BatchShapes(640, stride=32, multi_scale=0.5)
    assert shapes.size_range(640) == (10, 30)
    frames = {shapes.frame(position) for position in range(400)}
    assert {x.width for x in frames} == set(range(320, 961, 32))
    assert all(x.height == x.width and x.zoom == x.width / 640 for x in frames)


@PROPERTY
@given(st.integers(0, 2**31), st.integers(1, 16), st.integers(0, 10**6))
def test_a_batch_has_one_size_whoever_asks(seed, batch_size, iteration):
    frames = {
        BatchShapes(640, batch_size=batch_size, seed=seed, stride=64, multi_scale=0.3).frame(
            iteration * batch_size + place
        )
        for place in range(batch_size)
    }
    assert len(frames) == 1
    (frame,) = frames
    assert frame.width % 64 == 0 and 448 <= frame.width <= 832


def test_seeds_and_batches_differ():
    sizes = [
        [BatchShapes(640, seed=seed, stride=32, multi_scale=0.5).frame(i).width for i in range(20)]
        for seed in range(3)
    ]
    assert len({tuple(x) for x in sizes}) == 3 and len(set(sizes[0])) > 5


def test_smaller_batches_first_by_hand():
    """0.7 * 320 = 224 is 7 times 32; 0.33 * 320 = 105.6 becomes 3 times 32."""
    shapes = BatchShapes(320, batch_size=2, stride=32, steps=((2, 0.33), (3, 0.7)))
    sides = [shapes.frame(position).width for position in range(8)]
    assert sides == [96, 96, 96, 96, 224, 224, 320, 320]
    assert shapes.frame(4) == Frame(224, 224, 0.7)


def test_multi_scale_goes_around_the_size_of_the_step():
    shapes = BatchShapes(320, stride=32, steps=((100, 0.5),), multi_scale=0.21)
    sides = [shapes.frame(position).width for position in range(200)]
    assert set(sides[:100]) == {128, 160, 192}  # [126.4, 193.6]
    assert set(sides[100:]) == {256, 288, 320, 352, 384}  # [252.8, 387.2]


def test_no_multiple_of_the_stride():
    with pytest.raises(ValueError, match=r"INPUT\.MULTI_SCALE is 0\.1.* 100 pixels.*stride, 64"):
        BatchShapes(100, stride=64, multi_scale=0.1)
    assert BatchShapes(100, stride=64, multi_scale=0.4).size_range(100) == (1, 2)


def test_rectangles_by_hand():
    """The batch of the flat images: 33 of 64 pixels high, in strides of 16."""
    sizes = np.array([[20, 64], [64, 30], [33, 64], [64, 32]])
    order = RectangularOrder(sizes, batch_size=2, seed=0)
    shapes = BatchShapes(64, batch_size=2, stride=16, order=order)
    expected = {True: Frame(48, 64, 1.0), False: Frame(64, 32, 1.0)}
    for position in range(4):
        flat = order.epoch(0)[position] in (0, 2)
        assert shapes.frame(position) == expected[flat]


@PROPERTY
@given(st.integers(0, 2**31), st.integers(1, 5), st.sampled_from([0.0, 0.5]), st.integers(0, 200))
def test_rectangles_just_hold_their_images(seed, batch_size, multi_scale, position):
    rng = np.random.default_rng(seed)
    sizes = np.stack([np.full(12, 96), rng.integers(1, 97, size=12)], axis=1)
    sizes = np.where(rng.random(12)[:, None] < 0.5, sizes, sizes[:, ::-1])
    order = RectangularOrder(sizes, batch_size=batch_size, seed=seed)
    shapes = BatchShapes(
        96, batch_size=batch_size, seed=seed, stride=32, multi_scale=multi_scale, order=order
    )
    frame = shapes.frame(position)
    for side, longest in zip(frame[:2], order.batch_sizes(position).max(axis=0) * frame.zoom):
        assert side % 32 == 0 and longest - 1e-3 <= side < longest + 32
