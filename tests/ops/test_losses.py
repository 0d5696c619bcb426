"""Loss terms against numbers worked out by hand."""

import math

import pytest
import torch

from yolor_d2.ops import LevelTargets, LossGains, detection_losses
from yolor_d2.ops.assign import assign, join_levels
from yolor_d2.ops.losses import binary_cross_entropy, last_of_each, loss_terms

LN2 = math.log(2)
# Zero logits predict the anchor in the middle of the cell. A target twice as wide has IoU 1/2, the
# same centre, and v from the two aspect ratios 2 and 1.
WIDE = (0.5, 0.5, 2.0, 1.0)
V = 4 / math.pi**2 * (math.atan(2) - math.atan(1)) ** 2
WIDE_CIOU = 0.5 - V * V / (1 - 0.5 + V)
# A target four times as high as that prediction, and three times as wide: IoU 1/12.
LARGE = (0.5, 0.5, 3.0, 4.0)
V_LARGE = 4 / math.pi**2 * (math.atan(3 / 4) - math.atan(1)) ** 2
LARGE_CIOU = 1 / 12 - V_LARGE * V_LARGE / (1 - 1 / 12 + V_LARGE)


def positives(*boxes, label=0):
    """Positives of cell (0, 0), anchor 0, image 0."""
    zero = torch.zeros(len(boxes), dtype=torch.int64)
    box = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return LevelTargets(zero, zero, zero, zero, box, zero + label)


def one_cell(num_classes, objectness=0.0):
    """Logits of one level with a single cell."""
    logits = torch.zeros(1, 1, 1, 1, 5 + num_classes)
    logits[..., 4] = objectness
    return logits.requires_grad_()


def losses_of(logits, targets, gains=None):
    """Loss of L levels whose anchor is one cell large."""
    strides = [8 * 2**i for i in range(len(logits))]
    anchors = torch.tensor([[[stride, stride]] for stride in strides], dtype=torch.float32)
    return detection_losses(logits, targets, anchors, strides, gains or LossGains())


def level_losses(logits, targets, anchors, **gains):
    """Unweighted box, objectness and class term of one level."""
    box, (objectness,), classes = loss_terms(
        [logits], join_levels([targets]), anchors[None], LossGains(**gains)
    )
    return box, objectness, classes


def softplus(x):
    return math.log1p(math.exp(x))


def test_cross_entropy_by_hand():
    logits, targets = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.25])
    # -t log p - (1 - t) log(1 - p) = softplus(x) - t x
    expected = (LN2 + softplus(2) - 0.25 * 2) / 2
    assert binary_cross_entropy(logits, targets).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (1.0, LN2 * 0.25 * 0.5**2),  # alpha 0.25, p_t = 0.5
        (0.0, LN2 * 0.75 * 0.5**2),  # alpha 0.75
        (0.5, LN2 * 0.5 * 0.5**2),  # a soft target mixes both
    ],
)
def test_focal_factor_by_hand(target, expected):
    logits, targets = torch.tensor([0.0]), torch.tensor([target])
    loss = binary_cross_entropy(logits, targets, focal_gamma=2.0)
    assert loss.item() == pytest.approx(expected)


def test_last_of_each():
    # 5 is at 0, 2, 3; 7 at 1; 1 at 4.
    order, is_last = last_of_each(torch.tensor([5, 7, 5, 5, 1]))
    assert order[is_last].sort().values.tolist() == [1, 3, 4]
    assert [len(x) for x in last_of_each(torch.zeros(0, dtype=torch.int64))] == [0, 0]


def test_terms_of_one_level_by_hand():
    logits = one_cell(num_classes=2, objectness=2.0)
    box, objectness, classes = level_losses(logits, positives(WIDE), torch.tensor([[1.0, 1.0]]))
    assert box.item() == pytest.approx(1 - WIDE_CIOU, rel=1e-6)
    assert objectness.item() == pytest.approx(softplus(2) - WIDE_CIOU * 2, rel=1e-6)
    assert classes.item() == pytest.approx(LN2)  # zero logits, any hard target


def test_class_targets_are_one_hot():
    logits = torch.zeros(1, 1, 1, 1, 5 + 3)
    logits[..., 5:] = torch.tensor([-1.0, 2.0, -3.0])
    classes = level_losses(logits, positives(WIDE, label=1), torch.ones(1, 2))[2]
    expected = (softplus(-1) + softplus(2) - 2 + softplus(-3)) / 3
    assert classes.item() == pytest.approx(expected)


