"""The order of samples: a permutation each epoch, the same however a run is split."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolor_d2.data.sampler import PositionSampler, RectangularOrder, epoch_order

PROPERTY = settings(max_examples=50, deadline=None, database=None, derandomize=True)


def take(count: int, size: int = 5, **options) -> list[tuple[int, int]]:
    sampler = PositionSampler(size, **{"seed": 0, **options})
    return list(itertools.islice(sampler, count))


def test_first_values():
    """Written down: a change of the order would break the resuming of older runs."""
    positions, indices = zip(*take(10))
    assert positions == tuple(range(10))
    assert indices[:5] == (1, 3, 4, 2, 0)
    assert indices[5:] == (0, 4, 3, 1, 2)
    assert [index for _, index in take(5, seed=1)] == [2, 4, 0, 1, 3]
    assert all(type(index) is int for index in indices)


def test_first_values_are_those_of_numpy():
    expected = np.random.default_rng([3, 2, 1]).permutation(8)  # seed, epoch, stream
    np.testing.assert_array_equal(epoch_order(3, 2, 8), expected)


@PROPERTY
@given(st.integers(0, 2**31), st.integers(1, 30))
def test_every_epoch_is_a_permutation(seed, size):
    indices = [index for _, index in take(3 * size, size, seed=seed)]
    for epoch in range(3):
        assert sorted(indices[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_seeds_and_epochs_differ():
    orders = [tuple(epoch_order(seed, epoch, 100)) for seed in range(5) for epoch in range(5)]
    assert len(set(orders)) == 25


@PROPERTY
@given(st.integers(1, 12), st.integers(0, 40))
def test_start_drops_what_came_before(size, start):
    assert take(20, size, start=start) == take(start + 20, size)[start:]


@PROPERTY
@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 5), st.integers(0, 30))
def test_processes_share_each_batch(size, world_size, share, start):
    """Put together batch by batch, the parts of all processes are the stream of one."""
    options = {"world_size": world_size, "batch_size": world_size * share, "start": start}
    streams = [take(3 * share, size, rank=rank, **options) for rank in range(world_size)]
    parts = [
        stream[batch * share : (batch + 1) * share] for batch in range(3) for stream in streams
    ]
    together = [item for part in parts for item in part]
    assert together == take(3 * world_size * share, size, start=start)


def test_two_processes_by_hand():
    """Batches of four: the first half and the second."""
    first, second = (take(5, rank=rank, world_size=2, batch_size=4) for rank in range(2))
    assert first == [(0, 1), (1, 3), (4, 0), (5, 0), (8, 1)]
    assert second == [(2, 4), (3, 2), (6, 4), (7, 3), (10, 1)]


def test_processes_that_cannot_share_a_batch_are_refused():
    with pytest.raises(ValueError, match=r"IMS_PER_BATCH is 3.*processes, 2"):
        PositionSampler(5, seed=0, world_size=2, batch_size=3)


def test_one_image():
    assert take(3, size=1) == [(0, 0), (1, 0), (2, 0)]


def test_start_may_be_set_before_the_first_sample():
    """As a resumed run does it, and twice the same stream if iterated twice."""
    sampler = PositionSampler(5, seed=0)
    sampler.start = 7
    assert list(itertools.islice(sampler, 2)) == [(7, 3), (8, 1)]
    assert list(itertools.islice(sampler, 2)) == [(7, 3), (8, 1)]


@pytest.mark.parametrize("epoch", [0, 1, 1000])
def test_a_late_start_needs_no_earlier_epoch(epoch):
    position = 5 * epoch + 2
    assert take(1, start=position) == [(position, epoch_order(0, epoch, 5)[2])]


# ---- batches of like aspect ratio


def test_rectangular_order_by_hand():
    """Four images, batches of two: the flat ones together, and the upright ones."""
    sizes = np.array([[10, 40], [40, 10], [12, 40], [40, 12]])
    order = RectangularOrder(sizes, batch_size=2, seed=0)
    assert order.size == 4
    batches = order.epoch(0).reshape(-1, 2)
    assert {frozenset(batch) for batch in batches.tolist()} == {
        frozenset({0, 2}),
        frozenset({1, 3}),
    }
    for position in range(4):
        expected = sizes[batches[position // 2]]
        assert order.batch_sizes(position).tolist() == expected.tolist()


@PROPERTY
@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 2**31), st.integers(0, 5))
def test_rectangular_epochs(count, batch_size, seed, epoch):
    """Whole batches; every image once, and as few as possible once more."""
    sizes = np.random.default_rng(seed).integers(1, 50, size=(count, 2))
    order = RectangularOrder(sizes, batch_size=batch_size, seed=seed)
    indices = order.epoch(epoch)
    assert len(indices) == order.size == -(-count // batch_size) * batch_size
    times = np.bincount(indices, minlength=count)
    assert times.min() >= 1 and times.max() - times.min() <= 1
    # Batches do not interleave: each covers a range of ratios of its own.
    ratios = (sizes[:, 0] / sizes[:, 1])[indices].reshape(-1, batch_size)
    ranges = sorted((row.min(), row.max()) for row in ratios)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(ranges))


def test_rectangular_epochs_differ_and_repeat():
    sizes = np.random.default_rng(0).integers(1, 50, size=(40, 2))
    first, second = (RectangularOrder(sizes, batch_size=4, seed=0) for _ in range(2))
    forwards = [first.epoch(i).tolist() for i in range(4)]
    assert forwards == [second.epoch(i).tolist() for i in reversed(range(4))][::-1]
    assert len(set(map(tuple, forwards))) == 4
    assert RectangularOrder(sizes, batch_size=4, seed=1).epoch(0).tolist() != forwards[0]


@PROPERTY
@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 40))
def test_a_start_drops_what_came_before_of_rectangles_too(count, batch_size, start):
    order = RectangularOrder(np.full((count, 2), 8), batch_size=batch_size, seed=0)
    options = {"size": order.size, "order": order.epoch}
    assert take(20, start=start, **options) == take(start + 20, **options)[start:]
