"""What a student learns from a teacher: by hand, and beside a slow loop in plain numbers."""

import math

import pytest
import torch

from yolor_d2.ops import DistillationGains, LossGains, distillation, distillation_losses
from yolor_d2.ops.distillation import common_levels, nearest_anchors

ONE_LEVEL = LossGains(balance=(2.0,))


def cells(*rows):
    """Logits (1, 1, 1, W, 5 + K) of one anchor."""
    return torch.tensor(rows, dtype=torch.float64)[None, None, None]


def one_level(student, teacher, gains=ONE_LEVEL, teacher_gains=DistillationGains(), size=2.0):
    """Losses where the teacher's anchor has `size` times the sides of the student's."""
    anchors = torch.tensor([[[16.0, 24.0]]], dtype=torch.float64)
    return distillation_losses(
        [student], [teacher], anchors, size * anchors, [8], [8], gains, teacher_gains
    )


def logit(p):
    return math.log(p / (1 - p))


def entropy(target, p):
    return -(target * math.log(p) + (1 - target) * math.log(1 - p))


def test_one_cell_by_hand():
    """The teacher's box is concentric with twice the sides: IoU 1/4, which is also the CIoU."""
    student = cells([0, 0, 0, 0, logit(0.2), logit(0.3), logit(0.6)])
    teacher = cells([0, 0, 0, 0, logit(0.5), logit(0.9), logit(0.2)])
    found = one_level(student, teacher)
    # Less than one whole object: the weight 1/2 is not made 1. Gains 0.05, 1 and 0.5 * 2 / 80, all
    # times 3 / levels.
    assert found.box.item() == pytest.approx(3 * 0.05 * 0.5 * 0.75, abs=1e-7)
    assert found.objectness.item() == pytest.approx(3 * 2.0 * entropy(0.5, 0.2))
    classes = (entropy(0.9, 0.3) + entropy(0.2, 0.6)) / 2
    assert found.classes.item() == pytest.approx(3 * 0.5 * 2 / 80 * 0.5 * classes)


def test_cells_count_by_the_teachers_objectness_and_not_below_the_least():
    """0.9 and 0.6 are together 1.5 objects; 0.04 is none."""
    student = cells(*[[0, 0, 0, 0, 0, logit(p), 0] for p in (0.5, 0.25, 0.01)])
    teacher = cells(*[[0, 0, 0, 0, logit(p), 20, -40] for p in (0.9, 0.6, 0.04)])
    gains = LossGains(box=1.0, classes=1.0, scale_classes=False, balance=(1.0,))
    found = one_level(student, teacher, gains)
    assert found.box.item() == pytest.approx(3 * 0.75, abs=1e-6)
    means = [(-math.log(p) - math.log(0.5)) / 2 for p in (0.5, 0.25)]
    assert found.classes.item() == pytest.approx(3 * (0.9 * means[0] + 0.6 * means[1]) / 1.5)
    more = one_level(student, teacher, gains, DistillationGains(least_objectness=0.03))
    third = (-math.log(0.01) - math.log(0.5)) / 2
    expected = 3 * (0.9 * means[0] + 0.6 * means[1] + 0.04 * third) / 1.54
    assert more.classes.item() == pytest.approx(expected)


def test_each_term_has_its_share():
    student, teacher = torch.randn(2, 1, 3, 4, 7), torch.randn(2, 1, 3, 4, 7)
    whole = one_level(student.double(), teacher.double())
    shares = DistillationGains(box=0.5, objectness=0.0, classes=3.0)
    found = one_level(student.double(), teacher.double(), teacher_gains=shares)
    assert [x.item() for x in found] == pytest.approx(
        [0.5 * whole.box.item(), 0.0, 3 * whole.classes.item()]
    )


def test_a_teacher_that_sees_nothing_teaches_objectness_alone():
    student = torch.randn(1, 1, 2, 2, 7).requires_grad_()
    teacher = torch.full((1, 1, 2, 2, 7), -20.0)
    found = one_level(student, teacher)
    assert found.box == 0 and found.classes == 0 and found.objectness > 0
    sum(found).backward()
    assert not student.grad[..., :4].any() and not student.grad[..., 5:].any()
    assert student.grad[..., 4].all()


