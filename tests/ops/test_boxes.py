"""Box formats and overlaps: by hand, against torchvision, and as properties."""

import math

import pytest
import torch
import torchvision.ops as tv
from hypothesis import given, settings
from hypothesis import strategies as st

from yolor_d2.ops import cxcywh_to_xyxy, paired_iou, xyxy_to_cxcywh

PROPERTY = settings(max_examples=100, deadline=None, database=None, derandomize=True)

position = st.floats(-2000, 2000, width=32)
size = st.floats(0.0625, 2000, width=32)
box_cxcywh = st.tuples(position, position, size, size).map(torch.tensor)


def test_formats_by_hand():
    cxcywh = torch.tensor([[10.0, 20.0, 4.0, 8.0]])
    xyxy = torch.tensor([[8.0, 16.0, 12.0, 24.0]])  # 10 -+ 4 / 2, 20 -+ 8 / 2
    assert torch.equal(cxcywh_to_xyxy(cxcywh), xyxy)
    assert torch.equal(xyxy_to_cxcywh(xyxy), cxcywh)


@pytest.mark.parametrize("convert", [cxcywh_to_xyxy, xyxy_to_cxcywh])
def test_formats_keep_leading_axes_and_accept_no_boxes(convert):
    assert convert(torch.zeros(2, 3, 4)).shape == (2, 3, 4)
    assert convert(torch.zeros(0, 4)).shape == (0, 4)


@PROPERTY
@given(box_cxcywh)
def test_format_round_trip(box):
    box = box.double()  # corners of a small box far out need the digits
    torch.testing.assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(box)), box)


def test_overlaps_by_hand():
    a = torch.tensor([[2.0, 2.0, 4.0, 4.0]])  # corners 0, 0, 4, 4
    b = torch.tensor([[4.0, 2.0, 4.0, 2.0]])  # corners 2, 1, 6, 3
    iou = 4 / (16 + 8 - 4)  # the overlap is 2 x 2
    giou = iou - (24 - 20) / 24  # the enclosing box is 6 x 4
    diou = iou - 2**2 / (6**2 + 4**2)  # centres 2 apart, diagonal of the enclosing box
    v = 4 / math.pi**2 * (math.atan(4 / 2) - math.atan(4 / 4)) ** 2
    ciou = diou - v * v / (1 - iou + v)
    for kind, expected in {"iou": iou, "giou": giou, "diou": diou, "ciou": ciou}.items():
        assert paired_iou(a, b, kind).item() == pytest.approx(expected, rel=1e-6), kind


def test_touching_boxes_do_not_overlap():
    a, b = torch.tensor([[1.0, 1.0, 2.0, 2.0]]), torch.tensor([[3.0, 1.0, 2.0, 2.0]])
    assert paired_iou(a, b).item() == 0
    assert paired_iou(a, b, "giou").item() == 0  # the enclosing box holds nothing else


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
def test_a_box_overlaps_itself_fully(kind):
    boxes = torch.tensor([[10.0, 10.0, 4.0, 4.0], [0.5, 0.5, 1.0, 1.0], [300.0, 200.0, 7.0, 90.0]])
    torch.testing.assert_close(paired_iou(boxes, boxes, kind), torch.ones(3))


def test_ciou_of_a_box_with_itself_has_a_finite_gradient():
    boxes = torch.tensor([[0.5, 0.5, 1.0, 1.0]], requires_grad=True)
    paired_iou(boxes, boxes.detach(), "ciou").sum().backward()
    assert boxes.grad.isfinite().all()


def test_gradient_of_ciou_is_that_of_its_formula_with_a_constant_alpha():
    """Against central differences of a formula of its own, in double precision."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(100, 4, generator=generator).double() * 4 + 0.1 for _ in range(2))

    def aspect(boxes: torch.Tensor) -> torch.Tensor:
        return (
            4
            / math.pi**2
            * (torch.atan(b[:, 2] / b[:, 3]) - torch.atan(boxes[:, 2] / boxes[:, 3])) ** 2
        )

    overlap = tv.box_iou(cxcywh_to_xyxy(a), cxcywh_to_xyxy(b)).diagonal()
    alpha = aspect(a) / (1 - overlap + aspect(a))

    def ciou(boxes: torch.Tensor) -> torch.Tensor:
        corners, others = cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(b)
        enclosing = torch.maximum(corners, others)[:, 2:] - torch.minimum(corners, others)[:, :2]
        distance = (boxes - b)[:, :2].square().sum(1) / enclosing.square().sum(1)
        return tv.box_iou(corners, others).diagonal() - distance - alpha * aspect(boxes)

    a.requires_grad_()
    paired_iou(a, b, "ciou").sum().backward()
    step = 1e-6
    for column in range(4):
        change = torch.zeros(4, dtype=torch.float64)
        change[column] = step
        with torch.no_grad():
            slope = (ciou(a + change) - ciou(a - change)) / (2 * step)
        torch.testing.assert_close(a.grad[:, column], slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "pairwise"),
    [
        ("iou", tv.box_iou),
        ("giou", tv.generalized_box_iou),
        ("diou", tv.distance_box_iou),
        ("ciou", tv.complete_box_iou),
    ],
)
def test_overlaps_equal_torchvision(kind, pairwise):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(200, 4, generator=generator) * 4 + 0.1 for _ in range(2))
    expected = pairwise(cxcywh_to_xyxy(a), cxcywh_to_xyxy(b)).diagonal()
    # They differ in the epsilon that keeps quotients finite: 1e-7 there, 1e-9 here.
    torch.testing.assert_close(paired_iou(a, b, kind), expected, rtol=1e-4, atol=1e-5)


@PROPERTY
@given(box_cxcywh, box_cxcywh)
def test_bounds_symmetry_and_order(a, b):
    a, b = a[None].double(), b[None].double()
    iou, giou, diou, ciou = (paired_iou(a, b, kind) for kind in ("iou", "giou", "diou", "ciou"))
    assert 0 <= iou <= 1
    assert iou == paired_iou(b, a)
    assert -1.5 < ciou <= diou <= iou
    assert -1 <= giou <= iou + 1e-6  # the epsilons of union and enclosing area differ


def test_overlaps_of_no_boxes():
    assert paired_iou(torch.zeros(0, 4), torch.zeros(0, 4), "ciou").shape == (0,)


def test_unknown_kind_is_named():
    with pytest.raises(ValueError, match="'siou'"):
        paired_iou(torch.ones(1, 4), torch.ones(1, 4), "siou")
