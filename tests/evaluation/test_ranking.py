"""Metrics of ranked lists against slow, independent computations."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolor_d2.evaluation.ranking import average_precision, chance_average_precision, roc


def slow_average_precision(scores, relevant):
    """Looks at every relevant entry: precision of all that score at least as much."""
    precisions = [
        sum(r for s, r in zip(scores, relevant) if s >= own) / sum(s >= own for s in scores)
        for own, is_relevant in zip(scores, relevant)
        if is_relevant
    ]
    return sum(precisions) / len(precisions)


def test_by_hand():
    # Relevant at places 1 and 3: (1/1 + 2/3) / 2.
    ap = average_precision(np.array([0.5, 0.9, 0.7]), np.array([True, True, False]))
    assert ap == pytest.approx(5 / 6)


def test_perfect_hopeless_and_nothing():
    scores = np.arange(4.0)
    assert average_precision(scores, scores > 1) == 1
    assert average_precision(scores, scores < 1) == 1 / 4
    assert np.isnan(average_precision(scores, scores > 9))


def test_equal_scores_are_worth_their_share():
    assert average_precision(np.zeros(4), np.array([True, False, False, False])) == 1 / 4


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=12))
def test_equals_a_slow_computation_and_ignores_the_order(entries):
    scores, relevant = (np.array(x) for x in zip(*entries))
    if not relevant.any():
        return
    ap = average_precision(scores.astype(float), relevant)
    assert ap == pytest.approx(slow_average_precision(scores.tolist(), relevant.tolist()))
    assert ap == pytest.approx(average_precision(scores[::-1].astype(float), relevant[::-1]))


@pytest.mark.parametrize(("count", "relevant"), [(1, 1), (5, 1), (5, 2), (6, 3), (4, 4)])
def test_chance_is_the_mean_over_all_orders(count, relevant):
    scores = -np.arange(count, dtype=float)
    means = [
        average_precision(scores, np.isin(np.arange(count), places))
        for places in itertools.combinations(range(count), relevant)
    ]
    assert chance_average_precision(count, relevant) == pytest.approx(np.mean(means))


def test_chance_without_relevant_entries_is_unknown():
    assert np.isnan(chance_average_precision(5, 0))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=8),
    st.lists(st.integers(0, 4), min_size=1, max_size=8),
    st.sampled_from([0.1, 0.3, 0.5]),
)
def test_roc_equals_a_count_over_all_pairs(same, different, rate):
    area, true_rate = roc(np.bincount(same, minlength=5), np.bincount(different, minlength=5), rate)
    wins = [(s > d) + 0.5 * (s == d) for s in same for d in different]
    assert area == pytest.approx(np.mean(wins))
    accepted = [
        np.mean([s >= t for s in same])
        for t in range(6)
        if np.mean([d >= t for d in different]) <= rate
    ]
    assert true_rate == pytest.approx(max(accepted))


def test_roc_of_one_kind_of_pairs_is_unknown():
    assert np.isnan(roc(np.array([1, 2]), np.array([0, 0]), 0.1)).all()