def test_a_student_that_agrees_has_nothing_to_learn_and_the_teacher_learns_nothing():
    teacher = torch.randn(1, 1, 4, 4, 8, dtype=torch.float64).requires_grad_()
    student = teacher.detach().clone().requires_grad_()
    found = one_level(student, teacher, size=1.0)
    assert found.box.item() == pytest.approx(0, abs=1e-7)
    sum(found).backward()
    assert teacher.grad is None
    assert student.grad.abs().max() < 1e-7


def test_anchors_are_taught_by_those_of_the_nearest_shape():
    own = torch.tensor([[10.0, 10.0], [20.0, 40.0], [100.0, 10.0], [20.0, 20.0]])
    other = torch.tensor([[40.0, 20.0], [10.0, 20.0], [12.0, 9.0], [10.0, 40.0]])
    # The last one has log 2 + log 1 to the first two and to none less; the first of equals counts.
    assert nearest_anchors(own, other).tolist() == [2, 3, 0, 0]
    assert nearest_anchors(own, own).tolist() == [0, 1, 2, 3]


def test_levels_are_paired_by_their_strides():
    assert common_levels([8, 16, 32], [16, 32, 64]) == [(1, 0), (2, 1)]
    assert common_levels([8], [16]) == []


STRIDES, TEACHER_STRIDES = [8, 16, 32, 64], [4, 8, 32]