def test_objectness_target_is_not_below_zero():
    logits = one_cell(num_classes=1, objectness=2.0)
    beside = (5.5, 0.5, 1.0, 1.0)  # no overlap: CIoU is negative
    box, objectness, _ = level_losses(logits, positives(beside), torch.ones(1, 2))
    assert box.item() > 1
    assert objectness.item() == pytest.approx(softplus(2))


def test_objectness_gives_no_gradient_to_the_box():
    logits = one_cell(num_classes=1)
    level_losses(logits, positives(WIDE), torch.ones(1, 2))[1].backward()
    assert logits.grad[..., :4].abs().sum() == 0
    assert logits.grad[..., 4].abs().sum() > 0


@pytest.mark.parametrize(
    ("boxes", "last_ciou"), [((WIDE, LARGE), LARGE_CIOU), ((LARGE, WIDE), WIDE_CIOU)]
)
def test_of_two_boxes_in_one_cell_the_last_sets_objectness_and_both_count(boxes, last_ciou):
    logits = one_cell(num_classes=1, objectness=2.0)
    box, objectness, _ = level_losses(logits, positives(*boxes), torch.ones(1, 2))
    assert objectness.item() == pytest.approx(softplus(2) - 2 * last_ciou, rel=1e-6)
    assert box.item() == pytest.approx(1 - (WIDE_CIOU + LARGE_CIOU) / 2, rel=1e-6)


def test_a_perfect_prediction_costs_nothing():
    logits = one_cell(num_classes=1, objectness=2.0)
    same = (0.5, 0.5, 1.0, 1.0)  # what zero logits predict
    box, objectness, _ = level_losses(logits, positives(same), torch.ones(1, 2))
    assert box.item() == pytest.approx(0, abs=1e-6)
    assert objectness.item() == pytest.approx(softplus(2) - 2, rel=1e-6)  # target 1
    (box + objectness).backward()
    assert logits.grad.isfinite().all()


def test_gains_of_three_levels_by_hand():
    logits = [one_cell(num_classes=2) for _ in range(3)]
    losses = losses_of(logits, [positives(WIDE), positives(), positives(WIDE)])
    assert losses.box.item() == pytest.approx(0.05 * 2 * (1 - WIDE_CIOU), rel=1e-6)
    assert losses.objectness.item() == pytest.approx((4 + 1 + 0.4) * LN2)
    assert losses.classes.item() == pytest.approx(0.5 * 2 / 80 * 2 * LN2)  # K / 80


def test_gains_of_four_levels_by_hand():
    logits = [one_cell(num_classes=80) for _ in range(4)]
    gains = LossGains(box=0.1, objectness=0.7, classes=0.3)
    losses = losses_of(logits, [positives(WIDE), *[positives()] * 3], gains)
    # Every term times 3 / 4; objectness of four and more levels also times 1.4.
    assert losses.box.item() == pytest.approx(0.1 * (1 - WIDE_CIOU) * 3 / 4, rel=1e-6)
    expected = 0.7 * (4 + 1 + 0.4 + 0.1) * LN2 * 3 / 4 * 1.4
    assert losses.objectness.item() == pytest.approx(expected)
    assert losses.classes.item() == pytest.approx(0.3 * LN2 * 3 / 4)


def test_balance_of_five_levels():
    losses = losses_of([one_cell(num_classes=1) for _ in range(5)], [positives()] * 5)
    expected = (4 + 1 + 0.5 + 0.4 + 0.1) * LN2 * 3 / 5 * 1.4
    assert losses.objectness.item() == pytest.approx(expected)


def test_one_class_has_no_class_term():
    losses = losses_of([one_cell(num_classes=1) for _ in range(3)], [positives(WIDE)] * 3)
    assert losses.classes.item() == 0
    assert losses.box.item() > 0


def test_no_positives():
    logits = [one_cell(num_classes=2) for _ in range(3)]
    losses = losses_of(logits, [positives()] * 3)
    assert losses.box.item() == losses.classes.item() == 0
    sum(losses).backward()
    for level in logits:
        assert level.grad.isfinite().all()
        assert level.grad[..., 4].item() > 0  # objectness must fall
        assert level.grad[..., :4].abs().sum() == 0


@pytest.mark.parametrize("focal_gamma", [0.0, 1.5])
def test_gradients_are_finite_at_extreme_logits(focal_gamma):
    logits = [torch.full((1, 1, 1, 1, 7), value) for value in (-80.0, 0.3, 80.0)]
    logits = [level.requires_grad_() for level in logits]
    losses = losses_of(logits, [positives(WIDE)] * 3, LossGains(focal_gamma=focal_gamma))
    sum(losses).backward()
    assert all(level.grad.isfinite().all() for level in logits)


