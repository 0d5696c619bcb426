"""Assignment by optimal transport: cases by hand, ties, a slow version beside it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ops import ota_reference
from ops.ota_reference import Row
from torch import Tensor

from yolor_d2.ops import LossGains, assign, detection_losses
from yolor_d2.ops.assign import Assignment
from yolor_d2.ops.ota import assign_ota, boxes_by_image

# ---- One call of it, with its inputs


class Scene(NamedTuple):
    """Inputs of the assignment, see `assign_ota`; logits and boxes in float64."""

    levels: list[Tensor]
    image: Tensor
    boxes: Tensor
    labels: Tensor
    anchors: Tensor
    strides: list[int]

    @property
    def grid_sizes(self) -> list[tuple[int, int]]:
        return [(level.shape[2], level.shape[3]) for level in self.levels]

    def as_type(self, dtype: torch.dtype) -> Scene:
        return self._replace(
            levels=[level.to(dtype) for level in self.levels],
            boxes=self.boxes.to(dtype),
            anchors=self.anchors.to(dtype),
        )

    def find(self, candidates: int = 3, fixed_shape: bool = False, **options) -> Assignment:
        """Candidates and, of these, the positives."""
        truth = self.image, self.boxes, self.labels
        found = assign(
            *truth,
            self.anchors,
            self.strides,
            self.grid_sizes,
            candidates=candidates,
            fixed_shape=fixed_shape,
        )
        return assign_ota(
            found,
            self.levels,
            self.boxes,
            self.labels,
            self.anchors,
            self.strides,
            by_image=boxes_by_image(self.image, len(self.levels[0])),
            **options,
        )

    def find_slowly(self, candidates: int = 3, **options) -> ota_reference.Chosen:
        levels = [level.detach().numpy() for level in self.levels]
        truth = self.image.numpy(), self.boxes.numpy(), self.anchors.numpy()
        image, boxes, anchors = truth
        rows = ota_reference.find_candidates(
            *truth, self.strides, self.grid_sizes, max_ratio=4.0, candidates=candidates
        )
        labels = self.labels.numpy()
        return ota_reference.choose(
            rows, levels, boxes, labels, anchors, self.strides, image, **options
        )


def rows_of(found: Assignment) -> list[Row]:
    """The positives image by image, each in its order."""
    fields = found.level, found.image, found.anchor, found.row, found.column, found.number
    rows = torch.stack(fields, dim=1)
    if found.valid is not None:
        rows = rows[found.valid]
    return sorted((Row(*row) for row in rows.tolist()), key=lambda row: row.image)


def check_fields(found: Assignment, scene: Scene) -> None:
    """Whether what hangs on a row is that of its box, and the numbers of rows are right."""
    assert sum(found.sizes) == len(found.level)
    expected = torch.repeat_interleave(torch.tensor(found.sizes))
    assert torch.equal(found.level, expected)
    valid = found.valid if found.valid is not None else torch.ones_like(found.level).bool()
    counts = torch.bincount(found.level[valid], minlength=len(found.sizes))
    assert torch.equal(found.positives, counts)
    assert found.box.isfinite().all()
    level, number = found.level[valid], found.number[valid]
    assert torch.equal(found.label[valid], scene.labels[number])
    assert torch.equal(found.image[valid], scene.image[number])
    stride = torch.tensor(scene.strides)[level, None]
    corner = torch.stack([found.column, found.row], dim=1)[valid]
    boxes = scene.boxes[number] / stride
    boxes[:, :2] -= corner
    assert torch.equal(found.box[valid], boxes)


# ---- By hand: one level, one anchor of 16 x 16 px at stride 8, two classes

LOW, HIGH = math.log(0.25 / 0.75), math.log(0.75 / 0.25)  # scores of 1/4 and 3/4
GRID = (4, 6)


def flat_scene(boxes, labels=None, image=None, images=1, classes=2) -> Scene:
    """Every cell predicts the anchor around its own middle, with scores of a half."""
    count = len(boxes)
    return Scene(
        levels=[torch.zeros(images, 1, *GRID, 5 + classes, dtype=torch.float64)],
        image=torch.tensor(image or [0] * count, dtype=torch.int64),
        boxes=torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
        labels=torch.tensor(labels or [0] * count, dtype=torch.int64),
        anchors=torch.full((1, 1, 2), 16.0, dtype=torch.float64),
        strides=[8],
    )


def cells(found: Assignment) -> list[tuple[int, int, int]]:
    """(column, row, number of the box) of every positive, in order."""
    return [(row.column, row.row, row.box) for row in rows_of(found)]


def test_a_box_takes_as_many_cells_as_its_overlaps_sum_up_to():
    # Candidates: its cell (2, 1), left of it, above it. In the middle of its cell there is but one.
    near_the_corner = [2.25 * 8, 1.25 * 8, 16, 16]
    scene = flat_scene([near_the_corner])
    # Predictions in cells: centres (2.5, 1.5), (1.5, 1.5), (2.5, 0.5); shifts of 1/4 and 3/4 of
    # sides of 2. IoU: 1.75 * 1.75 / (8 - 1.75^2) = 0.62; 1.25 * 1.75 / (8 - 2.1875) = 0.376.
    assert cells(scene.find()) == [(2, 1, 0)]
    assert scene.find_slowly().counts == [1]  # 0.62 + 2 * 0.376 = 1.37
    # The same sides everywhere, as in the box: two cells overlap fully.
    scene.levels[0][0, 0, 1, 1, 0] = math.log(0.625 / 0.375)  # centre 0.75 + 1 of 2 - 0.5
    scene.levels[0][0, 0, 1, 1, 0] = math.log(0.875 / 0.125)  # 2 * 0.875 - 0.5 = 1.25
    scene.levels[0][0, 0, 1, 1, 1] = math.log(0.375 / 0.625)  # 2 * 0.375 - 0.5 = 0.25
    scene.levels[0][0, 0, 1, 2, :2] = math.log(0.375 / 0.625)
    assert scene.find_slowly().counts == [2]  # 1 + 1 + 0.376
    assert cells(scene.find()) == [(2, 1, 0), (1, 1, 0)]
    assert cells(scene.find(top_ious=1)) in ([(2, 1, 0)], [(1, 1, 0)])


def test_scores_decide_between_equal_overlaps():
    # On the border of two cells, in the middle of their height: candidates (2, 1), (1, 1), (2, 1).
    scene = flat_scene([[16, 12, 16, 16]], labels=[1])
    scene.levels[0][..., 5:] = torch.tensor([LOW, HIGH])
    for channel, logit in ((4, HIGH), (5, 2 * LOW), (6, 2 * HIGH)):
        better = scene._replace(levels=[scene.levels[0].clone()])
        better.levels[0][0, 0, 1, 1, channel] = logit
        assert cells(better.find()) == [(1, 1, 0)], channel
        better.levels[0][0, 0, 1, 1, channel] = -logit
        assert cells(better.find()) == [(2, 1, 0)], channel


def test_the_overlap_weighs_against_the_scores():
    # The cell of the box fits best, the one left of it has the better scores.
    scene = flat_scene([[2.375 * 8, 12, 16, 16]])
    scene.levels[0][0, 0, 1, 1, 4:6] = HIGH
    # Shifts of 1/8 and 7/8 of a side of 2: IoU 0.882 and 0.391, 3 * ln of the quotient is 2.44;
    # entropies: 2 ln 2 = 1.39 (the score sqrt(1/4) is 1/2) beside ln(4/3) + ln 1/(1 - sqrt(3/8)).
    assert cells(scene.find()) == [(2, 1, 0)]
    assert cells(scene.find(iou_weight=0.0)) == [(1, 1, 0)]
    difference = 2 * math.log(2) - math.log(4 / 3) + math.log(1 - math.sqrt(3 / 8))
    assert difference > 0
    limit = difference / math.log((1.875 / 2.125) / (1.125 / 2.875))
    assert cells(scene.find(iou_weight=limit * 0.999)) == [(1, 1, 0)]
    assert cells(scene.find(iou_weight=limit * 1.001)) == [(2, 1, 0)]


def test_a_cell_taken_by_two_goes_to_the_one_it_costs_least():
    # Both have their centre in the middle of cell (2, 1), their only candidate; the second fits.
    boxes = [[20, 12, 12, 12], [20, 12, 16, 16]]
    assert cells(flat_scene(boxes).find()) == [(2, 1, 1)] * 2  # a row of either box's candidates
    assert cells(flat_scene(boxes[::-1]).find()) == [(2, 1, 0)] * 2


def test_a_box_without_candidates_takes_one_of_another():
    # 100 px is more than four times the anchor. Its class decides against the overlap.
    scene = flat_scene([[20, 12, 16, 16], [24, 16, 100, 100]], labels=[0, 1])
    scene.levels[0][0, 0, 1, 2, 5:] = torch.tensor([-9.0, 9.0])
    assert cells(scene.find(iou_weight=1.0)) == [(2, 1, 1)]  # its class is much the likelier
    scene.levels[0][0, 0, 1, 2, 5:] = torch.tensor([9.0, -9.0])
    assert cells(scene.find(iou_weight=1.0)) == [(2, 1, 0)]
    # In an image of its own it takes none.
    alone = scene._replace(
        image=torch.tensor([0, 1]), levels=[scene.levels[0].repeat(2, 1, 1, 1, 1)]
    )
    assert cells(alone.find(iou_weight=1.0)) == [(2, 1, 0)]


def test_each_side_of_the_image_counts_on_its_own():
    """Centre, width and height in pixels, though the image is no square."""
    scene = flat_scene([[5.25 * 8, 12, 24, 12]])
    # Predictions that fit in (4, 1), not in (5, 1).
    scene.levels[0][0, 0, 1, 4, 0] = math.log(0.875 / 0.125)  # 1.25 from its left side
    width, height = math.sqrt(24 / 16) / 2, math.sqrt(12 / 16) / 2
    scene.levels[0][0, 0, 1, 4, 2:4] = torch.tensor([width, height], dtype=torch.float64).logit()
    assert cells(scene.find()) == [(4, 1, 0)]


@pytest.mark.parametrize("fixed_shape", [False, True])
def test_nothing_to_assign(fixed_shape):
    for scene in (flat_scene([], images=2), flat_scene([[24, 16, 100, 100]])):
        found = scene.find(fixed_shape=fixed_shape)
        assert cells(found) == [] and found.positives.tolist() == [0]
        assert found.label.dtype == found.row.dtype == torch.int64


# ---- Ties


@pytest.mark.parametrize("fixed_shape", [False, True])
def test_of_equal_costs_the_first_row_is_taken(fixed_shape):
    # On a border: own cell, left, and its own one again. 2/3 + 2 * 1/2 leaves one.
    for _ in range(3):
        found = flat_scene([[16, 12, 16, 16]]).find(fixed_shape=fixed_shape)
        assert cells(found) == [(2, 1, 0)]
        if not fixed_shape:
            assert found.box.tolist() == [[0, 0.5, 2, 2]]
    # Two of the three rows of one cell, and of these the first.
    scene = flat_scene([[20, 12, 16, 16]] * 3)
    found = scene.find(fixed_shape=fixed_shape)
    assert scene.find_slowly().counts == [3] * 3
    # Equal costs to the boxes: the first one has all.
    assert cells(found) == [(2, 1, 0)] * 3
    two = scene.find(fixed_shape=fixed_shape, top_ious=2)
    assert cells(two) == [(2, 1, 0)] * 2
    if fixed_shape:
        assert two.valid.nonzero().flatten().tolist() == [0, 1]


def test_ties_between_hundreds_of_rows():
    """Sorts are often stable only for few numbers."""
    scene = flat_scene([[20, 12, 16, 16]] * 500)
    found = scene.find(fixed_shape=True)
    assert found.valid.nonzero().flatten().tolist() == list(range(10))
    assert found.number[found.valid].tolist() == [0] * 10


# ---- Beside the slow version

SIZES = [(64, 64), (64, 128), (128, 64), (96, 64)]


def draw_box(kind: str, height: int, width: int, others: list, random: np.random.Generator) -> list:
    """cxcywh in pixels."""
    sides = np.exp(random.uniform(math.log(4), math.log(90), 2))
    centre = random.uniform(0, 1, 2) * (width, height)
    if kind in ("again", "near") and others:
        box = np.array(others[random.integers(len(others))])
        if kind == "near":
            # Of boxes of one size a small prediction overlaps both alike, but for rounding.
            box[:2] += random.uniform(-3, 3, 2)
            box[2:] *= random.uniform(0.8, 1.25, 2)
        return box.tolist()
    if kind == "border":
        centre[random.integers(2)] = random.choice([0, 0.5])
    if kind == "far border":
        centre = np.array([width, height]) - random.choice([0, 0.5, 4], 2)
    if kind == "cells' border":
        centre = np.round(centre / 16) * 16
    if kind == "no anchor":
        sides = random.choice([1.0, 700.0], 2)
    return [*centre.tolist(), *sides.tolist()]


KINDS = ["any", "again", "near", "border", "far border", "cells' border", "no anchor"]


@st.composite
def scenes(draw) -> Scene:
    """Images with few boxes and with crowds, of one size, square or not."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.sampled_from(SIZES))
    levels = draw(st.integers(1, 3))
    classes = draw(st.sampled_from([1, 2, 5]))
    images = draw(st.integers(1, 3))
    boxes, image = [], []
    for n in range(images):
        kinds = draw(
            st.one_of(
                st.lists(st.sampled_from(KINDS), max_size=6),
                st.just(["no anchor"]),
                st.just(["any"] + ["near"] * 7),
            )
        )
        own = []
        for kind in kinds:
            own.append(draw_box(kind, height, width, own, random))
        boxes += own
        image += [n] * len(kinds)
    strides = [8, 16, 32][:levels]
    anchors = np.exp(random.uniform(math.log(6), math.log(60), (levels, 2, 2)))
    shape = (images, 2)
    logits = [
        random.uniform(-3, 3, (*shape, height // s, width // s, 5 + classes)) for s in strides
    ]
    # To the numbers that float32 has, so that both see the same ones.
    as_float32 = [np.float32(x) for x in (boxes, anchors, *logits)]
    boxes, anchors, *logits = [torch.from_numpy(x).double() for x in as_float32]
    labels = torch.from_numpy(random.integers(classes, size=len(boxes)))
    image = torch.tensor(image, dtype=torch.int64)
    return Scene(logits, image, boxes.reshape(-1, 4), labels, anchors, strides)


options = st.fixed_dictionaries(
    {"top_ious": st.sampled_from([1, 3, 10, 20, 10000]), "iou_weight": st.sampled_from([0.5, 3.0])}
)


@pytest.mark.heavy
@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(scene=scenes(), candidates=st.sampled_from([3, 5]), options=options)
def test_equals_the_slow_version(scene, candidates, options):
    expected = scene.find_slowly(candidates, **options)
    assume(expected.margin > 1e-9)
    found = scene.find(candidates, **options)
    assert rows_of(found) == expected.rows
    check_fields(found, scene)
    fixed = scene.find(candidates, fixed_shape=True, **options)
    if not expected.ties:  # a CPU rounds some numbers otherwise than their equals elsewhere
        assert rows_of(fixed) == expected.rows
    check_fields(fixed, scene)
    if expected.margin > 1e-3:
        assert rows_of(scene.as_type(torch.float32).find(candidates, **options)) == expected.rows


@pytest.mark.parametrize(
    ("seed", "top_ious", "trained"), [(0, 10, False), (1, 20, True), (2, 1, True)]
)
def test_crowds_equal_every_box_compared_with_every_row(seed, top_ious, trained):
    """Fixed shapes leave nothing out; else blocks of rows that cannot matter are left out."""
    random = np.random.default_rng(seed)
    boxes: list = []
    for kind in random.choice(KINDS, 150):
        boxes.append(draw_box(kind, 256, 384, boxes, random))
    logits = [random.normal(0, 1.5, (2, 2, 256 // s, 384 // s, 8)) for s in (8, 16)]
    anchors = torch.tensor([[[12.0, 16], [30, 24]], [[40, 60], [90, 80]]], dtype=torch.float64)
    scene = Scene(
        [torch.from_numpy(x) for x in logits],
        torch.arange(150) // 100,
        torch.tensor(boxes, dtype=torch.float64),
        torch.from_numpy(random.integers(3, size=150)),
        anchors,
        [8, 16],
    )
    if trained:  # predictions about their boxes
        found = scene.find(top_ious=top_ious)
        for level, rows in zip(scene.levels, found.per_level()):
            own = level[rows.image, rows.anchor, rows.row, rows.column]
            own[:, :2] = ((rows.box[:, :2] + 0.5) / 2).clamp(0.01, 0.99).logit()
            own[:, 5:] *= 3
            level[rows.image, rows.anchor, rows.row, rows.column] = own
    found = scene.find(top_ious=top_ious)
    assert rows_of(found) == rows_of(scene.find(fixed_shape=True, top_ious=top_ious))
    assert len(rows_of(found)) > 60
    check_fields(found, scene)
    try:
        torch.set_num_threads(3)
        assert rows_of(scene.find(top_ious=top_ious)) == rows_of(found)
    finally:
        torch.set_num_threads(1)


# ---- In the loss


def crowd(seed=0, classes=3) -> Scene:
    random = np.random.default_rng(seed)
    boxes = [draw_box("any", 64, 96, [], random) for _ in range(12)]
    logits = [random.uniform(-3, 3, (2, 2, 64 // s, 96 // s, 5 + classes)) for s in (8, 16)]
    anchors = torch.tensor([[[10.0, 14], [20, 16]], [[30, 40], [60, 50]]], dtype=torch.float64)
    return Scene(
        [torch.from_numpy(x) for x in logits],
        torch.arange(12) // 6,
        torch.tensor(boxes, dtype=torch.float64),
        torch.from_numpy(random.integers(classes, size=12)),
        anchors,
        [8, 16],
    )


GAINS = LossGains(balance=(1.0, 1.0))


def test_the_gradient_comes_from_the_loss_alone():
    scene = crowd()
    scene = scene._replace(levels=[level.requires_grad_() for level in scene.levels])
    found = scene.find(fixed_shape=True)
    fields = [x for x in found if isinstance(x, Tensor)]
    assert not any(field.requires_grad for field in fields)
    arguments = scene.anchors, scene.strides, GAINS
    gradients = torch.autograd.grad(
        sum(detection_losses(scene.levels, found, *arguments)), scene.levels
    )
    # As with the same positives from elsewhere.
    written = Assignment(*(x.clone() if isinstance(x, Tensor) else x for x in found))
    expected = torch.autograd.grad(
        sum(detection_losses(scene.levels, written, *arguments)), scene.levels
    )
    for one, other in zip(gradients, expected):
        assert one.any() and torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [100.0, 30.0])
@pytest.mark.parametrize("classes", [1, 3])
def test_extreme_logits_give_finite_losses(classes, size, dtype):
    """Overlaps of 0 and 1, scores that round to 0 and 1."""
    scene = crowd(classes=classes).as_type(torch.float32)
    for seed in range(5):
        random = torch.Generator().manual_seed(seed)
        levels = [
            ((torch.rand(level.shape, generator=random) > 0.5) * 2 - 1.0) * size
            for level in scene.levels
        ]
        leaves = [level.to(dtype).requires_grad_() for level in levels]
        found = scene._replace(levels=leaves).find()
        number = torch.bincount(found.image, minlength=2)
        assert (number > 0).all()
        losses = detection_losses(leaves, found, scene.anchors, scene.strides, GAINS)
        sum(losses).backward()
        assert all(loss.isfinite() for loss in losses)
        assert all(leaf.grad.isfinite().all() for leaf in leaves)


def test_a_box_without_sides_breaks_nothing():
    scene = flat_scene([[20, 12, 16, 16], [20, 12, 0, 16], [20, 12, 0, 0]])
    assert cells(scene.find()) == [(2, 1, 0)]
    far_off = flat_scene([[20, 12, 16, 16], [-500, 12, 8, 8]])
    assert cells(far_off.find())[0] == (2, 1, 0)
