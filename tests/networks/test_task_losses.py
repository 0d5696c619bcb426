"""Losses of further tasks, on numbers written out by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from yolor_d2.networks.branches.classification import presence_loss, present_classes
from yolor_d2.networks.branches.embedding import (
    cosine_scale,
    embeddings_of_rows,
    identity_loss,
    matched_embeddings,
)
from yolor_d2.ops import LevelTargets, assign_targets, decode


def integers(*values):
    return torch.tensor(values, dtype=torch.int64)


# ---- Presence of classes


def test_a_class_is_present_however_many_boxes_it_has():
    present = present_classes(integers(0, 0, 0, 2), integers(1, 1, 3, 0), 3, 4)
    assert present.tolist() == [[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]


def test_images_without_boxes_have_no_class():
    assert present_classes(integers(), integers(), 2, 3).tolist() == [[0, 0, 0]] * 2


def test_presence_loss_by_hand():
    # -log sigmoid(0) = log 2 for each of three entries, -log sigmoid(2) = log(1 + exp(-2)).
    logits, present = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    expected = (3 * math.log(2) + math.log(1 + math.exp(-2))) / 4
    assert presence_loss(logits, present).item() == pytest.approx(expected)


def test_presence_loss_is_float32_for_half_precision():
    assert presence_loss(torch.zeros(1, 2).half(), torch.zeros(1, 2)).dtype == torch.float32


# ---- Identities


def test_the_scale_grows_with_the_number_of_identities():
    assert cosine_scale(101) == pytest.approx(math.sqrt(2) * math.log(100))
    assert cosine_scale(1) == cosine_scale(2) == cosine_scale(3) == pytest.approx(math.sqrt(2))


def test_identity_loss_by_hand():
    # Cosines with the prototypes are 1 and 0, whatever the length of those; the scale is sqrt(2).
    prototypes = torch.tensor([[3.0, 0.0], [0.0, 0.1]])
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    right = math.log(1 + math.exp(-math.sqrt(2)))  # of identity 0
    wrong = right + math.sqrt(2)  # of identity 1
    loss = identity_loss(vectors, integers(0, 1), prototypes)
    assert loss.item() == pytest.approx((right + wrong) / 2)


def test_without_vectors_the_loss_is_0_and_all_gradients_exist():
    weight = torch.randn(4, 4, requires_grad=True)
    prototypes = torch.randn(3, 4, requires_grad=True)
    loss = identity_loss((torch.randn(2, 4) @ weight)[:0], integers(), prototypes)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(weight.grad, torch.zeros(4, 4))
    assert torch.equal(prototypes.grad, torch.zeros(3, 4))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(1, 9), st.integers(0, 10_000))
def test_identity_loss_is_a_softmax_over_cosines(dimension, count, identities, seed):
    torch.manual_seed(seed)
    vectors = F.normalize(torch.randn(count, dimension, dtype=torch.float64), dim=1)
    prototypes = torch.randn(identities, dimension, dtype=torch.float64) + 0.1
    wanted = torch.randint(identities, (count,))
    total = 0.0
    for vector, identity in zip(vectors, wanted.tolist()):
        cosines = [float(vector @ p) / math.sqrt(float(p @ p)) for p in prototypes]
        exponentials = [math.exp(cosine_scale(identities) * c) for c in cosines]
        total -= math.log(exponentials[identity] / sum(exponentials))
    loss = identity_loss(vectors, wanted, prototypes)
    assert loss.item() == pytest.approx(total / count, rel=1e-4, abs=1e-5)


def test_vectors_are_taken_at_the_positives_of_known_individuals():
    maps = [torch.arange(24.0).view(1, 2, 3, 4), 100 + torch.arange(4.0).view(1, 2, 1, 2)]
    zero = integers(0, 0)
    targets = [
        LevelTargets(zero, zero, integers(0, 2), integers(1, 3), torch.zeros(2, 4), integers(0, 1)),
        LevelTargets(zero, zero, zero, integers(1, 0), torch.zeros(2, 4), integers(2, 1)),
    ]
    vectors, identities = matched_embeddings(maps, targets, integers(7, -1, 5))
    # Box 1 is unknown. Cell (0, 1) of the first map is [1, 13]; of the second [101, 103].
    assert vectors.tolist() == [[1, 13], [101, 103]]
    assert identities.tolist() == [7, 5]


# ---- From rows to cells


def test_rows_of_all_anchors_of_a_cell_share_its_vector():
    maps = [torch.arange(6.0).view(1, 2, 3), torch.tensor([[[6.0]]])]  # 6 and 1 cells, D = 1
    # Two anchors: rows 0-5 and 6-11 are the cells of the first level, 12 and 13 that of the second.
    found = embeddings_of_rows(maps, integers(0, 6, 5, 11, 12, 13), 2)
    assert found.flatten().tolist() == [0, 0, 5, 5, 6, 6]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.lists(st.tuples(*2 * [st.integers(1, 4)]), min_size=1, max_size=3))
def test_a_row_gets_the_vector_of_the_cell_that_its_box_lies_in(num_anchors, sizes):
    strides = [8 * 2**i for i in range(len(sizes))]
    levels = [torch.zeros(1, num_anchors, h, w, 6) for h, w in sizes]
    rows = decode(levels, torch.ones(len(sizes), num_anchors, 2), strides)[0]
    # A map of the centres themselves: offsets are half a cell, as all logits are 0.
    maps = []
    for (h, w), stride in zip(sizes, strides):
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        maps.append((torch.stack([x, y]) + 0.5) * stride)
    order = torch.randperm(len(rows))
    centres = (rows[order, :2] + rows[order, 2:4]) / 2
    torch.testing.assert_close(embeddings_of_rows(maps, order, num_anchors), centres)


def test_assigned_boxes_keep_their_individuals():
    """The vector of a matched cell is pulled to the prototype of the box that lies there."""
    boxes = torch.tensor([[10.0, 10.0, 10.0, 10.0], [42.0, 42.0, 10.0, 10.0]])
    targets = assign_targets(
        integers(0, 1), boxes, integers(0, 1), torch.full((1, 1, 2), 10.0), [8], [(8, 8)]
    )
    maps = torch.zeros(2, 1, 8, 8)
    maps[0, :, :3, :3], maps[1, :, 4:, 4:] = 1, 2
    vectors, identities = matched_embeddings([maps], targets, integers(1, 2))
    assert len(vectors) == 6  # each box in its own cell, the left and the upper one
    assert vectors.flatten().tolist() == identities.tolist()
