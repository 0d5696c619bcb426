"""Anchors: recall, and fitting them to boxes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from yolor_d2.ops.anchors import (
    best_possible_recall,
    best_ratios,
    fit_anchors,
    fitness,
)
from yolor_d2.ops.assign import assign_level

SIDES = st.floats(1.0, 1000.0, allow_nan=False)
SIZES = st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=40).map(
    lambda pairs: torch.tensor(pairs, dtype=torch.float64)
)


def test_ratios_by_hand():
    anchors = torch.tensor([[10.0, 10.0], [100.0, 50.0]])
    sizes = torch.tensor([[20.0, 10.0], [100.0, 50.0], [10.0, 100.0]])
    # Twice as wide; itself; ten times as high, or a tenth as wide.
    assert best_ratios(sizes, anchors).tolist() == pytest.approx([0.5, 1.0, 0.1])
    assert best_possible_recall(sizes, anchors, 4.0) == pytest.approx(2 / 3)
    assert fitness(sizes, anchors, 4.0) == pytest.approx(1.5 / 3)


def test_a_ratio_of_exactly_the_limit_does_not_match():
    assert best_possible_recall(torch.tensor([[40.0, 10.0]]), torch.tensor([[10.0, 10.0]])) == 0


def test_no_boxes():
    none = torch.zeros(0, 2)
    assert best_possible_recall(none, torch.tensor([[10.0, 10.0]])) == 1
    with pytest.raises(ValueError, match="at least one box"):
        fit_anchors(none, 3)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_sizes_must_be_positive(bad):
    with pytest.raises(ValueError, match="positive and finite"):
        fit_anchors(torch.tensor([[1.0, bad]]), 3)


@pytest.mark.heavy
@given(sizes=SIZES, anchors=SIZES)
def test_recall_is_what_the_assignment_does(sizes: Tensor, anchors: Tensor):
    recall = best_possible_recall(sizes, anchors)
    assert 0 <= recall <= 1
    centres = torch.full_like(sizes, 500.0)
    index = torch.arange(len(sizes))
    targets = assign_level(
        torch.zeros_like(index), torch.cat([centres, sizes], 1), index, anchors, (1000, 1000)
    )
    # A ratio at the very limit may fall to either side by rounding.
    ratios = best_ratios(sizes, anchors)
    if ((ratios - 0.25).abs() > 1e-12).all():
        assert recall == pytest.approx(len(targets.label.unique()) / len(sizes))


@settings(max_examples=25, deadline=None)
@given(sizes=SIZES, start=st.lists(st.tuples(SIDES, SIDES), min_size=6, max_size=6))
def test_fitted_anchors_are_never_worse(sizes: Tensor, start):
    before = torch.tensor(start, dtype=sizes.dtype)
    found = fit_anchors(sizes, 6, start=before, generations=20)
    assert found.shape == (6, 2)
    assert fitness(sizes, found) >= fitness(sizes, before)
    areas = found.prod(dim=1)
    assert (areas[1:] >= areas[:-1]).all()


@pytest.mark.heavy
@given(sizes=SIZES, anchors=SIZES, exponent=st.integers(-5, 5))
def test_the_unit_does_not_matter(sizes: Tensor, anchors: Tensor, exponent: int):
    scale = 2.0**exponent  # which does not round
    assert torch.equal(best_ratios(sizes * scale, anchors * scale), best_ratios(sizes, anchors))
    assert fitness(sizes * scale, anchors * scale) == fitness(sizes, anchors)


def test_clear_clusters_are_found():
    rng = torch.Generator().manual_seed(1)
    centres = torch.tensor([[10.0, 20.0], [60.0, 40.0], [300.0, 500.0]], dtype=torch.float64)
    noise = torch.randn(3, 200, 2, generator=rng, dtype=torch.float64) * 0.05
    sizes = (centres[:, None] * noise.exp()).reshape(-1, 2)
    found = fit_anchors(sizes, 3, generations=200)
    assert torch.allclose(found, centres, rtol=0.05)
    assert torch.allclose(fit_anchors(3 * sizes, 3, generations=200), 3 * found, rtol=0.05)


def test_a_sample_does_not_make_worse_what_was_there():
    sizes = torch.tensor([[8.0, 8.0]] * 50 + [[200.0, 200.0]], dtype=torch.float64)
    start = torch.tensor([[8.0, 8.0], [200.0, 200.0]], dtype=torch.float64)
    assert fitness(sizes, fit_anchors(sizes, 2, start=start, sample=1, generations=5)) == 1


def test_more_anchors_than_sizes():
    sizes = torch.tensor([[10.0, 20.0]] * 4)
    assert fitness(sizes, fit_anchors(sizes, 9, generations=5)) == pytest.approx(1)


def test_the_same_boxes_give_the_same_anchors():
    sizes = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) * 100 + 1
    assert torch.equal(fit_anchors(sizes, 9, generations=30), fit_anchors(sizes, 9, generations=30))
