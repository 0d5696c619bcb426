"""The branch of masks: its loss on numbers written out by hand, and from rows to masks."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from yolor_d2.layers import FORM_D, Implicit
from yolor_d2.networks import TaskBranches
from yolor_d2.networks.branches import MaskBranch
from yolor_d2.networks.branches import masks as tasks_masks
from yolor_d2.networks.branches.branch import DetectedBoxes
from yolor_d2.networks.branches.masks import (
    MaskOutput,
    choose_rows,
    coefficients_of_rows,
    crop_corners,
    mask_loss,
)
from yolor_d2.ops import decode
from yolor_d2.ops.assign import assign
from yolor_d2.ops.padding import ImageView
from yolor_d2.ops.truth import Truth

WIDTHS, STRIDES, SIZE = [8, 12], [8, 16], 64
ANCHORS = torch.tensor([[[8.0, 8.0], [16.0, 16.0]], [[24.0, 24.0], [40.0, 40.0]]])


def build(**options):
    torch.manual_seed(1)
    given = {"strides": STRIDES, "num_anchors": 2, "coefficients": 3, "form": FORM_D, **options}
    return MaskBranch(WIDTHS, **given)


def features(seed=0):
    torch.manual_seed(seed)
    return [torch.randn(2, c, SIZE // s, SIZE // s) for c, s in zip(WIDTHS, STRIDES)]


def truth_of(boxes, image, masks):
    boxes = torch.tensor(boxes).reshape(-1, 4)
    image = torch.tensor(image, dtype=torch.int64)
    valid = torch.ones(len(boxes), dtype=torch.bool)
    return Truth(image, boxes, torch.zeros_like(image), valid, image[None], {"masks": masks})


def assign_to(truth, fixed_shape=False):
    sizes = [(SIZE // s, SIZE // s) for s in STRIDES]
    found = (truth.image, truth.boxes, truth.labels, ANCHORS, STRIDES, sizes)
    return assign(*found, fixed_shape=fixed_shape)


# ---- The network


def test_shapes_and_width():
    branch = build()
    assert branch.reduce.conv.out_channels == 2  # a quarter of 8
    branches = TaskBranches({"masks": build(channels=5)})
    _, outputs = branches(features(), [], None)
    coefficients, prototypes = outputs["masks"]
    assert [tuple(x.shape) for x in coefficients] == [(2, 2, 8, 8, 3), (2, 2, 4, 4, 3)]
    assert prototypes.shape == (2, 3, 16, 16)


@pytest.mark.parametrize(("strides", "scale"), [([4, 8], 1), ([16, 32], 4)])
def test_prototypes_have_stride_4_in_any_network(strides, scale):
    branch = build(strides=strides)
    assert branch(features(), None).prototypes.shape[2:] == (8 * scale, 8 * scale)
    with pytest.raises(ValueError, match="stride 2, expected a multiple of 4"):
        build(strides=[2, 4])


@pytest.mark.parametrize("words", ["add", "mul network tanh", "none, add factorization"])
def test_implicit_knowledge_on_the_coefficients_is_applied_and_learns(words):
    branch = build(implicit=words).train()
    added = [x for x in branch.refine if isinstance(x, Implicit)]
    assert len(added) == (1 if "," in words else 2)
    before = [x.detach().clone() for x in branch(features(), None).coefficients]
    output = branch(features(), None)
    sum((x * torch.randn_like(x)).sum() for x in output.coefficients).backward()
    assert all(z.grad.abs().sum() > 0 for x in added for z in x.parameters())
    with torch.no_grad():
        for module in added:
            for parameter in module.parameters():
                parameter += 1
    changed = [not torch.equal(x, y) for x, y in zip(before, branch(features(), None).coefficients)]
    assert changed == [isinstance(x, Implicit) for x in branch.refine]


def test_words_that_widen_are_refused():
    with pytest.raises(ValueError, match="concat"):
        build(implicit="concat")


# ---- The loss


def test_the_pixels_of_a_box():
    boxes = torch.tensor(
        [
            [8.0, 8.0, 8.0, 8.0],  # from 4 to 12: pixels 1 and 2
            [9.0, 8.0, 8.0, 7.9],  # 5 to 13, 4.05 to 11.95: touches pixel 3
            [8.0, 8.0, 0.0, 0.0],  # a point on the border of two pixels
            [63.9, 0.0, 0.1, 0.1],  # in the corner
            [32.0, 32.0, 640.0, 640.0],
        ]
    )
    expected = [[1, 1, 3, 3], [1, 1, 4, 3], [2, 2, 3, 3], [15, 0, 16, 1], [0, 0, 16, 16]]
    assert crop_corners(boxes, (16, 16)).tolist() == expected


def test_the_loss_by_hand():
    # Prototypes of two pixels in a row; the first row of coefficients sees 2 and 0 with the box
    # around both, the second -1 with the box around the left pixel alone.
    prototypes = torch.tensor([[[[1.0, 0.0]]], [[[1.0, 5.0]]]])  # N = 2, C = 1
    coefficients = torch.tensor([[[2.0]], [[-1.0]]])
    masks = torch.tensor([[[1, 1]], [[0, 1]]], dtype=torch.uint8)
    corners = torch.tensor([[0, 0, 2, 1], [0, 0, 1, 1]])
    weight = torch.tensor([[1.0], [0.5]])
    number = torch.tensor([[0], [1]])
    first = (math.log(1 + math.exp(-2)) + math.log(2)) / 2
    second = math.log(1 + math.exp(-1))
    loss = mask_loss(coefficients, prototypes, masks, number, corners, weight)
    assert loss.item() == pytest.approx(first + 0.5 * second)


def reference(coefficients, prototypes, masks, number, corners, weight):
    """Row by row, by PyTorch's own cross entropy and autograd."""
    total = 0.0 * (coefficients.sum() + prototypes.sum())
    for image, slot in weight.nonzero().tolist():
        one = number[image, slot]
        x1, y1, x2, y2 = corners[one].tolist()
        logits = (coefficients[image, slot][:, None, None] * prototypes[image]).sum(dim=0)
        wanted = masks[one, y1:y2, x1:x2].to(logits.dtype)
        mean = F.binary_cross_entropy_with_logits(logits[y1:y2, x1:x2], wanted)
        total = total + weight[image, slot] * mean
    return total