def test_half_precision_logits_give_float32_losses():
    """As float32 logits of the same values do."""
    torch.manual_seed(0)
    half = [torch.randn(1, 1, 1, 1, 7).bfloat16() for _ in range(3)]
    losses = losses_of(half, [positives(WIDE)] * 3)
    expected = losses_of([level.float() for level in half], [positives(WIDE)] * 3)
    for term, expected_term in zip(losses, expected):
        assert term.dtype == torch.float32
        assert torch.equal(term, expected_term)


def test_levels_without_a_published_balance_need_one():
    logits = [one_cell(num_classes=1) for _ in range(2)]
    targets = [positives(), positives()]
    with pytest.raises(ValueError, match=r"LOSS\.BALANCE.*each of 2 levels, got \[\]"):
        losses_of(logits, targets)
    losses = losses_of(logits, targets, LossGains(balance=(4.0, 1.0)))
    assert losses.objectness.item() == pytest.approx((4 + 1) * LN2 * 3 / 2)


def test_losses_do_not_depend_on_the_memory_layout():
    """Under channels_last the logits have other strides."""
    logits = torch.randn(1, 3 * 7, 4, 4, generator=torch.Generator().manual_seed(0))
    targets = LevelTargets(
        *(torch.tensor([v, v]) for v in (0, 1, 2, 3)),
        torch.tensor([[0.5, 0.5, 1.0, 2.0], [0.2, 0.5, 1.0, 1.0]]),
        torch.tensor([0, 1]),
    )
    plain, other = (
        level_losses(
            x.view(1, 3, 7, 4, 4).permute(0, 1, 3, 4, 2)
            if x.is_contiguous()
            else x.unflatten(1, (3, 7)).permute(0, 1, 3, 4, 2),
            targets,
            torch.ones(3, 2),
        )
        for x in (logits, logits.contiguous(memory_format=torch.channels_last))
    )
    assert [a.item() for a in plain] == pytest.approx([b.item() for b in other], rel=1e-6)


def test_label_smoothing_by_hand():
    """One positive with logits 0 for both classes: any target costs log 2; with 2 it shows."""
    logits = torch.zeros(1, 1, 1, 1, 7)
    logits[..., 5] = 2.0
    zero = torch.zeros(1, dtype=torch.long)
    targets = LevelTargets(zero, zero, zero, zero, torch.tensor([[0.5, 0.5, 1.0, 1.0]]), zero)
    smoothing = (0.0, 0.1)
    terms = [
        level_losses(logits, targets, torch.ones(1, 2), label_smoothing=x)[2] for x in smoothing
    ]
    # BCE(2, t) = log(1 + e^2) - 2 t with t = 1 or 0.95; BCE(0, t) = log 2 for the other class.
    soft = math.log(1 + math.exp(2))
    assert terms[0].item() == pytest.approx((soft - 2 + math.log(2)) / 2)
    assert terms[1].item() == pytest.approx((soft - 1.9 + math.log(2)) / 2)


@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_impossible_label_smoothing_is_refused(value):
    with pytest.raises(ValueError, match="LABEL_SMOOTHING"):
        LossGains(label_smoothing=value)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_with_fixed_shapes_other_cells_do_not_reach_the_sums(bad):
    """Every possible match has a row then, also those in cells that half precision has spoiled."""
    arguments = (
        torch.tensor([0]),
        torch.tensor([[17.0, 13.0, 9.0, 8.0]]),
        torch.tensor([1]),
        torch.tensor([[[8.0, 8.0], [80.0, 80.0]]]),
        [8],
        [(4, 4)],
    )
    one, every = (assign(*arguments, fixed_shape=x) for x in (False, True))
    assert 0 < len(one.label) < len(every.label)
    logits = torch.full((1, 2, 4, 4, 7), bad)
    logits[..., 4] = 0.5
    logits[one.image, one.anchor, one.row, one.column] = torch.linspace(-1, 1, 7)
    found, expected = [], []
    for targets, results in ((every, found), (one, expected)):
        level = logits.clone().requires_grad_()
        losses = detection_losses([level], targets, arguments[3], [8], LossGains(balance=(1.0,)))
        sum(losses).backward()
        results += [*(x.detach() for x in losses), level.grad]
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b)
        assert a.isfinite().all()