def families(num_classes, seed=0, dtype=torch.float64):
    """Two networks without much in common: anchors, levels, and a teacher with a larger canvas."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return 2 * torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    levels = [normal(2, 3, 128 // s, 64 // s, 5 + num_classes) for s in STRIDES]
    others = [normal(2, 2, 160 // s, 96 // s, 5 + num_classes) for s in TEACHER_STRIDES]
    anchors, other_anchors = (
        8 * torch.rand(*shape, 2, generator=generator, dtype=torch.float64).to(dtype) * 8 + 4
        for shape in ((4, 3), (3, 2))
    )
    return levels, others, anchors, other_anchors


def by_loops(levels, others, anchors, other_anchors, least):
    """Unweighted: box, objectness by level, classes; one cell after the other."""
    box, classes, by_level = 0.0, 0.0, [0.0] * len(levels)

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    def decode(row, anchor):
        x, y, w, h = (2 * sigmoid(v) for v in row[:4])
        return x - 0.5, y - 0.5, w * w * anchor[0], h * h * anchor[1]

    def ciou(a, b):
        def corners(box):
            x, y, w, h = box
            return x - w / 2, y - h / 2, x + w / 2, y + h / 2

        (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = corners(a), corners(b)
        wide, high = min(ax2, bx2) - max(ax1, bx1), min(ay2, by2) - max(ay1, by1)
        both = max(wide, 0) * max(high, 0)
        iou = both / (a[2] * a[3] + b[2] * b[3] - both)
        diagonal = (max(ax2, bx2) - min(ax1, bx1)) ** 2 + (max(ay2, by2) - min(ay1, by1)) ** 2
        distance = (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2
        v = 4 / math.pi**2 * (math.atan(a[2] / a[3]) - math.atan(b[2] / b[3])) ** 2
        return iou - distance / diagonal - v * v / (1 - iou + v)

    for i, stride in enumerate(STRIDES):
        if stride not in TEACHER_STRIDES:
            continue
        j = TEACHER_STRIDES.index(stride)
        count, rows = 0, []
        n, num_anchors, height, width, _ = levels[i].shape
        for image in range(n):
            for a in range(num_anchors):
                own = [x / stride for x in anchors[i, a].tolist()]
                candidates = [[x / stride for x in b] for b in other_anchors[j].tolist()]
                distances = [
                    abs(math.log(own[0] / b[0])) + abs(math.log(own[1] / b[1])) for b in candidates
                ]
                best = distances.index(min(distances))
                for y in range(height):
                    for x in range(width):
                        row = levels[i][image, a, y, x].tolist()
                        wanted = others[j][image, best, y, x].tolist()
                        target = sigmoid(wanted[4])
                        by_level[i] += entropy(target, sigmoid(row[4]))
                        count += 1
                        if target >= least:
                            overlap = ciou(decode(row, own), decode(wanted, candidates[best]))
                            right = [
                                entropy(sigmoid(q), sigmoid(p)) for p, q in zip(row[5:], wanted[5:])
                            ]
                            rows.append((target, 1 - overlap, sum(right) / len(right)))
        by_level[i] /= count
        total = max(sum(row[0] for row in rows), 1.0)
        box += sum(row[0] * row[1] for row in rows) / total
        classes += sum(row[0] * row[2] for row in rows) / total
    return box, by_level, classes


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("fixed", [False, True])
def test_across_families_beside_loops(num_classes, fixed, monkeypatch):
    if fixed:  # as on a GPU
        monkeypatch.setattr(distillation, "shapes_may_depend_on_values", lambda x: False)
    levels, others, anchors, other_anchors = families(num_classes)
    gains = LossGains(box=1.0, classes=1.0, scale_classes=False, train_size=640)
    found = distillation_losses(
        *(levels, others, anchors, other_anchors, STRIDES, TEACHER_STRIDES, gains),
        DistillationGains(least_objectness=0.3),
    )
    box, by_level, classes = by_loops(levels, others, anchors, other_anchors, 0.3)
    assert by_level[1] == by_level[3] == 0 and by_level[0] > 0 and by_level[2] > 0
    assert found.box.item() == pytest.approx(3 / 4 * box, rel=1e-6)
    objectness = 4.0 * by_level[0] + 0.4 * by_level[2]
    assert found.objectness.item() == pytest.approx(3 / 4 * objectness)
    assert found.classes.item() == pytest.approx(0 if num_classes == 1 else 3 / 4 * classes)


def test_fixed_shapes_give_the_same_losses_and_gradients_whatever_other_cells_hold(monkeypatch):
    def compute(fixed):
        levels, others, anchors, other_anchors = families(3, dtype=torch.float32)
        levels[0].requires_grad_()
        # Sees nothing here, and the rest of its row is no number.
        others[1][0, :, 2, 3, 4] = -30.0
        others[1][0, :, 2, 3, :4], others[1][0, :, 2, 3, 5:] = math.nan, math.inf
        monkeypatch.setattr(distillation, "shapes_may_depend_on_values", lambda x: not fixed)
        found = distillation_losses(
            levels, others, anchors, other_anchors, STRIDES, TEACHER_STRIDES
        )
        sum(found).backward()
        return torch.stack(list(found)), levels[0].grad

    (rows, rows_grad), (fixed, fixed_grad) = compute(False), compute(True)
    assert rows.isfinite().all() and rows_grad.isfinite().all()
    torch.testing.assert_close(rows, fixed)
    torch.testing.assert_close(rows_grad, fixed_grad)


@pytest.mark.heavy
def test_it_is_one_graph():
    levels, others, anchors, other_anchors = families(3, dtype=torch.float32)
    arguments = (levels, others, anchors, other_anchors, STRIDES, TEACHER_STRIDES)
    found = torch.compile(distillation_losses, fullgraph=True, backend="eager")(*arguments)
    for loss, expected in zip(found, distillation_losses(*arguments)):
        torch.testing.assert_close(loss, expected)


def test_half_precision_is_summed_in_float32():
    levels, others, anchors, other_anchors = families(3, dtype=torch.float32)
    arguments = (anchors, other_anchors, STRIDES, TEACHER_STRIDES)
    half = distillation_losses(
        [x.bfloat16() for x in levels], [x.bfloat16() for x in others], *arguments
    )
    rounded = distillation_losses(
        [x.bfloat16().float() for x in levels], [x.bfloat16().float() for x in others], *arguments
    )
    for loss, expected in zip(half, rounded):
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected)


def test_what_cannot_be_compared_is_refused():
    anchors = torch.ones(1, 1, 2)
    three, four = torch.zeros(1, 1, 2, 2, 8), torch.zeros(1, 1, 2, 2, 9)
    with pytest.raises(ValueError, match=r"student has 3 classes, the teacher .*TEACHER\) 4"):
        distillation_losses([three], [four], anchors, anchors, [8], [8], ONE_LEVEL)
    with pytest.raises(ValueError, match=r"no level is common.*\[8\].*TEACHER\.CONFIG\) \[16\]"):
        distillation_losses([three], [three], anchors, anchors, [8], [16], ONE_LEVEL)


@pytest.mark.parametrize(
    ("name", "value"),
    [("box", -1.0), ("objectness", math.inf), ("classes", math.nan), ("least_objectness", 1.0)],
)
def test_gains_that_make_no_sense_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"MODEL\.YOLOR\.TEACHER\.{name.upper()} is {value}"):
        DistillationGains(**{name: value})