def random_loss(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(shape, generator=generator, dtype=dtype)

    boxes = torch.cat([rand(5, 2) * 32, rand(5, 2) * 20], dim=1)
    inputs = [(rand(2, 7, 3) * 4 - 2).requires_grad_(), (rand(2, 3, 8, 8) * 4 - 2).requires_grad_()]
    masks = (rand(5, 8, 8) < 0.5).byte()
    number = torch.randint(5, (2, 7), generator=generator)
    weight = rand(2, 7) * (rand(2, 7) < 0.7)
    return [*inputs, masks, number, crop_corners(boxes, (8, 8)), weight]


@pytest.mark.parametrize("by_object", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradients_are_those_of_plain_autograd(monkeypatch, by_object, seed):
    monkeypatch.setattr(tasks_masks, "shapes_may_depend_on_values", lambda x: by_object)
    given = random_loss(seed)
    loss = mask_loss(*given)
    found = [loss, *torch.autograd.grad(3 * loss, given[:2])]
    loss = reference(*given)
    expected = [loss, *torch.autograd.grad(3 * loss, given[:2])]
    torch.testing.assert_close(found, expected)


def test_half_precision_is_computed_in_float32():
    given = random_loss(0)
    rounded = [x.detach().bfloat16().requires_grad_() for x in given[:2]]
    with torch.autocast("cpu", torch.bfloat16):
        loss = mask_loss(*rounded, *given[2:])
    assert loss.dtype == torch.float32
    expected = mask_loss(*(x.float() for x in rounded), *given[2:])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert [x.dtype for x in torch.autograd.grad(loss, rounded)] == [torch.bfloat16] * 2
    extreme = [x.detach() * 1e4 for x in given[:2]]
    assert mask_loss(*extreme, *given[2:]).isfinite()


def test_weights_are_means_over_positives_and_images_and_sums_over_levels():
    """As the authors' loss has it; objects without a mask are left out of the means."""
    masks = torch.zeros(3, 16, 16, dtype=torch.uint8)
    masks[0, 2:6, 2:6], masks[2, 4:8, 4:8] = 1, 1  # none of object 1
    boxes = [[16.0, 16, 12, 12], [40.0, 40, 12, 12], [24.0, 24, 20, 20]]
    truth = truth_of(boxes, [0, 0, 1], masks)
    targets = assign_to(truth)
    branch = build(gain=0.5)
    output = branch(features(), None)
    total = 0.0
    for image, number in ((0, 0), (1, 2)):
        for level in range(2):
            rows = ((targets.number == number) & (targets.level == level)).nonzero()[:, 0]
            assert len(rows)
            entropies = []
            for row in rows.tolist():
                place = [
                    x[row] for x in (targets.image, targets.anchor, targets.row, targets.column)
                ]
                mix = output.coefficients[level][tuple(place)]
                logits = torch.einsum("c,chw->hw", mix, output.prototypes[image])
                x1, y1, x2, y2 = crop_corners(truth.boxes, (16, 16))[number].tolist()
                wanted = masks[number].float()
                entropies.append(
                    F.binary_cross_entropy_with_logits(
                        logits[y1:y2, x1:x2], wanted[y1:y2, x1:x2]
                    ).item()
                )
            total += sum(entropies) / len(entropies) / 2  # two images
    losses = branch.losses(output, truth, targets)
    assert list(losses) == ["loss_masks"]
    assert losses["loss_masks"].item() == pytest.approx(0.5 * total, rel=1e-5)


@pytest.mark.parametrize("most", [1, 4, 9, 256])
def test_of_many_positives_some_at_even_distances_are_chosen(most):
    masks = torch.ones(12, 16, 16, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    boxes = torch.cat([torch.rand(12, 2, generator=generator) * 60, torch.full((12, 2), 14.0)], 1)
    truth = truth_of(boxes.tolist(), [0] * 10 + [2] * 2, masks)
    fixed, free = (assign_to(truth, fixed_shape=x) for x in (True, False))
    known = torch.ones(12, dtype=torch.bool)
    chosen = choose_rows(known[free.number], free, 3, most)
    counts = torch.bincount(free.image, minlength=3).tolist()
    assert (chosen.weight > 0).sum(dim=1).tolist() == [min(x, most) for x in counts]
    assert chosen.weight[1].tolist() == [0] * most
    for image in (0, 2):
        rows = (free.image == image).nonzero()[:, 0]
        ranks = [i * max(len(rows), most) // most for i in range(min(most, len(rows)))]
        used = chosen.row[image, : len(ranks)]
        assert used.tolist() == rows[ranks].tolist()
    # Levels have equal parts of their images, or nothing.
    levels = free.level[chosen.row[0]][chosen.weight[0] > 0]
    sums = torch.zeros(2).index_add(0, levels, chosen.weight[0][chosen.weight[0] > 0])
    assert all(x == pytest.approx(1 / 3) for x in sums.tolist() if x)
    # With a row for every possible match the same ones are chosen, in the same order.
    other = choose_rows(known[fixed.number] & fixed.valid, fixed, 3, most)
    torch.testing.assert_close(other.weight, chosen.weight)
    counted = chosen.weight > 0
    for name in ("image", "anchor", "row", "column", "number", "level"):
        one, two = getattr(free, name)[chosen.row], getattr(fixed, name)[other.row]
        assert torch.equal(one[counted], two[counted])


@pytest.mark.parametrize("masks", [0, 1], ids=["no masks", "masks"])
@pytest.mark.parametrize("boxes", [[], [[20.0, 20, 14, 14]]], ids=["no boxes", "a box"])
def test_every_step_reaches_every_parameter(masks, boxes):
    branch = build(implicit="mul")
    truth = truth_of(boxes, [0] * len(boxes), torch.full((len(boxes), 16, 16), masks).byte())
    loss = branch.losses(branch(features(), None), truth, assign_to(truth))["loss_masks"]
    assert loss.isfinite() and (loss.item() > 0) == bool(masks and boxes)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in branch.parameters())
    assert any(p.grad.any() for p in branch.parameters()) == bool(masks and boxes)


# ---- From rows to masks


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.lists(st.tuples(*2 * [st.integers(1, 4)]), min_size=1, max_size=3))
def test_a_row_gets_the_coefficients_of_its_anchor_and_cell(num_anchors, sizes):
    """The coefficients are the box itself, which the rows have too."""
    strides = [8 * 2**i for i in range(len(sizes))]
    torch.manual_seed(0)
    levels = [torch.randn(1, num_anchors, h, w, 6) for h, w in sizes]
    anchors = torch.rand(len(sizes), num_anchors, 2) + 1
    rows = decode(levels, anchors, strides)[0]
    order = torch.randperm(len(rows))
    found = coefficients_of_rows([x[0, ..., 4:].sigmoid() for x in levels], order)
    torch.testing.assert_close(found, rows[order, 4:])


@pytest.mark.parametrize("factor", [(1.0, 1.0), (2.5, 2.5), (0.5, 0.25)])
def test_masks_are_those_of_the_whole_canvas(factor):
    """A crop of the prototypes around a box gives what all of them give."""
    torch.manual_seed(3)
    maps = F.interpolate(torch.randn(2, 5, 4, 4), size=(16, 16), mode="bilinear")
    coefficients = [torch.randn(2, 2, 8, 8, 5), torch.randn(2, 2, 4, 4, 5)]
    view = ImageView((6.0, 2.0), factor, (int(56 * factor[1]), int(50 * factor[0])))
    corners = torch.tensor([[0.0, 0, 50, 56], [10.3, 12.7, 30.1, 40.9], [49.5, 55, 50, 56]])
    boxes = corners * torch.tensor(factor * 2)
    rows = torch.tensor([3, 150, 77])
    output = MaskOutput(coefficients, maps)
    found = build().decode(output, 1, DetectedBoxes(rows, boxes, view))
    assert found.shape == (3, *view.size)
    mix = coefficients_of_rows([x[1] for x in coefficients], rows)
    logits = torch.einsum("dc,chw->dhw", mix, maps[1])
    height, width = view.size
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    places = view.to_canvas(torch.stack([x, y], dim=2)) / 64 * 2 - 1
    sampled = F.grid_sample(
        logits[:, None], places.expand(3, -1, -1, -1), padding_mode="border", align_corners=False
    )[:, 0]
    for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        inside = (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
        assert found[i][~inside].sum() == 0
        clear = inside & (sampled[i].abs() > 1e-4)
        assert torch.equal(found[i][clear], sampled[i][clear] > 0)
        assert i == 2 or 0 < found[i].sum() < inside.sum()


def test_what_exported_files_hold_gives_the_same_masks():
    torch.manual_seed(0)
    branch = build().eval()
    output = branch(features(), None)
    view = ImageView((0.0, 0.0), (1.0, 1.0), (SIZE, SIZE))
    boxes = torch.tensor([[0.0, 0, 64, 64], [3.5, 8, 40, 33]])
    found = DetectedBoxes(torch.tensor([130, 9]), boxes, view)
    expected = branch.decode(output, 1, found).tensor
    names = [x.name for x in branch.file_outputs()]
    tensors = {name: x[1].detach() for name, x in zip(names, branch.export(output))}
    assert tensors["mask_coefficients"].shape == (2 * (64 + 16), 3)
    tensors["mask_coefficients"] = tensors["mask_coefficients"][found.rows]
    assert torch.equal(branch.masks_of(tensors, found).tensor, expected) and expected.any()
