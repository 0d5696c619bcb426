"""Images drawn by the AP of their classes."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.data.image_weights import class_weights, image_weights, read_class_ap
from yolor_d2.data.sampler import PositionSampler, epoch_order


def test_class_weights_by_hand():
    # (1 - 0.5)^2 / 10; (1 - 0)^2 / 2; no object.
    assert class_weights(np.array([10, 2, 0]), [0.5, 0.0, 0.9]).tolist() == [0.025, 0.5, 0.0]


def test_image_weights_by_hand():
    labels = [np.array([0, 0]), np.array([1]), np.array([], dtype=np.int64), np.array([0, 1])]
    # Three objects of class 0 with (1 - 0)^2 / 3 each, two of class 1 with 0.25 / 2 each.
    sums = np.array([2 / 3, 1 / 8, 0, 1 / 3 + 1 / 8])
    assert image_weights(labels, 2, [0.0, 0.5]) == pytest.approx(sums / sums.sum())


def test_a_perfect_model_draws_all_images_alike():
    assert image_weights([np.array([0]), np.array([1])], 2, [1.0, 1.0]).tolist() == [0.5, 0.5]


def test_figures_of_classes():
    figures = {"AP": 40.0, "AP50": 60.0, "AP-cat": 80.0, "AP-dog": math.nan}
    # A class that the test set has not gets the mean.
    assert read_class_ap({"bbox": figures}, ["cat", "dog", "cow"]) == [0.8, 0.4, 0.4]
    assert read_class_ap({"first": {"bbox": figures}}, ["cat"]) == [0.8]
    assert read_class_ap({"bbox": {"AP": math.nan}}, ["cat"]) == [0.0]
    assert read_class_ap({}, ["cat"]) is None


def test_the_order_follows_the_weights_and_nothing_else():
    weights = np.array([0.5, 0.0, 0.25, 0.25])
    order = np.concatenate([epoch_order(0, epoch, 4, weights) for epoch in range(500)])
    shares = np.bincount(order, minlength=4) / len(order)
    assert shares == pytest.approx(weights, abs=0.05)
    assert (epoch_order(0, 7, 4, weights) == epoch_order(0, 7, 4, weights)).all()
    assert sorted(epoch_order(0, 7, 4)) == [0, 1, 2, 3]


def test_a_sampler_goes_on_anywhere():
    order = functools.partial(epoch_order, 3, size=5, weights=np.full(5, 0.2))
    whole = iter(PositionSampler(5, seed=3, order=order))
    expected = [next(whole) for _ in range(20)]
    rest = iter(PositionSampler(5, seed=3, start=7, order=order))
    assert [next(rest) for _ in range(13)] == expected[7:]
