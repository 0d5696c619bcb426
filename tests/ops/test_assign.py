"""Assignment: cells by hand, borders, the ratio limit, and a slow search over every cell."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolor_d2.ops import assign_targets
from yolor_d2.ops.assign import assign_level

PROPERTY = settings(max_examples=100, deadline=None, database=None, derandomize=True)

ONE_ANCHOR = torch.tensor([[2.0, 2.0]])


def assign_one(cx, cy, width=2.0, height=2.0, anchors=ONE_ANCHOR, grid_size=(8, 10)):
    """Assign one box in cells on a grid of 8 rows and 10 columns."""
    box = torch.tensor([[cx, cy, width, height]])
    return assign_level(torch.tensor([0]), box, torch.tensor([7]), anchors, grid_size)


def cells(targets):
    """(column, row) of every positive, in order."""
    return list(zip(targets.column.tolist(), targets.row.tolist()))


def test_own_cell_and_the_two_nearest_neighbours():
    # First half of the cell across, second half down: left and down.
    targets = assign_one(4.25, 3.75)
    assert cells(targets) == [(4, 3), (3, 3), (4, 4)]
    # Centres are relative to each cell: (4.25, 3.75) minus the cell.
    expected = [[0.25, 0.75, 2, 2], [1.25, 0.75, 2, 2], [0.25, -0.25, 2, 2]]
    assert targets.box.tolist() == expected
    assert targets.label.tolist() == [7, 7, 7]
    # Second half across, first half down: up comes before right.
    assert cells(assign_one(4.75, 3.25)) == [(4, 3), (4, 2), (5, 3)]


def test_the_middle_of_a_cell_has_no_neighbours():
    assert cells(assign_one(4.5, 3.5)) == [(4, 3)]


def test_an_axis_on_a_cell_border_counts_its_own_cell_twice():
    # Integer centre: left gives the cell before, "right" rounds back to the own cell. The recorded
    # numbers of the reference have this repeated row.
    assert cells(assign_one(4.0, 3.5)) == [(4, 3), (3, 3), (4, 3)]


def test_there_is_no_neighbour_outside_the_grid():
    assert cells(assign_one(0.25, 0.25)) == [(0, 0)]
    assert cells(assign_one(9.75, 7.75)) == [(9, 7)]


def test_a_centre_on_the_far_border_belongs_to_the_last_cell():
    targets = assign_one(10.0, 8.0)
    assert set(cells(targets)) == {(9, 7)}
    assert targets.box[0].tolist() == [1, 1, 2, 2]


def test_sides_must_differ_by_less_than_the_factor():
    assert len(assign_one(4.5, 3.5, width=8.0).label) == 0  # exactly 4 times the anchor
    assert len(assign_one(4.5, 3.5, width=0.5).label) == 0  # exactly a quarter
    assert len(assign_one(4.5, 3.5, height=8.0).label) == 0  # one bad side suffices
    assert len(assign_one(4.5, 3.5, width=7.99, height=0.51).label) == 1


def test_a_box_may_match_several_anchors():
    anchors = torch.tensor([[2.0, 2.0], [100.0, 100.0], [4.0, 1.0]])
    assert assign_one(4.5, 3.5, anchors=anchors).anchor.tolist() == [0, 2]


def test_rows_are_ordered_by_neighbour_then_anchor_then_box():
    boxes = torch.tensor([[1.25, 1.5, 2.0, 2.0], [5.25, 1.5, 2.0, 2.0]])
    anchors = torch.tensor([[2.0, 2.0], [3.0, 3.0]])
    targets = assign_level(torch.tensor([0, 1]), boxes, torch.tensor([3, 4]), anchors, (8, 10))
    assert targets.column.tolist() == [1, 5, 1, 5, 0, 4, 0, 4]  # four own cells, then the left ones
    assert targets.anchor.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert targets.image.tolist() == [0, 1] * 4
    assert targets.label.tolist() == [3, 4] * 4


def test_no_boxes():
    nothing = torch.zeros(0, dtype=torch.int64)
    targets = assign_level(nothing, torch.zeros(0, 4), nothing, ONE_ANCHOR, (8, 10))
    assert [len(field) for field in targets] == [0] * 6
    assert targets.box.shape == (0, 4)
    assert targets.image.dtype == targets.row.dtype == targets.label.dtype == torch.int64


def test_levels_divide_by_their_stride():
    box = torch.tensor([[100.0, 52.0, 16.0, 16.0]])  # 12.5, 6.5 cells of 8; 6.25, 3.25 of 16
    zero = torch.tensor([0])
    anchors = torch.tensor([[[16.0, 16.0]], [[20.0, 20.0]]])
    fine, coarse = assign_targets(zero, box, zero, anchors, [8, 16], [(16, 32), (8, 16)])
    assert cells(fine) == [(12, 6)]
    assert fine.box.tolist() == [[0.5, 0.5, 2, 2]]
    assert cells(coarse) == [(6, 3), (5, 3), (6, 2)]
    assert coarse.box[0].tolist() == [0.25, 0.25, 1, 1]


def slow_assign(boxes, anchors, grid_size):
    """Search every cell for every box: its own one, and those less than 1 from it on one axis."""
    height, width = grid_size
    found = set()
    for m, (cx, cy, w, h) in enumerate(boxes.tolist()):
        for a, (aw, ah) in enumerate(anchors.tolist()):
            if max(w / aw, aw / w, h / ah, ah / h) >= 4:
                continue
            for row in range(height):
                for column in range(width):
                    across, down = abs(cx - column - 0.5), abs(cy - row - 0.5)
                    if min(across, down) < 0.5 and max(across, down) < 1:
                        found.add((m, a, row, column))
    return found


def random_boxes(count):
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([10.0, 8.0, 9.0, 9.0])  # a grid of 8 rows and 10 columns
    return torch.rand(count, 4, generator=generator) * scale + torch.tensor([0, 0, 0.1, 0.1])


def test_equals_a_slow_search():
    boxes = random_boxes(60)
    boxes = boxes[(boxes[:, 0] < 10) & (boxes[:, 1] < 8)]
    anchors = torch.tensor([[1.0, 1.0], [2.0, 5.0], [6.0, 3.0]])
    number = torch.arange(len(boxes))
    targets = assign_level(number, boxes, number, anchors, (8, 10))
    rows = torch.stack([targets.image, targets.anchor, targets.row, targets.column], dim=1)
    found = [tuple(row) for row in rows.tolist()]
    assert len(found) == len(set(found))
    assert set(found) == slow_assign(boxes, anchors, (8, 10))


def test_more_than_a_thousand_boxes_are_kept():
    boxes = random_boxes(1500)
    boxes[:, 2:] = 2.0  # every box fits the anchor
    number = torch.arange(1500)
    targets = assign_level(number * 0, boxes, number, ONE_ANCHOR, (8, 10))
    assert set(targets.label.tolist()) == set(range(1500))


@PROPERTY
@given(
    cx=st.floats(0, 10, width=32),
    cy=st.floats(0, 8, width=32),
    width=st.floats(0.125, 100, width=32),
    height=st.floats(0.125, 100, width=32),
)
def test_positives_lie_in_the_grid_and_within_reach_of_the_decoder(cx, cy, width, height):
    targets = assign_one(cx, cy, width, height)
    assert ((targets.column >= 0) & (targets.column < 10)).all()
    assert ((targets.row >= 0) & (targets.row < 8)).all()
    # Decoded centres are in (-0.5, 1.5): less than 1 from the middle of the cell on each axis.
    assert ((targets.box[:, :2] - 0.5).abs() < 1).all()
    assert len(targets.label) <= 5
    # Each positive describes the same box.
    corner = torch.stack([targets.column, targets.row], dim=1)
    restored = targets.box + torch.cat([corner, torch.zeros_like(corner)], dim=1)
    expected = torch.tensor([[cx, cy, width, height]]).expand_as(restored)
    torch.testing.assert_close(restored, expected, atol=1e-5, rtol=1e-5)
